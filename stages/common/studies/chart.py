"""The curve: accuracy against what each point costs, one line for each method and precision."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.reporting.style import GREY, IN_HOUSE_STYLE, MARKERS, colour, new_figure

# Columns of a row, and what makes of them the unit of the axis.
COSTS = {
    "latency_ms_median": ("Latency in OpenCV DNN (ms)", 1),
    "size_bytes": ("Size of the file (KB, 1000 bytes)", 1e-3),
    "macs": ("Multiply-accumulates (M)", 1e-6),
}
VARIANTS = {"pruned": "FP32", "pruned_int8": "INT8"}


@IN_HOUSE_STYLE
def study_chart(rows: list[dict[str, str]], note: str) -> Figure:
    """``rows`` as ``stages.tools.study`` writes them; the last point of a line bears its amount."""
    figure, panels = new_figure(
        "Pruning in shares of MACs: what each point buys and costs", note, columns=3
    )
    lines = lines_of(rows)
    for panel, (column, (label, unit)) in zip(panels, COSTS.items(), strict=True):
        for index, (name, points) in enumerate(lines.items()):
            draw_line(panel, name, points, column, unit, index)
        draw_base(panel, rows, column, unit)
        panel.set(xlabel=label, xlim=(0, None))
    panels[0].set(ylabel="Accuracy on the test images (%)")
    panels[1].set_title(" ", pad=14)  # room for the legend, which is wider than its panel
    legend = panels[1].legend(
        loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=len(lines) + 1, columnspacing=1,
        handletextpad=0.3,
    )  # fmt: skip
    legend.set_in_layout(False)
    return figure


def lines_of(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The points of every method and precision, by their name, in the order of the amount."""
    lines: dict[str, list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: float(row["prune.amount"])):
        if row["variant"] in VARIANTS:
            name = f"{row['prune.method']}, {VARIANTS[row['variant']]}"
            lines.setdefault(name, []).append(row)
    return dict(sorted(lines.items()))


def draw_line(
    axes: Axes, name: str, points: list[dict[str, str]], column: str, unit: float, index: int
) -> None:
    xs = [float(row[column]) * unit for row in points]
    ys = [float(row["accuracy"]) for row in points]
    axes.plot(
        xs, ys, MARKERS[index], linestyle="-", color=colour(index), markersize=5, linewidth=1,
        alpha=0.85, label=name,
    )  # fmt: skip
    height = -9 if index % 2 else 3  # FP32 and INT8 of a method may end in one point
    axes.annotate(
        points[-1]["prune.amount"], (xs[-1], ys[-1]), (4, height),
        textcoords="offset points", fontsize=7, color=GREY,
    )  # fmt: skip


def draw_base(axes: Axes, rows: list[dict[str, str]], column: str, unit: float) -> None:
    base = next(row for row in rows if row["variant"] == "base")
    axes.plot(
        float(base[column]) * unit, float(base["accuracy"]), "*", color="black", markersize=11,
        linestyle="none", label="base, FP32",
    )  # fmt: skip

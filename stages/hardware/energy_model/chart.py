"""The estimated energy of one inference as bars: arithmetic, activations, weights."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.reporting.style import GREY, IN_HOUSE_STYLE, colour, new_figure

PARTS = ("arithmetic", "activations (SRAM)", "weights")
TITLES = {
    "streamed": "Every weight from DRAM",
    "resident": "Weights stay on chip as far as they fit",
}


@IN_HOUSE_STYLE
def energy_chart(spent: dict[str, dict[str, dict]], note: str) -> Figure:
    """``spent``: the rows of ``table.rows_of`` by memory ("streamed", "resident"), in µJ."""
    note += "; bars: the lower energy of DRAM, black mark: the total with the higher one"
    figure, panels = new_figure("Energy of one inference, estimated", note, columns=len(spent))
    highest = max(row["total_uj_high"] for rows in spent.values() for row in rows.values())
    for panel, (memory, rows) in zip(panels, spent.items(), strict=True):
        draw_rows(panel, rows)
        panel.set(title=TITLES[memory], xlabel="microjoules", xlim=(0, 1.3 * highest))
    for panel in panels[1:]:
        panel.tick_params(labelleft=False)
    panels[0].legend(loc="lower right")
    return figure


def draw_rows(axes: Axes, rows: dict[str, dict]) -> None:
    """One stacked bar for each row, from the top down."""
    for place, row in enumerate(rows.values()):
        parts = (row["arithmetic_uj"], row["activations_uj"], row["weights_uj_low"])
        left = 0.0
        for index, (label, part) in enumerate(zip(PARTS, parts, strict=True)):
            axes.barh(
                place, part, 0.7, left, color=colour(index), label=None if place else label
            )  # fmt: skip
            left += part
        high = row["total_uj_high"]
        axes.plot(high, place, "|", color="black", markersize=14, markeredgewidth=1.5)
        axes.annotate(
            " – ".join(dict.fromkeys(f"{end:,.0f}" for end in (left, high))), (high, place), (5, 0),
            textcoords="offset points", va="center", fontsize=8, color=GREY,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [name.replace(", ", "\n") for name in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)

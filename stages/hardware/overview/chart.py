"""The page's picture: a row a platform, a panel a quantity, a line at 1 for its reference."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.reporting.style import DPI, GREY, IN_HOUSE_STYLE, colour
from stages.hardware.overview.quantities import PLATFORMS, VARIANTS, Quantity

LIMIT = 1.3  # end of the axis, in multiples of the reference


@IN_HOUSE_STYLE
def hardware_chart(quantities: list[Quantity], note: str) -> Figure:
    rows = [
        [quantity for quantity in quantities if quantity.platform == platform]
        for platform in PLATFORMS
    ]
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3.1 * columns, 2.5 * len(rows)), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    figure.suptitle(
        "What pruning and INT8 buy, as multiples of base (shorter is better)",
        fontsize=14, fontweight="bold",
    )  # fmt: skip
    figure.supxlabel(textwrap.fill(note, width=50 * columns), fontsize=8, color=GREY)
    for platform, row, axes in zip(PLATFORMS, rows, panels, strict=True):
        for index, panel in enumerate(axes):
            if index < len(row):
                draw(panel, row[index])
            else:
                panel.set_axis_off()
            if index:
                panel.tick_params(labelleft=False)
        axes[0].set_ylabel(platform, fontsize=14, fontweight="bold")
    return figure


def draw(axes: Axes, quantity: Quantity) -> None:
    """One bar a variant, from the top down; a dash where there is no figure."""
    for place, name in enumerate(VARIANTS):
        if name not in quantity.values:
            axes.text(0.02, place, "–", va="center", color=GREY)
            continue
        ratio = quantity.ratio(name)
        axes.barh(place, min(ratio, LIMIT), 0.75, color=colour(place))
        axes.annotate(
            quantity.shown(name), (min(ratio, LIMIT), place), (3, 0), textcoords="offset points",
            va="center", fontsize=8, color=GREY,
        )  # fmt: skip
    axes.axvline(1, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(VARIANTS)), list(VARIANTS.values()), fontsize=8)
    axes.set_ylim(len(VARIANTS) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, LIMIT))
    axes.set_title(textwrap.fill(f"{quantity.name} ({quantity.found})", 30), fontsize=9)

"""Pruning beside its controls: a dot for each seed, a bar at each arm's mean."""

import statistics

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.common.reporting.style import GREY, IN_HOUSE_STYLE, MARKERS, colour, new_figure

SPREAD = 0.3  # width over which an arm's dots are spread; arms are 1 apart


@IN_HOUSE_STYLE
def controls_chart(accuracies: dict[str, list[float]], note: str) -> Figure:
    """``accuracies`` in percent, by arm, position i of all arms being of the same seed."""
    figure, [axes] = new_figure("Pruning beside its alternatives, at equal epochs", note, 1)
    for place, (arm, values) in enumerate(accuracies.items()):
        offsets = [SPREAD * (index / (len(values) - 1) - 0.5) for index in range(len(values))]
        axes.plot(
            [place + offset for offset in offsets], values, MARKERS[place % len(MARKERS)],
            color=colour(place), markersize=6, alpha=0.85, label=arm,
        )  # fmt: skip
        mean = statistics.mean(values)
        axes.hlines(mean, place - SPREAD, place + SPREAD, color=colour(place), linewidth=2)
        axes.annotate(
            f"{mean:.2f} %", (place + SPREAD, mean), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_title(
        "a dot for each seed, a bar at the mean; the axis is a close-up that does not start at 0",
        color=GREY,
        fontsize=9,
    )
    axes.set_xticks(range(len(accuracies)), list(accuracies))
    axes.set(xlim=(-0.6, len(accuracies) - 0.2), ylabel="Accuracy on validation images (%)")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    return figure

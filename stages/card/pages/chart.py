"""Clean beside corrupted images: the accuracy of every model, and what compression costs."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.card.pages.kinds import SOURCE, titles
from stages.common.reporting.style import IN_HOUSE_STYLE, MARKERS, colour, new_figure

SPREAD = 0.6  # width over which the models' dots are spread; kinds are 1 apart


@IN_HOUSE_STYLE
def robustness_chart(robustness: dict) -> Figure:
    """``robustness``: the JSON of the stage of that name."""
    kinds = titles(robustness["conditions"])
    models = robustness["models"]
    base = next(iter(models))
    note = f"{robustness['images']:,} test images; whiskers: 95 % intervals (McNemar's). {SOURCE}"
    figure, (accuracies, changes) = new_figure("Clean and corrupted images", note, columns=2)
    for index, (name, block) in enumerate(models.items()):
        places = [place + offset(index, len(models)) for place in range(len(kinds))]
        heights = [block["accuracy"][kind] for kind in kinds]
        accuracies.plot(places, heights, **style_of(index), label=name)
        if name != base:
            draw_changes(changes, places, [block["changes"][base][kind] for kind in kinds], index)
    for axes in (accuracies, changes):
        axes.set_xticks(
            range(len(kinds)), [title.replace(" ", "\n", 1) for title in kinds.values()]
        )
        axes.grid(axis="x", visible=False)
    accuracies.set(title="the axis does not start at 0", ylabel="Accuracy on the test images (%)")
    accuracies.legend(loc="lower left")
    changes.axhline(0, color="black", linewidth=0.8)
    changes.set(title=f"beside {base}, on the same images", ylabel="Change of accuracy (points)")
    return figure


def offset(index: int, models: int) -> float:
    return SPREAD * (index / max(models - 1, 1) - 0.5)


def style_of(index: int) -> dict:
    return {
        "linestyle": "none",
        "marker": MARKERS[index % len(MARKERS)],
        "color": colour(index),
        "markersize": 6,
    }


def draw_changes(axes: Axes, places: list[float], changes: list[dict], index: int) -> None:
    points = [change["points"] for change in changes]
    below = [change["points"] - change["low"] for change in changes]
    above = [change["high"] - change["points"] for change in changes]
    axes.errorbar(places, points, yerr=[below, above], capsize=2, elinewidth=1.2, **style_of(index))

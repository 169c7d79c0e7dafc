"""Accuracy against bytes and against milliseconds: the family as a line, its peers as points."""

import textwrap

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from stages.common.reporting.comparison_charts import Bubble, place_labels
from stages.common.reporting.style import DPI, GREY, IN_HOUSE_STYLE, colour
from stages.family.page.comparison import BYTES, COSTS, Cost
from stages.family.page.results import Row

SIZE = (6, 11)  # inches, panels one below the other: a page shows it 420 pixels wide
POINT = 3.5  # radius, in points


@IN_HOUSE_STYLE
def frontier_chart(family: list[Row], peers: list[Row], note: str) -> Figure:
    """A panel for each cost, without the networks that were not timed there."""
    with rc_context({"font.size": 11}):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        panels = figure.subplots(len(COSTS), 1)
        figure.suptitle("The family beside published networks", fontsize=14, fontweight="bold")
        figure.supxlabel(textwrap.fill(note, width=68), fontsize=9, color=GREY)
        drawn = [draw(axes, family, peers, cost) for axes, cost in zip(panels, COSTS, strict=True)]
        for axes, (bubbles, line) in zip(panels, drawn, strict=True):
            place_labels(figure, axes, bubbles, line)
    return figure


def draw(
    axes: Axes, family: list[Row], peers: list[Row], cost: Cost
) -> tuple[list[Bubble], list[tuple[float, float]]]:
    """The points, each with its label, and the line through the family's."""
    ours, theirs = bubbles(family, cost, colour(0)), bubbles(peers, cost, GREY)
    line = sorted(bubble.point for bubble in ours)
    if line:
        axes.plot(*zip(*line, strict=True), "o-", color=colour(0), markersize=2 * POINT)
    if theirs:
        points = [bubble.point for bubble in theirs]
        axes.plot(*zip(*points, strict=True), "s", color=GREY, markersize=2 * POINT)
    axes.set(xlabel=cost.axis, ylabel="Accuracy as INT8 (%)", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.margins(x=0.15, y=0.15)
    return [*ours, *theirs], line


def bubbles(rows: list[Row], cost: Cost, edge: str) -> list[Bubble]:
    unit = 1e-3 if cost is BYTES else 1
    return [
        Bubble(row.name, (found * unit, row.accuracy), POINT, edge)
        for row in rows
        if (found := cost.of(row)) is not None
    ]

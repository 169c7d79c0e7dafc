"""The look that all pictures share: colours, fonts, a title above and a note below."""

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.core.files import replacing

# Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = "osD^vP*"  # and told apart without colour
GREY = "#595959"
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "legend.frameon": False,
}
DPI = 150
IN_HOUSE_STYLE = style.context(["default", STYLE])  # never what a matplotlibrc says


def new_figure(title: str, note: str, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with a title above, a note below and empty axes side by side."""
    figure = Figure(figsize=(9, 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    figure.suptitle(title, fontsize=14, fontweight="bold")
    figure.supxlabel(textwrap.fill(note, width=130), fontsize=8, color=GREY)
    return figure, list(axes)


def draw_bars(axes: Axes, names: list[str], heights: list[float]) -> None:
    axes.bar(range(len(names)), heights, 0.7, color=[colour(i) for i in range(len(names))])
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="x", visible=False)


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def kilobytes(size: int) -> str:
    return f"{size / 1000:,.0f} KB"


def save_png(path: str | Path, figure: Figure) -> None:
    """Equal figures give equal bytes: the file does not say when or with what it was made."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})

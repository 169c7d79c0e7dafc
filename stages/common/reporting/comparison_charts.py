"""The three pictures of the comparison; each variant has one colour in all of them."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from stages.common.core.accuracy import percent_text, sampling_error
from stages.common.reporting.style import (
    GREY,
    IN_HOUSE_STYLE,
    MARKERS,
    STYLE,
    colour,
    draw_bars,
    kilobytes,
    new_figure,
)

MOST_CLASSES = 20  # that one picture can name
BUBBLE_AREA = 2400  # of the largest file, in square points
# Where a label may stand: the direction from its bubble, best first, and the gap in points.
LABEL_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
LABEL_GAPS = (5, 24, 48)
LABEL_PADDING = 3  # points from the text to its frame
LINE_PADDING = 6  # pixels to keep free on both sides of the dashed line


@IN_HOUSE_STYLE
def accuracy_chart(evaluations: dict[str, dict], note: str) -> Figure:
    """Accuracy of every variant as bars from 0, and of every class as dots on a close-up axis.

    ``evaluations``: by variant, the metrics of its evaluation. Whiskers are intervals where it has
    some; of more classes than ``MOST_CLASSES`` the worst are drawn.
    """
    note += f"; {error_note(list(evaluations.values()))}"
    figure, (bars, dots) = new_figure("Accuracy on the test images", note, columns=2)
    draw_accuracies(bars, evaluations)
    draw_class_accuracies(dots, evaluations)
    return figure


def error_note(evaluations: list[dict]) -> str:
    if "accuracy_low" in evaluations[0]:
        return "whiskers: Clopper and Pearson's 95 % intervals"
    margin = max(sampling_error(each["accuracy"], each["images"]) for each in evaluations)
    return f"sampling error of an accuracy: ± {margin:.2f} points (95 %)"


def draw_accuracies(axes: Axes, evaluations: dict[str, dict]) -> None:
    percents = [each["accuracy"] for each in evaluations.values()]
    draw_bars(axes, list(evaluations), percents)
    for position, each in enumerate(evaluations.values()):
        percent, top = each["accuracy"], each.get("accuracy_high", each["accuracy"])
        text = percent_text(percent, each["images"])
        axes.text(position, top + 1, text, ha="center", va="bottom")
        if "accuracy_low" in each:
            whisker = [[percent - each["accuracy_low"]], [top - percent]]
            axes.errorbar(position, percent, whisker, color="black", capsize=4, linewidth=1)
    axes.set(title="All classes", ylabel="Accuracy (%)", ylim=(0, 110), yticks=range(0, 101, 20))


def draw_class_accuracies(axes: Axes, evaluations: dict[str, dict]) -> None:
    classes = list(next(iter(evaluations.values()))["class_accuracy"])
    title = "Each class (axis does not start at 0)"
    if len(classes) > MOST_CLASSES:
        title = f"The {MOST_CLASSES} worst of {len(classes):,} classes"
        classes = worst_classes(classes, list(evaluations.values()))
    for index, (name, each) in enumerate(evaluations.items()):
        offset = 0.6 * ((index + 0.5) / len(evaluations) - 0.5)  # side by side within the class
        percents = [each["class_accuracy"][label] for label in classes]
        heights = np.arange(len(classes)) + offset
        axes.plot(
            percents,
            heights,
            MARKERS[index % len(MARKERS)],
            color=colour(index),
            markersize=5,
            label=name,
        )
        if "class_accuracy_low" in each:
            axes.hlines(
                heights,
                [each["class_accuracy_low"][label] for label in classes],
                [each["class_accuracy_high"][label] for label in classes],
                color=colour(index),
                linewidth=1,
            )
    axes.set_yticks(range(len(classes)), classes, parse_math=False)  # a name may hold $
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.set(title=title, xlabel="Accuracy (%)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=min(len(evaluations), 4),
                columnspacing=1, handletextpad=0.1)  # fmt: skip


def worst_classes(classes: list[str], evaluations: list[dict]) -> list[str]:
    """Those of the lowest mean accuracy over the variants, the worst first."""

    def mean(name: str) -> float:
        return sum(each["class_accuracy"][name] for each in evaluations) / len(evaluations)

    return sorted(classes, key=mean)[:MOST_CLASSES]


@IN_HOUSE_STYLE
def latency_chart(latency: dict[str, dict[str, dict]], note: str) -> Figure:
    """Latency of every variant, one panel a runtime (by its title), whiskers from p5 to p95."""
    figure, panels = new_figure("Latency of one image (batch 1)", note, columns=len(latency))
    for panel, (title, blocks) in zip(panels, latency.items(), strict=True):
        engines = {block["engine"] for block in blocks.values()}
        if len(engines) == 1:
            names, title = list(blocks), f"{title} ({engines.pop()})"
        else:
            names = [f"{name}\n({block['engine']})" for name, block in blocks.items()]
        medians = [block["latency_ms_median"] for block in blocks.values()]
        draw_bars(panel, names, medians)
        for position, block in enumerate(blocks.values()):
            median, low, high = (block[f"latency_ms_{which}"] for which in ("median", "p5", "p95"))
            panel.errorbar(
                position, median, [[median - low], [high - median]],
                color="black", capsize=4, linewidth=1,
            )  # fmt: skip
            ratio = block["ratio_to_base"]
            panel.annotate(
                f"{median:.2f} ms" + ("" if ratio is None else f"\n{ratio:.2f} × base"),
                (position, high), (0, 4), textcoords="offset points", ha="center", va="bottom",
            )  # fmt: skip
        panel.set(title=title)
    highest = max(
        block["latency_ms_p95"] for blocks in latency.values() for block in blocks.values()
    )
    for panel in panels:
        panel.set(ylim=(0, 1.2 * highest))
    panels[0].set(ylabel="Latency (ms), lower is better")
    return figure


@dataclass(frozen=True)
class Bubble:
    label: str
    point: tuple[float, float]  # milliseconds, percent
    radius: float  # in points
    colour: str


@IN_HOUSE_STYLE
def pareto_chart(points: dict[str, tuple[float, float, int]], runtime: str, note: str) -> Figure:
    """Accuracy (percent) against latency (ms); a bubble's area is proportional to the bytes.

    ``points`` holds (milliseconds, percent, bytes) by variant, timed in ``runtime``. The line is
    the best accuracy to be had within a latency.
    """
    figure, [axes] = new_figure("Accuracy against latency and size", note, columns=1)
    bubbles = bubbles_of(points)
    for bubble in bubbles:
        area = math.pi * bubble.radius**2
        axes.scatter(*bubble.point, area, bubble.colour, alpha=0.75, edgecolor="white", zorder=2)
        axes.plot(*bubble.point, ".", color="black", markersize=3, zorder=4)
    line = staircase(pareto_front(points))
    axes.plot(*zip(*line, strict=True), "--", color=GREY, linewidth=1, zorder=1)
    axes.margins(x=0.22, y=0.3)
    axes.set_xlim(left=max(axes.get_xlim()[0], 0))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.set(
        xlabel=f"Latency in {runtime} (ms, batch 1): further left is better",
        ylabel="Accuracy (%): higher is better",
    )
    axes.set_title(
        "bubble area: bytes of the file (1 KB = 1000 bytes); dashed: the best accuracy within a "
        "latency;\nboth axes are close-ups that do not start at 0",
        color=GREY,
        fontsize=9,
    )
    place_labels(figure, axes, bubbles, line)
    return figure


def bubbles_of(points: dict[str, tuple[float, float, int]]) -> list[Bubble]:
    largest = max(size for _, _, size in points.values())
    return [
        Bubble(
            label=f"{name}\n{kilobytes(size)}",
            point=(latency, percent),
            radius=math.sqrt(BUBBLE_AREA * size / largest / math.pi),
            colour=colour(index),
        )
        for index, (name, (latency, percent, size)) in enumerate(points.items())
    ]


def pareto_front(points: dict[str, tuple[float, float, int]]) -> list[tuple[float, float]]:
    """(latency, accuracy) of the points that no other beats in both, from left to right."""
    front: list[tuple[float, float]] = []
    for latency, percent, _ in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not front or percent > front[-1][1]:
            front.append((latency, percent))
    return front


def staircase(front: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The front's points joined by steps: to the right, then up."""
    line = front[:1]
    for (_, before), (latency, percent) in pairwise(front):
        line += [(latency, before), (latency, percent)]
    return line


def place_labels(
    figure: Figure, axes: Axes, bubbles: list[Bubble], line: list[tuple[float, float]]
) -> None:
    """Write each label where it covers least of the bubbles, the labels, the line and the frame.

    A label that stands away from its bubble gets a line to it.
    """
    figure.draw_without_rendering()  # the layout must be final before boxes are compared
    scale = figure.dpi / 72  # pixels a point
    centres = [axes.transData.transform(bubble.point) for bubble in bubbles]
    taken = [
        box_around(centre, 2 * bubble.radius * scale)
        for centre, bubble in zip(centres, bubbles, strict=True)
    ]
    taken += [Bbox(ends).padded(LINE_PADDING) for ends in pairwise(axes.transData.transform(line))]
    for bubble, centre in zip(bubbles, centres, strict=True):
        size = text_size(axes, bubble.label) + 2 * LABEL_PADDING * scale
        offsets = label_offsets(size / scale, bubble.radius)
        boxes = [box_around(centre + offset * scale, size) for offset in offsets]
        costs = [covered(box, taken, axes.bbox) for box in boxes]
        best = int(np.argmin(costs))  # the first of equals
        far = best >= len(LABEL_DIRECTIONS)
        axes.annotate(
            bubble.label,
            bubble.point,
            tuple(offsets[best]),
            textcoords="offset points",
            ha="center",
            va="center",
            bbox={
                "boxstyle": f"square,pad={LABEL_PADDING / STYLE['font.size']}",
                "facecolor": "white",
                "edgecolor": bubble.colour,
            },
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.8} if far else None,
            zorder=5,
        )
        taken.append(boxes[best])


def label_offsets(size: np.ndarray, radius: float) -> list[np.ndarray]:
    """Where a label's centre may be, in points from its bubble's, the best places first."""
    offsets = []
    for gap in LABEL_GAPS:
        for direction in LABEL_DIRECTIONS:
            unit = np.array(direction) / math.hypot(*direction)
            offsets.append(unit * (radius + gap) + np.array(direction) * size / 2)
    return offsets


def text_size(axes: Axes, text: str) -> np.ndarray:
    """Width and height in pixels."""
    probe = axes.text(0, 0, text)
    size = np.array(probe.get_window_extent().size)
    probe.remove()
    return size


def box_around(centre: np.ndarray, size: np.ndarray | float) -> Bbox:
    return Bbox([centre - size / 2, centre + size / 2])


def covered(box: Bbox, taken: list[Bbox], frame: Bbox) -> float:
    """Square pixels of ``box`` that lie on taken ground or outside the frame."""
    inside = overlap(box, frame)
    return box.width * box.height - inside + sum(overlap(box, other) for other in taken)


def overlap(first: Bbox, second: Bbox) -> float:
    common = Bbox.intersection(first, second)
    return 0.0 if common is None else common.width * common.height

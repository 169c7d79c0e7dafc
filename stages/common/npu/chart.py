"""Each variant on an NPU: time against base, and the bytes of the weights."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.common.reporting.style import GREY, IN_HOUSE_STYLE, colour, kilobytes, new_figure

BAR = 0.26  # of the distance between two targets


@IN_HOUSE_STYLE
def npu_chart(rows: list[dict], note: str) -> Figure:
    """``rows`` as ``stages.npu`` writes them, with a variant "base" of every target."""
    note += (
        "; black mark: the arithmetic alone (NPU cycles), what lies right of it is waiting for "
        "memory; unstructured: as many non-zero weights as pruned, not fine-tuned"
    )
    figure, (times, sizes) = new_figure("On an Ethos-U NPU", note, columns=2)
    by_target: dict[str, dict[str, dict]] = {}
    for row in rows:
        by_target.setdefault(row["target"], {})[row["variant"]] = row
    draw_times(times, by_target)
    draw_sizes(sizes, next(iter(by_target.values())))
    return figure


@IN_HOUSE_STYLE
def no_chart(reason: str) -> Figure:
    """A picture without bars, where there is nothing to show."""
    figure, (axes,) = new_figure("On an Ethos-U NPU", reason, columns=1)
    axes.set_axis_off()
    return figure


def draw_times(axes: Axes, by_target: dict[str, dict[str, dict]]) -> None:
    """Total cycles as shares of base's on the same target, from the top down."""
    variants = list(next(iter(by_target.values())))
    for index, variant in enumerate(variants):
        middle = (len(variants) - 1) / 2
        places = np.arange(len(by_target)) + BAR * (index - middle)
        pairs = [(blocks[variant], blocks["base"]) for blocks in by_target.values()]
        shares = [row["total_cycles"] / base["total_cycles"] for row, base in pairs]
        arithmetic = [row["npu_cycles"] / base["total_cycles"] for row, base in pairs]
        axes.barh(places, shares, 0.9 * BAR, color=colour(index), label=variant)
        axes.plot(arithmetic, places, "|", color="black", markersize=7, markeredgewidth=1.5)
        for place, share in zip(places, shares, strict=True):
            axes.annotate(
                f"{share:.2f}", (share, place), (3, 0), textcoords="offset points",
                va="center", fontsize=7, color=GREY,
            )  # fmt: skip
    bases = [blocks["base"] for blocks in by_target.values()]
    labels = [f"{base['npu']}\nweights in {base['weights_in']}" for base in bases]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title="Total cycles (base on the same NPU = 1)", xlim=(0, 1.12 * max(axes.get_xlim()[1], 1))
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(variants))


def draw_sizes(axes: Axes, blocks: dict[str, dict]) -> None:
    """Encoded weights of one target's variants, with those before encoding as a mark."""
    for index, row in enumerate(blocks.values()):
        encoded, before = row["encoded_weight_bytes"] / 1000, row["weight_bytes"] / 1000
        axes.bar(index, encoded, 0.7, color=colour(index))
        axes.plot(index, before, "_", color="black", markersize=40, markeredgewidth=1.5)
        axes.annotate(
            kilobytes(row["encoded_weight_bytes"]), (index, encoded / 2), ha="center",
            va="center", color="white",
        )  # fmt: skip
    axes.set_xticks(range(len(blocks)), list(blocks))
    axes.grid(axis="x", visible=False)
    npu = next(iter(blocks.values()))["npu"]
    axes.set(title=f"Encoded weights, {npu} (KB; mark: before)", ylabel="KB (1000 bytes)")

"""A network as groups of channels: what they are called, what goes with them, what they cost.

The network is the chain of ``network.py``, where the output channels of every 3x3 convolution are
a group. The whitening layer and the classes stay whole.
"""

import torch
import torch_pruning
from torch import nn

from stages.common.network.chain import Chain, widths_of
from stages.common.network.size import size_of
from stages.common.pruning.latency_model import LatencyModel
from stages.common.pruning.plan import Cost


def group_names(model: Chain) -> list[str]:
    return [
        f"block{number}.conv{index}"
        for number, widths in enumerate(widths_of(model), 1)
        for index in range(1, len(widths) + 1)
    ]


def convolutions(model: Chain) -> list[nn.Conv2d]:
    """The 3x3 convolutions, one a group, in the order of ``group_names``."""
    return [convolution for block in model.layers() for convolution, _ in block]


def dependency_graph(model: Chain) -> torch_pruning.DependencyGraph:
    graph = torch_pruning.DependencyGraph()
    return graph.build_dependency(model, example_inputs=torch.zeros(1, 3, 32, 32))


def coupled(
    graph: torch_pruning.DependencyGraph, layer: nn.Conv2d, channels: list[int] | range
) -> torch_pruning.Group:
    """All that must go when these output channels of the layer go."""
    return graph.get_pruning_group(
        layer, torch_pruning.prune_conv_out_channels, idxs=list(channels)
    )


def size_cost(base: Chain, target: str) -> Cost:
    """The 'macs' or 'params' of the base with other widths."""

    def of(widths: list[int]) -> int:
        shape = in_blocks(widths, widths_of(base))
        return getattr(size_of(Chain({**base.config, "widths": shape})), target)

    return Cost(of, base=getattr(size_of(base), target), unit=target)


def latency_cost(base: Chain, latency: LatencyModel) -> Cost:
    """The predicted FP32 milliseconds of the base with other widths."""
    shape = widths_of(base)
    return Cost(
        lambda widths: latency.predict(in_blocks(widths, shape)),
        base=latency.predict(shape),
        unit=f"ms on {latency.device}",
    )


def in_blocks(widths: list[int], shape: list[list[int]]) -> list[list[int]]:
    """[1, 2, 3] in the blocks of [[4, 4], [4]] -> [[1, 2], [3]]."""
    flat = iter(widths)
    return [[next(flat) for _ in block] for block in shape]

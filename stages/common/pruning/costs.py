"""The cost of a network with other widths: MACs, params, predicted milliseconds or bytes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn
from torch_pruning import DependencyGraph

from stages.common.network.chain import Chain, widths_of
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.network.size import output_positions, size_of
from stages.common.pruning.couplings import coupled, dependency_graph, is_depthwise
from stages.common.pruning.groups import channel_groups, shown_name
from stages.common.pruning.latency.model import LatencyModel
from stages.common.pruning.memory.model import MemoryModel, Outputs, layer_names, outputs_of
from stages.common.pruning.plan.goals import Cost
from stages.common.pruning.plan.ranking import Group

COUNTED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)  # by ``size_of``: BatchNorm as a bias
UNITS = {"flash": "bytes of flash", "ram": "bytes of RAM"}


def size_cost(base: Network, target: str, keep_whole: Sequence[str] = ()) -> Cost:
    """The 'macs' or 'params' of the base with other widths, as ``size_of`` counts them."""
    before = getattr(size_of(base), target)
    if isinstance(base, ImportedNetwork):
        return Cost(getattr(LayerSizes(base, keep_whole), target), before, target)
    assert isinstance(base, Chain)
    shape, config = widths_of(base), base.config

    def of(widths: list[int]) -> int:
        return getattr(size_of(Chain({**config, "widths": in_blocks(widths, shape)})), target)

    return Cost(of, before, target)


class LayerSizes:
    """The shapes of an imported network's layers, as functions of its groups' widths.

    A layer has a fixed number of outputs (and inputs), and ``makes`` (``reads``) so many more for
    each channel of a group, (layers, groups) int64: 49 where a linear layer reads 7 x 7 positions.
    """

    def __init__(self, base: ImportedNetwork, keep_whole: Sequence[str]):
        graph = dependency_graph(base)
        groups = channel_groups(base, graph, keep_whole)
        named = [each for each in base.named_modules() if isinstance(each[1], COUNTED)]
        self.names, layers = [name for name, _ in named], [layer for _, layer in named]
        self.makes, self.reads = incidence(base, graph, groups, layers)
        widths = np.array([group.width for group in groups])
        outputs, inputs, self.kernels, self.groups = np.array([shape_of(each) for each in layers]).T
        self.fixed_outputs = outputs - self.makes @ widths
        self.fixed_inputs = inputs - self.reads @ widths
        self.biases = np.array([layer.bias is not None for layer in layers])
        positions = output_positions(base)
        self.positions = np.array([positions.get(layer, 0) for layer in layers])

    def weights(self, widths: list[int]) -> np.ndarray:
        """The number of weights of each layer, (layers,) int64."""
        inputs = self.fixed_inputs + self.reads @ np.array(widths)
        return self.outputs(widths) * inputs * self.kernels // self.groups

    def outputs(self, widths: list[int]) -> np.ndarray:
        return self.fixed_outputs + self.makes @ np.array(widths)

    def macs(self, widths: list[int]) -> int:
        return int(self.weights(widths) @ self.positions)

    def params(self, widths: list[int]) -> int:
        return int(self.weights(widths).sum() + self.outputs(widths) @ self.biases)


def incidence(
    base: ImportedNetwork, graph: DependencyGraph, groups: list[Group], layers: Sequence[nn.Module]
) -> tuple[np.ndarray, np.ndarray]:
    """How many outputs and how many inputs each layer loses with a channel of each group."""
    rows = {layer: row for row, layer in enumerate(layers)}
    makes = np.zeros((len(layers), len(groups)), dtype=np.int64)
    reads = np.zeros_like(makes)
    for column, group in enumerate(groups):
        root = base.get_submodule(group.layers[0])
        for dependency, channels in coupled(graph, root, range(group.width)):
            if dependency.target.module in rows:
                made = graph.is_out_channel_pruning_fn(dependency.handler)
                row = rows[dependency.target.module]
                (makes if made else reads)[row, column] = len(channels) // group.width
    return makes, reads


def shape_of(layer: nn.Module) -> tuple[int, int, int, int]:
    """Outputs, inputs, weights of each pair of them, and groups; a depthwise convolution reads one
    input for each output, and BatchNorm has no weights that count.
    """
    if isinstance(layer, nn.Conv2d):
        inputs, groups = (1, 1) if is_depthwise(layer) else (layer.in_channels, layer.groups)
        return layer.out_channels, inputs, math.prod(layer.kernel_size), groups
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features, 1, 1
    assert isinstance(layer, nn.BatchNorm2d)
    return layer.num_features, 0, 0, 1


def latency_cost(base: Chain, latency: LatencyModel) -> Cost:
    """The predicted milliseconds of the base with other widths, in the model's precision."""
    shape = widths_of(base)
    return Cost(
        lambda widths: latency.predict(in_blocks(widths, shape)),
        base=latency.predict(shape),
        unit=f"ms on {latency.device}",
    )


def memory_cost(
    base: Network, memory: MemoryModel, target: str, keep_whole: Sequence[str] = ()
) -> Cost:
    """The predicted bytes of flash or RAM of the base with other widths.

    Raises ``InputError`` where the model is of another network.
    """
    memory.require_same(base)
    outputs = outputs_by_width(base, keep_whole)
    return Cost(
        lambda widths: memory.bytes(target, outputs(widths)),
        base=memory.bytes(target, outputs_of(base)),
        unit=UNITS[target],
    )


def outputs_by_width(base: Network, keep_whole: Sequence[str]) -> Callable[[list[int]], Outputs]:
    """The outputs of every convolution and linear layer, as a function of the groups' widths."""
    if isinstance(base, Chain):
        first, *_, last = layer_names(base)
        ends = {first: base.whitening.out_channels, last: base.head.out_features}
        return lambda widths: ends | dict(zip(layer_names(base)[1:-1], widths, strict=True))
    assert isinstance(base, ImportedNetwork)
    sizes = LayerSizes(base, keep_whole)
    return lambda widths: {
        shown_name(name): int(count)
        for name, count in zip(sizes.names, sizes.outputs(widths), strict=True)
    }


def in_blocks(widths: list[int], shape: list[list[int]]) -> list[list[int]]:
    """[1, 2, 3] in the blocks of [[4, 4], [4]] -> [[1, 2], [3]]."""
    flat = iter(widths)
    return [[next(flat) for _ in block] for block in shape]

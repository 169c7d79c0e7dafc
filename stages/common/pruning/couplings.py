"""Channels that must go together, by Torch-Pruning's dependency graph.

Fang et al., "DepGraph: towards any structural pruning", CVPR 2023: those that an addition joins,
those that a depthwise convolution passes on, those that a gate such as squeeze-and-excitation
multiplies.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch_pruning
from torch import nn
from torch_pruning import DependencyGraph

from stages.common.core.cli import InputError
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network

# What Torch-Pruning raises in the middle of its work on a network that it does not understand.
GRAPH_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError)


def dependency_graph(model: Network) -> DependencyGraph:
    """The model must be on the CPU; all parameters of an imported one are made to need gradients,
    by which the graph is traced.

    Raises ``InputError`` for a network that Torch-Pruning does not understand.
    """
    if isinstance(model, ImportedNetwork):
        model.requires_grad_(True)
    images = torch.zeros(1, *model.input_shape)
    try:
        return DependencyGraph().build_dependency(model, example_inputs=images, verbose=False)
    except GRAPH_ERRORS as error:
        raise not_understood(model, error) from None


def not_understood(model: Network, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"torch-pruning cannot prune {network_name(model)} ({reason}): choose another "
        "network.factory, or set prune.method to unstructured"
    )


def network_name(model: Network) -> str:
    return str(model.config.get("factory", "the chain"))


def coupled(
    graph: DependencyGraph, layer: nn.Module, channels: Iterable[int]
) -> torch_pruning.Group:
    """All that must go when these output channels of the layer go."""
    remove = graph.get_pruner_of_module(layer).prune_out_channels
    return graph.get_pruning_group(layer, remove, idxs=list(channels))


@dataclass(frozen=True)
class Coupling:
    """Layers whose output channels go together, by module name in the network's order.

    Depthwise convolutions, which only pass channels on, are left out.
    """

    layers: tuple[str, ...]
    width: int
    channels_each: int
    added: bool  # an addition joins them


def couplings_of(model: Network, graph: DependencyGraph, whole: set[nn.Module]) -> list[Coupling]:
    """The coupling of every layer, each once, but for those with an output of a layer in ``whole``.

    Raises ``InputError`` for a network that Torch-Pruning does not understand.
    """
    found: list[Coupling] = []
    seen: set[str] = set()
    for name, layer in model.named_modules():
        if name in seen or layer not in graph.module2node or not makes_channels(layer):
            continue
        try:
            group = coupled(graph, layer, range(len(layer.weight)))
        except GRAPH_ERRORS as error:
            raise not_understood(model, error) from None
        coupling = coupling_in(group, graph, model)
        if coupling and not whole & {each.target.module for each in outputs_in(group, graph)}:
            found.append(coupling)
            seen.update(coupling.layers)
    return found


def coupling_in(
    group: torch_pruning.Group, graph: DependencyGraph, model: Network
) -> Coupling | None:
    """None where channels cannot go one by one, or one from each group of a convolution."""
    width = len(group[0].idxs)
    sets = {sets_in(dependency.target.module) for dependency, _ in group}
    if any(max(sets) % each for each in sets):
        return None
    if any(len(channels) % width for _, channels in group):
        return None
    if not all(all_of_grouped(dependency, channels, graph) for dependency, channels in group):
        return None
    makers = {dependency.target.module for dependency in outputs_in(group, graph)}
    return Coupling(
        layers=tuple(
            name
            for name, layer in model.named_modules()
            if layer in makers and makes_channels(layer)
        ),
        width=width,
        channels_each=max(sets),
        added=any(is_addition(dependency.target) for dependency, _ in group),
    )


def all_of_grouped(
    dependency: torch_pruning.dependency.Dependency, channels: list[int], graph: DependencyGraph
) -> bool:
    """False where these are some of the channels of a layer that parts its channels into groups."""
    layer = dependency.target.module
    if sets_in(layer) == 1:
        return True
    made = graph.is_out_channel_pruning_fn(dependency.handler)
    count = graph.get_out_channels(layer) if made else graph.get_in_channels(layer)
    return len(channels) == count


def outputs_in(
    group: torch_pruning.Group, graph: DependencyGraph
) -> list[torch_pruning.dependency.Dependency]:
    """Those of the group's dependencies that remove outputs of a layer."""
    found = [dependency for dependency, _ in group]
    return [each for each in found if graph.is_out_channel_pruning_fn(each.handler)]


def makes_channels(layer: nn.Module) -> bool:
    """Whether it is a convolution or linear layer, and no depthwise one, that passes them on."""
    return isinstance(layer, nn.Conv2d | nn.Linear) and not is_depthwise(layer)


def is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels > 1


def sets_in(layer: nn.Module) -> int:
    """The channel groups of a grouped convolution or GroupNorm, which all lose as many; else 1."""
    if isinstance(layer, nn.Conv2d) and not is_depthwise(layer):
        return layer.groups
    return layer.num_groups if isinstance(layer, nn.GroupNorm) else 1


def is_addition(node: torch_pruning.dependency.Node) -> bool:
    """Of two tensors; that of a constant has one input."""
    return "AddBackward" in node.name and len(node.inputs) > 1

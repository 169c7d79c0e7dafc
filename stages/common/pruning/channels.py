"""The channels of a network: how important each is, and the network without the least of them."""

import copy

import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

from stages.common.data.cifar10 import Images
from stages.common.network.network import Network, rebuild

WEIGHTS = [nn.Conv2d, nn.Linear]  # what importance reads; BatchNorm's scale is fixed at 1


def channel_scores(
    model: Network, images: Images, importance: str, seed: int
) -> list[torch.Tensor]:
    """The importance of every channel, one tensor (channels,) a convolution, comparable over all.

    torch-pruning sums up what depends on a channel (its filter, and what reads it in the next
    layer) and divides by the layer's mean. Taylor: |gradient x weight|, Molchanov et al. 2019;
    magnitude: the L2 norm.
    """
    measures = {
        "taylor": lambda: torch_pruning.importance.GroupTaylorImportance(target_types=WEIGHTS),
        "magnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(
            target_types=WEIGHTS
        ),
        "random": torch_pruning.importance.RandomImportance,
    }
    measure = measures[importance]()
    torch.manual_seed(seed)  # for 'random'
    add_gradients(model, images)
    graph = dependency_graph(model)
    return [
        measure(channel_group(graph, layer, range(layer.out_channels))).detach().cpu()
        for layer in convolutions(model)
    ]


def ranks_in_layer(
    scores: list[torch.Tensor], proportions: list[int] | None = None
) -> list[torch.Tensor]:
    """Scores by which layers lose their own least important channels, and keep their proportions.

    The k-th best channel of a layer has -k / p: the best that are kept of all layers are then as
    many in each as its proportion p says, or all that it has. Without proportions those are the
    layers' widths, so that all lose the same share.
    """
    proportions = proportions or [len(score) for score in scores]
    return [
        -(len(score) - score.argsort(stable=True).argsort()) / proportion
        for score, proportion in zip(scores, proportions, strict=True)
    ]


def add_gradients(model: Network, images: Images) -> None:
    """Put the gradients of the loss on the given images into the parameters."""
    pixels = torch.from_numpy(images.pixels).float()
    model.eval().zero_grad()
    F.cross_entropy(model(pixels), torch.from_numpy(images.labels)).backward()


def widths_at(ratio: float, scores: list[torch.Tensor], round_to: int) -> list[int]:
    """The widths that remain when the lowest ``ratio`` of all channels go.

    Each is the nearest multiple of ``round_to``, but at least one multiple and no more than the
    layer has.
    """
    everything = torch.cat(scores).sort().values
    gone = round(ratio * len(everything))
    threshold = everything[gone - 1] if gone else -torch.inf
    return [
        min(len(score), max(1, round(int((score > threshold).sum()) / round_to)) * round_to)
        for score in scores
    ]


def without_channels(model: Network, scores: list[torch.Tensor], widths: list[int]) -> Network:
    """A smaller network: each convolution keeps its ``width`` best channels, in their order."""
    smaller = copy.deepcopy(model)
    for layer, score, width in zip(convolutions(smaller), scores, widths, strict=True):
        worst = score.argsort(stable=True)[: len(score) - width].tolist()
        if worst:
            channel_group(dependency_graph(smaller), layer, sorted(worst)).prune()
    return rebuild(smaller)


def convolutions(model: Network) -> list[nn.Conv2d]:
    """The 3x3 convolutions in order; the whitening layer and the classes stay whole."""
    return [convolution for block in model.layers() for convolution, _ in block]


def dependency_graph(model: Network) -> torch_pruning.DependencyGraph:
    graph = torch_pruning.DependencyGraph()
    return graph.build_dependency(model, example_inputs=torch.zeros(1, 3, 32, 32))


def channel_group(
    graph: torch_pruning.DependencyGraph, layer: nn.Conv2d, channels: list[int] | range
) -> torch_pruning.Group:
    """All that must go when these output channels go."""
    return graph.get_pruning_group(
        layer, torch_pruning.prune_conv_out_channels, idxs=list(channels)
    )

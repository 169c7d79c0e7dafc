"""How important each channel of a network is."""

import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

from stages.common.data.dataset import Images
from stages.common.network.chain import Chain
from stages.common.pruning.groups import convolutions, coupled, dependency_graph, group_names
from stages.common.pruning.plan import Group

TAYLOR_IMAGES = 1000  # the first ones, whose gradients rank the channels
WEIGHTS = [nn.Conv2d, nn.Linear]  # what importance reads; BatchNorm's scale is fixed at 1


def scored_groups(model: Chain, images: Images, importance: str, seed: int) -> list[Group]:
    """The network's groups, with an importance for every channel that compares between them.

    torch-pruning sums over what depends on a channel (its filter, and the weights that read it in
    the next layer) and divides by the layer's mean. 'taylor': |gradient x weight|, Molchanov et
    al. 2019; 'magnitude': the L2 norm; 'random': follows the seed. The model must be on the CPU.
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
    add_gradients(model, images[:TAYLOR_IMAGES])
    graph = dependency_graph(model)
    return [
        Group(name, measure(coupled(graph, layer, range(layer.out_channels))).detach().numpy())
        for name, layer in zip(group_names(model), convolutions(model), strict=True)
    ]


def add_gradients(model: Chain, images: Images) -> None:
    """Put the gradients of the loss on the given images into the parameters."""
    pixels = torch.from_numpy(images.pixels).float()
    model.eval().zero_grad()
    F.cross_entropy(model(pixels), torch.from_numpy(images.labels)).backward()

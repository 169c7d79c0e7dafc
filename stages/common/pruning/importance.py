"""How important each channel of a network is."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn
from torch_pruning import DependencyGraph

from stages.common.data.dataset import Images
from stages.common.network.chain import Chain
from stages.common.network.network import Network
from stages.common.pruning.couplings import coupled, dependency_graph
from stages.common.pruning.groups import channel_groups
from stages.common.pruning.plan.ranking import Group

TAYLOR_IMAGES = 1000  # the first ones, whose gradients rank the channels
BATCH_PIXELS = TAYLOR_IMAGES * 32 * 32  # of images whose gradients are computed at once
WEIGHTS = [nn.Conv2d, nn.Linear]  # what importance reads of the chain: its BatchNorm's scale is 1
NORMS = [nn.BatchNorm2d, nn.LayerNorm]  # and of other networks: scales of the channels


def scored_groups(
    model: Network,
    images: Images,
    importance: str,
    seed: int,
    keep_whole: Sequence[str] = (),
) -> list[Group]:
    """The network's groups, with an importance for every channel that compares between them.

    torch-pruning sums over what depends on a channel (its filter, and the weights that read it in
    the next layer) and divides by the group's mean. 'taylor': |gradient x weight|, Molchanov et
    al. 2019; 'magnitude': the L2 norm; 'random': follows the seed. Channels that go in sets have
    the mean importance of their set. The model must be on the CPU.
    """
    types = WEIGHTS if isinstance(model, Chain) else WEIGHTS + NORMS
    measures = {
        "taylor": lambda: torch_pruning.importance.GroupTaylorImportance(target_types=types),
        "magnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(target_types=types),
        "random": torch_pruning.importance.RandomImportance,
    }
    measure = measures[importance]()
    torch.manual_seed(seed)  # for 'random'
    graph = dependency_graph(model)
    add_gradients(model, images[:TAYLOR_IMAGES])
    return [
        dataclasses.replace(group, importance=importance_in(group, measure, graph, model))
        for group in channel_groups(model, graph, keep_whole)
    ]


def importance_in(
    group: Group,
    measure: torch_pruning.importance.Importance,
    graph: DependencyGraph,
    model: Network,
) -> np.ndarray:
    """(sets,) float32; 0 in a group without any importance."""
    root = model.get_submodule(group.layers[0])
    scores = measure(coupled(graph, root, range(group.width))).detach().numpy()
    if group.channels_each > 1:
        scores = scores.reshape(group.channels_each, -1).mean(axis=0)
    return np.nan_to_num(scores)


def add_gradients(model: Network, images: Images) -> None:
    """Put the gradients of the mean loss on the given images into the parameters."""
    model.eval().zero_grad()
    size = max(1, BATCH_PIXELS // math.prod(images.shape[1:]))
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    for batch, targets in zip(pixels.split(size), labels.split(size), strict=True):
        loss = F.cross_entropy(model(batch.float()), targets)
        (loss * (len(batch) / len(pixels))).backward()

"""Cut a network: remove channels by a plan (structured), or write zeros in place (unstructured)."""

import copy

import numpy as np
from torch.nn.utils import prune as torch_prune

from stages.common.network.chain import Chain, rebuild
from stages.common.network.size import Size, size_of
from stages.common.pruning.groups import convolutions, coupled, dependency_graph
from stages.common.pruning.plan import Group, Plan, nearest_ratio


def keep_channels(model: Chain, groups: list[Group], plan: Plan) -> Chain:
    """A smaller network: each group keeps its most important channels, in their order."""
    smaller = copy.deepcopy(model)
    for layer, group in zip(convolutions(smaller), groups, strict=True):
        removed = len(group.importance) - plan[group.name]
        worst = np.argsort(group.importance, kind="stable")[:removed].tolist()
        if worst:
            coupled(dependency_graph(smaller), layer, sorted(worst)).prune()
    return rebuild(smaller)


def hold_at_zero(model: Chain, share: float, before: Size, target: str, allocation: str) -> None:
    """Hold the smallest weights of the 3x3 convolutions at 0, in place, until ``make_permanent``.

    The smallest of all layers together, or, with the allocation 'uniform', of each alone; as many
    as bring the share of ``before``'s target ('macs' or 'params') that is zero next to ``share``.
    """

    def share_at(ratio: float) -> float:
        trial = copy.deepcopy(model)
        mask_smallest(trial, ratio, allocation)
        make_permanent(trial)
        return share_removed(before, size_of(trial), target, zeros=True)

    mask_smallest(model, nearest_ratio(share_at, share), allocation)


def mask_smallest(model: Chain, ratio: float, allocation: str) -> None:
    """Mask this ratio of the weights (``torch.nn.utils.prune``), in place."""
    layers = [(layer, "weight") for layer in convolutions(model)]
    for together in [[layer] for layer in layers] if allocation == "uniform" else [layers]:
        torch_prune.global_unstructured(
            together, pruning_method=torch_prune.L1Unstructured, amount=ratio
        )


def make_permanent(model: Chain) -> None:
    """Make the zeros of ``hold_at_zero`` part of the weights."""
    for layer in convolutions(model):
        torch_prune.remove(layer, "weight")


def share_removed(before: Size, after: Size, target: str, zeros: bool) -> float:
    """The share of the 'macs' or 'params' that is gone; with ``zeros`` a zero counts as gone."""
    left = getattr(after, f"nonzero_{target}" if zeros else target)
    return 1 - left / getattr(before, target)

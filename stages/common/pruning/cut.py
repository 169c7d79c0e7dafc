"""Cut a network: remove channels by a plan (structured), or write zeros in place (unstructured)."""

import copy
from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from torch.nn.utils import prune as torch_prune

from stages.common.core.cli import InputError, first_line
from stages.common.network.chain import Chain, rebuild
from stages.common.network.network import Network
from stages.common.network.size import Size, size_of
from stages.common.pruning.couplings import coupled, dependency_graph, network_name
from stages.common.pruning.groups import convolutions
from stages.common.pruning.plan.plan import Plan, nearest_ratio
from stages.common.pruning.plan.ranking import Group

# ------------------------------------------------------------------------------------- structured


Model = TypeVar("Model", bound=Network)


def keep_channels(model: Model, groups: list[Group], plan: Plan) -> Model:
    """A smaller network: each group keeps its most important channels, in their order.

    Raises ``InputError`` where what is left does not run.
    """
    smaller = copy.deepcopy(model)
    graph = dependency_graph(smaller)
    for group in groups:
        worst = removed_channels(group, plan[group.name])
        if worst:
            coupled(graph, smaller.get_submodule(group.layers[0]), worst).prune()
    if isinstance(smaller, Chain):
        return cast(Model, rebuild(smaller))
    require_runs(smaller)
    return smaller


def removed_channels(group: Group, kept: int) -> list[int]:
    """The indices of the least important channels: all but ``kept`` of them, ascending.

    Channels that go in sets lie as far apart as there are sets.
    """
    sets = len(group.importance)
    removed = sets - kept // group.channels_each
    worst = np.sort(np.argsort(group.importance, kind="stable")[:removed])
    return [int(each) + sets * part for part in range(group.channels_each) for each in worst]


def require_runs(model: Network) -> None:
    """Raise ``InputError`` unless the pruned network still takes its images."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *model.input_shape))
    except RuntimeError as error:
        raise InputError(
            f"torch-pruning cut {network_name(model)} so that it does not run "
            f"({first_line(error)}): name the layers around it in network.keep_whole, or "
            "choose another network.factory"
        ) from None


# ------------------------------------------------------------------------------------------ zeros


def hold_at_zero(
    model: Network,
    share: float,
    before: Size,
    target: str,
    allocation: str,
    keep_whole: Sequence[str] = (),
) -> None:
    """Hold the smallest weights of ``convolutions`` at 0, in place, until ``make_permanent``.

    The smallest of all layers together, or, with the allocation 'uniform', of each alone; as many
    as bring the share of ``before``'s target ('macs' or 'params') that is zero next to ``share``.
    """

    def share_at(ratio: float) -> float:
        trial = copy.deepcopy(model)
        mask_smallest(trial, ratio, allocation, keep_whole)
        make_permanent(trial)
        return share_removed(before, size_of(trial), target, zeros=True)

    mask_smallest(model, nearest_ratio(share_at, share), allocation, keep_whole)


def mask_smallest(
    model: Network, ratio: float, allocation: str, keep_whole: Sequence[str] = ()
) -> None:
    """Mask this ratio of the weights (``torch.nn.utils.prune``), in place."""
    layers = [(layer, "weight") for layer in convolutions(model, keep_whole)]
    for together in [[layer] for layer in layers] if allocation == "uniform" else [layers]:
        torch_prune.global_unstructured(
            together, pruning_method=torch_prune.L1Unstructured, amount=ratio
        )


def make_permanent(model: Network) -> None:
    """Make the zeros of ``hold_at_zero`` part of the weights."""
    for layer in model.modules():
        if hasattr(layer, "weight_mask"):
            torch_prune.remove(layer, "weight")


def share_removed(before: Size, after: Size, target: str, zeros: bool) -> float:
    """The share of the 'macs' or 'params' that is gone; with ``zeros`` a zero counts as gone."""
    left = getattr(after, f"nonzero_{target}" if zeros else target)
    return 1 - left / getattr(before, target)

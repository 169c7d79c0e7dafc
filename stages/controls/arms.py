"""The networks with which a pruned one is compared, before their training.

After Liu et al., "Rethinking the value of network pruning", ICLR 2019: what pruning brings shows
only beside a network of the same shape that inherits nothing. Each of them is an arm of the
comparison.
"""

import copy

import torch

from stages.common.core.cli import InputError
from stages.common.data.dataset import Images
from stages.common.network.chain import Chain, widths_of
from stages.common.network.size import size_of
from stages.common.pruning.cut import hold_at_zero, keep_channels, share_removed
from stages.common.pruning.importance import scored_groups
from stages.common.pruning.params import PruneParams, flat, no_wider
from stages.common.pruning.plan.goals import KeepWidths
from stages.common.pruning.plan.plan import make_plan

# The arms, in the order of tables and pictures; the others are controls for the first.
PRUNED, SCRATCH, SCRATCH_B, RANDOM, ZEROS = (
    "pruned", "scratch", "scratch_b", "random_channels", "zeros",
)  # fmt: skip


def require_smaller(base: Chain, pruned: Chain) -> None:
    """Raise ``InputError`` unless ``pruned`` is the base without some channels."""
    before, after = widths_of(base), widths_of(pruned)
    if before == after:
        raise InputError(
            f"the pruned network has all the channels of the base ({before}), so there is nothing "
            "to control; set prune.method to structured and prune.amount above 0, then run 'dvc "
            "repro prune'"
        )
    if not no_wider(after, before):
        raise InputError(
            f"the pruned network's widths {after} are not the base's {before} or fewer; run 'dvc "
            "repro prune'"
        )


def start(
    arm: str, seed: int, base: Chain, pruned: Chain, images: Images, params: PruneParams
) -> Chain:
    """The network that an arm trains, on the CPU; ``base`` and ``pruned`` stay as they are.

    Of ``pruned`` only the shape is used. 'zeros' is masked: call ``make_permanent`` after training.
    """
    if arm == PRUNED:
        return inheriting(base, pruned, images, params.importance, params.seed)
    if arm == RANDOM:
        return inheriting(base, pruned, images, "random", seed)
    if arm == ZEROS:
        return with_zeros(base, pruned, params)
    assert arm in (SCRATCH, SCRATCH_B), arm
    return new_network(base, pruned, seed)


def inheriting(base: Chain, pruned: Chain, images: Images, importance: str, seed: int) -> Chain:
    """The base without its least important channels, in the pruned network's shape."""
    groups = scored_groups(base, images, importance, seed)
    plan = make_plan(groups, KeepWidths(flat(widths_of(pruned))), round_to=1)
    return keep_channels(base, groups, plan)


def new_network(base: Chain, pruned: Chain, seed: int) -> Chain:
    """A new network in the pruned one's shape.

    The whitening filters are the base's: they are computed from the images and never trained, so
    that nothing learnt is inherited.
    """
    torch.manual_seed(seed)
    network = Chain(pruned.config)
    network.mean.copy_(base.mean)
    network.std.copy_(base.std)
    network.whitening.weight.data.copy_(base.whitening.weight)
    return network


def with_zeros(base: Chain, pruned: Chain, params: PruneParams) -> Chain:
    """The base, held at 0 in as large a share of ``prune.target`` as the pruned one lacks."""
    before = size_of(base)
    # Zeros can make up only for what is counted in weights; MACs stand for any other target.
    target = params.target if params.target in ("macs", "params") else "macs"
    share = share_removed(before, size_of(pruned), target, zeros=False)
    model = copy.deepcopy(base)
    hold_at_zero(model, share, before, target, params.allocation)
    return model

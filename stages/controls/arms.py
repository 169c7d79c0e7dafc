"""The networks with which a pruned one is compared, before their training.

After Liu et al., "Rethinking the value of network pruning", ICLR 2019: what pruning brings shows
only beside a network of the same shape that inherits nothing.
"""

import copy
import dataclasses

import torch

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import Images
from stages.common.network.network import Network, size_of, widths_of
from stages.common.pruning.channels import channel_scores, without_channels
from stages.common.pruning.params import PruneParams
from stages.common.pruning.pruning import TAYLOR_IMAGES, mask_weights, share_removed

# In the order of tables and pictures; the first is what the others are controls for.
PRUNED, SCRATCH, SCRATCH_B, RANDOM, ZEROS = (
    "pruned", "scratch", "scratch_b", "random_channels", "zeros",
)  # fmt: skip


def require_smaller(base: Network, pruned: Network) -> None:
    """Raise ``InputError`` unless ``pruned`` is the base without some channels."""
    pairs = list(zip(flat_widths(base), flat_widths(pruned), strict=False))
    same_layers = [len(block) for block in widths_of(base)] == [
        len(block) for block in widths_of(pruned)
    ]
    if not same_layers or any(after > before for before, after in pairs):
        raise InputError(
            f"the pruned network's widths {widths_of(pruned)} are not the base's "
            f"{widths_of(base)} or fewer; run 'dvc repro prune'"
        )
    if all(after == before for before, after in pairs):
        raise InputError(
            f"the pruned network has all the channels of the base ({widths_of(base)}), so there is "
            "nothing to control; set prune.method to structured and prune.amount above 0, then "
            "run 'dvc repro prune'"
        )


def start(
    arm: str, seed: int, base: Network, pruned: Network, images: Images, params: PruneParams
) -> Network:
    """What an arm begins with, on the CPU; ``base`` and ``pruned`` stay as they are.

    Of ``pruned`` only the shape counts. 'zeros' comes masked: call ``unmask`` after training.
    """
    if arm == PRUNED:
        return inheriting(base, pruned, images, params.importance, params.seed)
    if arm == RANDOM:
        return inheriting(base, pruned, images, "random", seed)
    if arm == ZEROS:
        return with_zeros(base, pruned, params)
    assert arm in (SCRATCH, SCRATCH_B), arm
    return new_network(base, pruned, seed)


def inheriting(
    base: Network, pruned: Network, images: Images, importance: str, seed: int
) -> Network:
    """The base without its least important channels, in the pruned network's shape."""
    scores = channel_scores(base, images[:TAYLOR_IMAGES], importance, seed)
    return without_channels(base, scores, flat_widths(pruned))


def new_network(base: Network, pruned: Network, seed: int) -> Network:
    """The pruned network's shape as training begins with it.

    The whitening filters are the base's: training computes them from the images and never
    changes them, so nothing that was learnt comes along.
    """
    torch.manual_seed(seed)
    network = Network(pruned.config)
    network.whitening.weight.data.copy_(base.whitening.weight)
    return network


def with_zeros(base: Network, pruned: Network, params: PruneParams) -> Network:
    """The base, held at 0 in as large a share of ``prune.target`` as the pruned one lacks."""
    before = size_of(base)
    # Zeros can make up for what is counted in weights only; MACs stand for any other target.
    target = params.target if hasattr(before, params.target) else "macs"
    structured = dataclasses.replace(params, target=target, method="structured")
    share = share_removed(before, size_of(pruned), structured)
    model = copy.deepcopy(base)
    mask_weights(model, before, share, dataclasses.replace(structured, method="unstructured"))
    return model


def flat_widths(model: Network) -> list[int]:
    return [width for block in widths_of(model) for width in block]

"""Pruning: how much is removed, and of what. What is left is fine-tuned by ``fine_tuning``."""

import copy
from collections.abc import Callable

import torch
from torch.nn.utils import prune as torch_prune

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import Images
from stages.common.network.network import Network, Size, size_of, widths_of
from stages.common.pruning.channels import (
    channel_scores,
    convolutions,
    ranks_in_layer,
    widths_at,
    without_channels,
)
from stages.common.pruning.latency_budget import in_blocks, widths_by_rank, widths_by_time
from stages.common.pruning.latency_model import LatencyModel
from stages.common.pruning.params import PruneParams, require_narrower, require_proportions

TAYLOR_IMAGES = 1000  # whose gradients rank the channels


# ------------------------------------------------------------------------------- how much to take


def share_removed(before: Size, after: Size, params: PruneParams) -> float:
    """The share of the target that is gone; where zeros are the method, a zero counts as gone."""
    prefix = "nonzero_" if params.method == "unstructured" else ""
    now = getattr(after, prefix + params.target)
    return 1 - now / getattr(before, params.target)


def budget_at(
    step: int, base: Network, params: PruneParams, latency: LatencyModel | None
) -> float | None:
    """Predicted FP32 milliseconds to reach after this step; None where no time is asked for."""
    if not params.needs_latency():
        return None
    assert latency is not None, "the stage 'device' hands over a profile where one is needed"
    before = latency.predict(widths_of(base))
    last = params.budget_ms or before * (1 - params.amount)
    return before - max(before - last, 0) * step / params.steps


def search_ratio(share_at: Callable[[float], float], amount: float) -> float:
    """The pruning ratio in [0, 1] whose share removed comes nearest to ``amount`` (bisection).

    ``share_at`` must not fall as the ratio grows. Widths are rounded, so it moves in jumps.
    """
    low, high = 0.0, 1.0
    best, best_error = 0.0, abs(share_at(0.0) - amount)
    for _ in range(12):
        ratio = (low + high) / 2
        share = share_at(ratio)
        if abs(share - amount) < best_error:
            best, best_error = ratio, abs(share - amount)
        low, high = (ratio, high) if share < amount else (low, ratio)
    return best


# --------------------------------------------------------------------------- structured: channels


def importance(model: Network, images: Images, params: PruneParams) -> list[torch.Tensor]:
    """Of every channel, as ``channel_scores``."""
    return channel_scores(model, images[:TAYLOR_IMAGES], params.importance, params.seed)


def ranking(model: Network, images: Images, params: PruneParams) -> list[torch.Tensor]:
    """By what channels are removed, all layers' together: their importance, with
    prune.allocation global; else their place in their own layer.

    Raises ``InputError`` when prune.proportions are not one number a convolution.
    """
    scores = importance(model, images, params)
    if params.allocation == "global":
        return scores
    if params.allocation == "uniform":
        return ranks_in_layer(scores)
    require_proportions(params.proportions, widths_of(model))
    return ranks_in_layer(scores, [each for block in params.proportions for each in block])


def keep_widths(
    model: Network, base: Network, step: int, images: Images, params: PruneParams
) -> Network:
    """A network with the most important channels of every layer: after the last step as many as
    prune.widths says, before it in between.

    Raises ``InputError`` when the base's layers are others, or narrower.
    """
    require_narrower(params.widths, widths_of(base))
    widths = [
        round(before - (before - after) * step / params.steps)
        for block, wanted in zip(widths_of(base), params.widths, strict=True)
        for before, after in zip(block, wanted, strict=True)
    ]
    return without_channels(model, importance(model, images, params), widths)


def remove_channels(
    model: Network, before: Size, amount: float, images: Images, params: PruneParams
) -> Network:
    """A network without as many channels as bring the share removed next to ``amount``.

    Raises ``InputError`` when even the narrowest widths keep too much.
    """
    scores = ranking(model, images, params)

    def share_at(ratio: float) -> float:
        shape = in_blocks(widths_at(ratio, scores, params.round_to), model.config["widths"])
        return share_removed(before, size_of(Network({**model.config, "widths": shape})), params)

    most = share_at(1.0)
    if amount > most:
        raise InputError(
            f"prune.amount is {params.amount}; with prune.round_to {params.round_to} at most "
            f"{most:.3f} of the {params.target} can be removed"
        )
    return without_channels(
        model, scores, widths_at(search_ratio(share_at, amount), scores, params.round_to)
    )


def remove_milliseconds(
    model: Network, budget_ms: float, images: Images, params: PruneParams, latency: LatencyModel
) -> Network:
    """A network without as many channels as bring its predicted FP32 latency within the budget.

    With prune.target latency its widths keep most importance within it; else they are those that
    the ranking leaves, cut no further than the budget asks. Raises ``InputError`` with the least
    latency that can be reached when it is above the budget.
    """
    shape = widths_of(model)
    if params.target == "latency":
        scores = importance(model, images, params)
        widths = widths_by_time(scores, shape, budget_ms, params.round_to, latency)
    else:
        scores = ranking(model, images, params)
        widths = widths_by_rank(scores, shape, budget_ms, params.round_to, latency)
    return without_channels(model, scores, widths)


# ---------------------------------------------------------------------------- unstructured: zeros


def mask_weights(model: Network, before: Size, amount: float, params: PruneParams) -> None:
    """Hold the smallest weights of the 3x3 convolutions at 0 (``torch.nn.utils.prune``), in place.

    Of all together, or, with prune.allocation uniform, of each alone. Their number brings the
    share removed next to ``amount``.
    """

    def mask(network: Network, ratio: float) -> None:
        layers = [(layer, "weight") for layer in convolutions(network)]
        together = [[layer] for layer in layers] if params.allocation == "uniform" else [layers]
        for group in together:
            torch_prune.global_unstructured(
                group, pruning_method=torch_prune.L1Unstructured, amount=ratio
            )

    def share_at(ratio: float) -> float:
        trial = copy.deepcopy(model)
        mask(trial, ratio)
        unmask(trial)
        return share_removed(before, size_of(trial), params)

    mask(model, search_ratio(share_at, amount))


def unmask(model: Network) -> None:
    """Make the zeros of ``mask_weights`` part of the weights."""
    for layer in convolutions(model):
        torch_prune.remove(layer, "weight")

"""Pruning: how much is removed, and of what. What is left is fine-tuned by ``fine_tuning``."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils import prune as torch_prune

from stages.common.core.cli import InputError
from stages.common.core.params import channel_widths, number, one_of, whole
from stages.common.data.cifar10 import Images
from stages.common.network.network import Network, Size, size_of, widths_of
from stages.common.pruning.channels import (
    IMPORTANCES,
    channel_scores,
    convolutions,
    ranks_in_layer,
    widths_at,
    without_channels,
)
from stages.common.pruning.latency_budget import in_blocks, widths_by_rank, widths_by_time
from stages.common.pruning.latency_model import LatencyModel

TAYLOR_IMAGES = 1000  # whose gradients rank the channels


@dataclass(frozen=True)
class PruneParams:
    """What is removed, in how many steps, and how the rest is fine-tuned."""

    seed: int = whole(at_least=0)
    method: str = one_of("structured", "unstructured")
    target: str = one_of("macs", "params", "latency")
    amount: float = number(at_least=0, below=1)
    budget_ms: float = number(at_least=0)
    widths: list = channel_widths(fewest_blocks=0)
    importance: str = one_of(*IMPORTANCES)
    allocation: str = one_of("global", "uniform", "proportional")
    proportions: list = channel_widths(fewest_blocks=0)
    round_to: int = whole(at_least=1, at_most=256)
    steps: int = whole(at_least=1)
    epochs_between: int = whole(at_least=0)
    epochs: int = whole(at_least=0)
    batch_size: int = whole(at_least=2)
    learning_rate: float = number(at_least=0)
    warmup: float = number(at_least=0, below=1)
    mixed: float = number(at_least=0, at_most=1)
    mixed_views: int = whole(at_least=1, at_most=1000)
    distillation: float = number(at_least=0, at_most=1)
    temperature: float = number(at_least=0.1)
    device: str = one_of("auto", "cpu", "cuda", "mps")

    def needs_latency(self) -> bool:
        return self.target == "latency" or self.budget_ms > 0

    def mixed_epochs(self, epochs: int) -> int:
        """How many of so many epochs are on mixtures: the first ones, rounded down.

        So that a short fine-tuning ends on plain views as well, and one epoch is all plain.
        """
        return math.floor(round(self.mixed * epochs, 6))  # 0.29 * 100 is 28.999...

    def most_mixed_epochs(self) -> int:
        """Of the step that has most of them."""
        between = self.epochs_between if self.steps > 1 else 0
        return self.mixed_epochs(max(self.epochs, between))


def refuse_contradictions(params: PruneParams) -> None:
    """Raise ``InputError`` where two params cannot both be had."""
    if params.method == "unstructured" and params.needs_latency():
        raise InputError(
            "prune.method is unstructured, but zeros in place save no time: prune.target latency "
            "and prune.budget_ms need prune.method structured"
        )
    if params.method == "unstructured" and params.widths:
        raise InputError(
            "prune.method is unstructured, but zeros in place change no width: prune.widths needs "
            "prune.method structured"
        )
    if params.budget_ms and params.widths:
        raise InputError(
            "prune.budget_ms and prune.widths both say how much to keep: set budget_ms to 0, or "
            "widths to []"
        )


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
    require_alike(params.proportions, widths_of(model))
    return ranks_in_layer(scores, [each for block in params.proportions for each in block])


def refuse_other_shapes(params: PruneParams, before: list[list[int]]) -> None:
    """Raise ``InputError`` where the layers that count in ``params`` are not those of the base."""
    ranked = params.method == "structured" and params.target != "latency"
    if params.widths:
        require_narrower(params.widths, before)
    elif ranked and params.allocation == "proportional":
        require_alike(params.proportions, before)


def require_alike(proportions: list[list[int]], before: list[list[int]]) -> None:
    """Raise ``InputError`` unless there is a proportion for every convolution."""
    if not alike(proportions, before):
        raise InputError(
            f"prune.proportions is {proportions}, the base has {before}; with prune.allocation "
            "proportional as many blocks and convolutions are expected (prune.allocation uniform "
            "or global needs none)"
        )


def alike(widths: list[list[int]], others: list[list[int]]) -> bool:
    """As many blocks, and in each as many convolutions."""
    return [len(block) for block in widths] == [len(block) for block in others]


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


def require_narrower(widths: list[list[int]], before: list[list[int]]) -> None:
    """Raise ``InputError`` unless channels can be removed from ``before`` to reach ``widths``."""
    if not alike(widths, before) or np.any(np.concatenate(widths) > np.concatenate(before)):
        raise InputError(
            f"prune.widths is {widths}, the base has {before}; expected as many blocks and "
            "convolutions, and none of them wider"
        )


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

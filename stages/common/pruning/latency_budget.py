"""From the channels' scores to widths within milliseconds: by time, or by rank as for MACs."""

import math

import numpy as np
import torch

from stages.common.core.cli import InputError
from stages.common.pruning.channels import widths_at
from stages.common.pruning.latency_model import LatencyModel
from stages.common.pruning.latency_search import Choices, allowed_widths, best_widths, shortest_ms

TINY = 1e-12  # a share of importance that is as good as none: its logarithm must be finite


def widths_by_time(
    scores: list[torch.Tensor],
    shape: list[list[int]],
    budget_ms: float,
    round_to: int,
    latency: LatencyModel,
) -> list[int]:
    """The widths within the budget that keep most importance, each layer its best channels.

    What counts is the product of the shares that the layers keep of their own importance: layers
    follow one another, so that none can make up for what another has lost. (A sum would starve
    the early layers, whose channels cost most.)

    ``shape`` are the widths now, ``scores`` one tensor (channels,) a layer. Raises ``InputError``
    when no widths are within the budget or the profile does not cover them.
    """
    require_known(shape, round_to, latency)
    widths = [allowed_widths(len(score), round_to) for score in scores]
    kept = [score.double().sort(descending=True).values.cumsum(0).numpy() for score in scores]
    gains = [
        np.log(np.maximum(sums[[width - 1 for width in each]] / max(sums[-1], TINY), TINY))
        for sums, each in zip(kept, widths, strict=True)
    ]
    choices = Choices(widths=widths, gains=gains)
    best = best_widths(latency, choices, budget_ms)
    if best is None:
        raise out_of_reach(budget_ms, shortest_ms(latency, choices), round_to, latency)
    return best


def widths_by_rank(
    scores: list[torch.Tensor],
    shape: list[list[int]],
    budget_ms: float,
    round_to: int,
    latency: LatencyModel,
) -> list[int]:
    """The widths of the smallest pruning ratio within the budget: what MACs would take, no more.

    Raises ``InputError`` as ``widths_by_time`` does.
    """
    require_known(shape, round_to, latency)
    channels = sum(len(score) for score in scores)
    least_ms = math.inf
    for gone in range(channels + 1):
        widths = widths_at(gone / channels, scores, round_to)
        predicted = latency.predict(in_blocks(widths, shape))
        if predicted <= budget_ms:
            return widths
        least_ms = min(least_ms, predicted)
    raise out_of_reach(budget_ms, least_ms, round_to, latency)


def in_blocks(widths: list[int], shape: list[list[int]]) -> list[list[int]]:
    """[1, 2, 3] in the blocks of [[4, 4], [4]] -> [[1, 2], [3]]."""
    flat = iter(widths)
    return [[next(flat) for _ in block] for block in shape]


def require_known(shape: list[list[int]], round_to: int, latency: LatencyModel) -> None:
    latency.require_covered(shape)
    if round_to % latency.step:
        raise InputError(
            f"prune.round_to is {round_to}; {latency.path} knows widths that are multiples of "
            f"{latency.step}: choose such a multiple"
        )


def out_of_reach(
    budget_ms: float, least_ms: float, round_to: int, latency: LatencyModel
) -> InputError:
    return InputError(
        f"prune.budget_ms or prune.amount asks for {budget_ms:.4f} ms; with prune.round_to "
        f"{round_to} the least that can be reached on {latency.device} is {least_ms:.4f} ms"
    )

"""Widths within a latency: how many channels each layer keeps so that most importance stays.

In a chain the milliseconds of a layer depend on its own width and on that of the layer before.
The choice is a knapsack over that chain (HALP, Shen et al. 2022, with measured tables as in
NetAdapt, Yang et al. 2018), solved layer by layer: for every width of a layer, the partial
choices that no other beats both in time and in importance.
"""

from dataclasses import dataclass

import numpy as np

from stages.common.core.cli import InputError
from stages.common.pruning.latency.model import ChainCost, LatencyModel, chain_latency

LABELS = 2000  # partial choices kept for a width; see best_choice
TIE = 1e-9  # of all importance, a channel: of two equally important choices the wider is better
TINY = 1e-12  # a share of importance that is as good as none: its logarithm must be finite
ROUNDING = 1e-9  # of a budget: the order in which milliseconds are added must not matter


@dataclass(frozen=True)
class Choices:
    """The widths to choose from, for each layer.

    ``widths[i]``, ascending: the numbers of channels that layer i may keep; ``gains[i]`` (options,)
    float64: the importance that is kept with each, which does not fall from one to the next.
    """

    widths: list[list[int]]
    gains: list[np.ndarray]


@dataclass(frozen=True)
class Labels:
    """Partial choices up to one width of a layer: (n,) milliseconds, (n,) gains, (n, layers)."""

    ms: np.ndarray
    gain: np.ndarray
    path: np.ndarray


def most_important_widths(
    importance: list[np.ndarray], budget_ms: float, round_to: int, latency: LatencyModel
) -> list[int]:
    """The widths within the budget that keep most importance, each layer its best channels.

    ``importance``: one array (channels,) a layer. Maximized is the product of the shares that the
    layers keep of their own importance: layers follow one another, so that none can make up for
    what another has lost. (A sum would starve the early layers, whose channels cost most.)

    Raises ``InputError`` when no widths are within the budget.
    """
    widths = [allowed_widths(len(each), round_to) for each in importance]
    choices = Choices(widths=widths, gains=log_shares(importance, widths))
    best = best_widths(latency, choices, budget_ms)
    if best is None:
        raise InputError(
            f"prune.budget_ms or prune.amount asks for {budget_ms:.4f} ms; with prune.round_to "
            f"{round_to} the least that can be reached on {latency.device} is "
            f"{shortest_ms(latency, choices):.4f} ms"
        )
    return best


def log_shares(importance: list[np.ndarray], widths: list[list[int]]) -> list[np.ndarray]:
    """The logarithm of the share of its importance that a layer keeps with each of its widths."""
    kept = [np.cumsum(np.sort(each.astype(np.float64))[::-1]) for each in importance]
    return [
        np.log(np.maximum(sums[[width - 1 for width in each]] / max(sums[-1], TINY), TINY))
        for sums, each in zip(kept, widths, strict=True)
    ]


def allowed_widths(width: int, round_to: int) -> list[int]:
    """The multiples of ``round_to`` below ``width``, and ``width`` itself."""
    return [*range(round_to, width, round_to), width]


def restricted(model: LatencyModel, cost: ChainCost, choices: Choices) -> ChainCost:
    """The cost with only the rows and columns of the allowed widths."""
    positions = [model.positions(widths) for widths in choices.widths]
    ends = np.zeros(1, dtype=np.int64)
    rows, columns = [ends, *positions], [*positions, ends]
    tables = [
        table[np.ix_(*chosen)] for table, *chosen in zip(cost.layers_ms, rows, columns, strict=True)
    ]
    return ChainCost(constant_ms=cost.constant_ms, layers_ms=tuple(tables))


def least_to_go(cost: ChainCost) -> list[np.ndarray]:
    """For each layer and option, the least milliseconds of all the layers after it."""
    to_go = [np.zeros(cost.layers_ms[-1].shape[1])]
    for table in reversed(cost.layers_ms):
        to_go.insert(0, (table + to_go[0]).min(axis=1))
    return to_go


def shortest_ms(model: LatencyModel, choices: Choices) -> float:
    """The least milliseconds that any choice takes, in any engine, in the model's precision."""
    costs = [restricted(model, cost, choices) for cost in model.costs]
    return min(float(cost.constant_ms + least_to_go(cost)[0][0]) for cost in costs)


def best_widths(model: LatencyModel, choices: Choices, budget_ms: float) -> list[int] | None:
    """The widths that keep most importance within ``budget_ms`` in one of the engines.

    Milliseconds are those of the model's precision. No single layer could be wider within the
    budget. None when nothing is fast enough.
    """
    budget_ms *= 1 + ROUNDING
    costs = [restricted(model, cost, choices) for cost in model.costs]
    gains = tie_broken(choices)
    found = [best_choice(cost, gains, budget_ms) for cost in costs]
    paths = [path for path in found if path is not None]
    if not paths:
        return None
    path = widened(max(paths, key=lambda path: total(gains, path)), gains, costs, budget_ms)
    return [widths[option] for widths, option in zip(choices.widths, path, strict=True)]


def tie_broken(choices: Choices) -> list[np.ndarray]:
    """Gains that rise with every channel, even one of no importance: it goes only to save time."""
    everything = sum(float(gain[-1]) for gain in choices.gains) or 1.0
    return [
        gain + TIE * everything * np.array(widths)
        for gain, widths in zip(choices.gains, choices.widths, strict=True)
    ]


def best_choice(
    cost: ChainCost, gains: list[np.ndarray], budget_ms: float, labels: int = LABELS
) -> np.ndarray | None:
    """The option of each layer (layers,) with the highest total gain within ``budget_ms``.

    Exact as long as no width has more than ``labels`` partial choices worth keeping. Beyond, of
    those whose times lie within budget_ms / ``labels`` of each other only the most important is
    kept: the result is never over the budget, and at least as good as the best choice for a
    budget that is smaller by layers / ``labels`` (with 6 layers and 2000: 0.3 %).
    """
    to_go = least_to_go(cost)
    start = Labels(np.array([cost.constant_ms]), np.zeros(1), np.zeros((1, 0), dtype=np.int64))
    fronts = [start]
    for layer, table in enumerate(cost.layers_ms):
        gain = gains[layer] if layer < len(gains) else np.zeros(table.shape[1])
        fronts = [
            worth_keeping(
                extended(fronts, table[:, option], float(gain[option]), option),
                budget_ms - to_go[layer + 1][option],
                bucket_ms=budget_ms / labels,
                most=labels,
            )
            for option in range(table.shape[1])
        ]
    [last] = fronts
    return last.path[-1, :-1] if len(last.ms) else None


def extended(fronts: list[Labels], ms: np.ndarray, gain: float, option: int) -> Labels:
    """All partial choices, each with this option of the next layer behind it."""
    path = np.concatenate([front.path for front in fronts])
    return Labels(
        ms=np.concatenate([front.ms + more for front, more in zip(fronts, ms, strict=True)]),
        gain=np.concatenate([front.gain for front in fronts]) + gain,
        path=np.column_stack([path, np.full(len(path), option)]),
    )


def worth_keeping(labels: Labels, limit_ms: float, bucket_ms: float, most: int) -> Labels:
    """Those within the limit that no other beats in both, ascending in time and gain."""
    order = np.lexsort((-labels.gain, labels.ms))
    order = order[labels.ms[order] <= limit_ms]
    gain = labels.gain[order]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(gain)[:-1]])
    order = order[gain > best_before]
    if len(order) > most:
        bucket = np.floor(labels.ms[order] / bucket_ms)
        order = order[np.append(bucket[1:] != bucket[:-1], True)]  # the last of each: most gain
    return Labels(labels.ms[order], labels.gain[order], labels.path[order])


def widened(
    path: np.ndarray, gains: list[np.ndarray], costs: list[ChainCost], budget_ms: float
) -> np.ndarray:
    """The choice with single layers made wider, most gain first, while an engine allows it."""
    while True:
        wider = [
            np.concatenate([path[:layer], [option], path[layer + 1 :]])
            for layer, gain in enumerate(gains)
            for option in range(path[layer] + 1, len(gain))
        ]
        fitting = [
            each for each in wider if min(chain_latency(cost, each) for cost in costs) <= budget_ms
        ]
        if not fitting:
            return path
        path = max(fitting, key=lambda each: total(gains, each))


def total(gains: list[np.ndarray], path: np.ndarray) -> float:
    return float(sum(gain[option] for gain, option in zip(gains, path, strict=True)))

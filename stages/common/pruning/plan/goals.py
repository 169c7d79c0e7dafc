"""The goal of every pruning step: widths, a share of the cost to remove, or a budget.

A cost is a function of how many channels each group keeps; ``costs.py`` has those of a network.
"""

from collections.abc import Callable
from dataclasses import dataclass

from stages.common.pruning.latency.model import LatencyModel
from stages.common.pruning.params import PruneParams, flat, require_narrower, require_proportions
from stages.common.pruning.plan.ranking import Ranking


@dataclass(frozen=True)
class Cost:
    """The cost of a network whose groups have the given numbers of channels.

    It must not fall when a group is wider, except where it is milliseconds. Where it is measured,
    asking takes seconds, and the answer has the noise of the machine.
    """

    of: Callable[[list[int]], float]
    base: float  # of the network before pruning
    unit: str
    measured: bool = False


@dataclass(frozen=True)
class KeepWidths:
    """Keep exactly so many channels, one number a group."""

    widths: list[int]


@dataclass(frozen=True)
class RemoveShare:
    """Remove the channels ranked lowest until about this share of the base's cost is gone."""

    share: float
    cost: Cost
    ranking: Ranking


@dataclass(frozen=True)
class StayWithin:
    """Remove the channels ranked lowest, no more than bring the cost within the budget."""

    budget: float
    cost: Cost
    ranking: Ranking


@dataclass(frozen=True)
class StayWithinMeasured:
    """Remove the channels ranked lowest until the measured cost is within the budget."""

    budget: float
    cost: Cost
    ranking: Ranking


@dataclass(frozen=True)
class StayWithinBytes:
    """Remove the channels ranked lowest until the bytes are within the budget, and give back those
    for which there is room.
    """

    budget: float
    cost: Cost
    ranking: Ranking


@dataclass(frozen=True)
class KeepMostWithin:
    """Keep the most importance that fits into the milliseconds."""

    budget_ms: float
    latency: LatencyModel


Goal = KeepWidths | RemoveShare | StayWithin | StayWithinMeasured | StayWithinBytes | KeepMostWithin


def goals_of(
    params: PruneParams, base: list[list[int]], cost: Cost, latency: LatencyModel | None
) -> list[Goal]:
    """The goal of every step, on the way from the base's widths to what the params ask for.

    ``cost`` is in milliseconds where there is a latency model or where it is measured, else in
    ``params.target``. Raises ``InputError`` for widths or proportions that do not fit the base, and
    for a rounding to widths that the latency model does not know.
    """
    steps = range(1, params.steps + 1)
    if params.widths:
        require_narrower(params.widths, base)
        return [KeepWidths(widths_after(step, params, base)) for step in steps]
    if params.counts_bytes():
        ranking = ranking_of(params, base)
        budgets = [budget_after(step, params, cost.base) for step in steps]
        return [StayWithinBytes(budget, cost, ranking) for budget in budgets]
    if latency is None and not cost.measured:
        ranking = ranking_of(params, base)
        shares = [params.amount * step / params.steps for step in steps]
        return [RemoveShare(share, cost, ranking) for share in shares]
    budgets = [budget_after(step, params, cost.base) for step in steps]
    if latency is None:
        ranking = ranking_of(params, base)
        return [StayWithinMeasured(budget, cost, ranking) for budget in budgets]
    latency.require_multiple(params.round_to)
    if params.target == "latency":
        return [KeepMostWithin(budget, latency) for budget in budgets]
    ranking = ranking_of(params, base)
    return [StayWithin(budget, cost, ranking) for budget in budgets]


def ranking_of(params: PruneParams, base: list[list[int]]) -> Ranking:
    """``base`` is empty for another network than the chain."""
    if params.allocation == "proportional":
        require_proportions(params.proportions, base)
    return Ranking(params.allocation, flat(params.proportions), one_by_one=not base)


def widths_after(step: int, params: PruneParams, base: list[list[int]]) -> list[int]:
    """The widths to reach after this step, on the way to ``prune.widths``."""
    return [
        round(whole - (whole - kept) * step / params.steps)
        for whole, kept in zip(flat(base), flat(params.widths), strict=True)
    ]


def budget_after(step: int, params: PruneParams, base: float) -> float:
    """The milliseconds or bytes to reach after this step; ``base``: of the unpruned network."""
    last = params.budget_ms or params.budget_bytes or base * (1 - params.amount)
    return base - max(base - last, 0) * step / params.steps

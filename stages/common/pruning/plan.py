"""How many channels each group keeps: a pure function of their importance, a goal and a rounding.

A plan knows no network. It is made over groups of channels, whose cost is a function of how many
each group keeps; ``groups.py`` says what the groups and the costs of a network are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.common.core.cli import InputError
from stages.common.pruning.latency.model import LatencyModel
from stages.common.pruning.latency.search import most_important_widths
from stages.common.pruning.params import PruneParams, flat, require_narrower, require_proportions

Plan = dict[str, int]  # the name of a group -> how many channels it keeps

CLOSE = 0.02  # of a budget: a measured time is not sought more closely


@dataclass(frozen=True)
class Group:
    """Channels that can be removed one by one, each with all that depends on it.

    Where a grouped convolution reads or makes them, they go in sets of ``channels_each``: one from
    each of its groups.
    """

    name: str
    importance: np.ndarray  # (sets,) float32, comparable between groups
    layers: tuple[str, ...] = ()  # the layers whose output channels they are, by module name
    channels_each: int = 1

    @property
    def width(self) -> int:
        """Number of channels."""
        return len(self.importance) * self.channels_each


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
class Ranking:
    """How channels of different groups compare.

    'global': by their importance. 'uniform' and 'proportional': by their place in their own group,
    so that the groups keep their own most important channels, in the proportions of their present
    widths ('uniform') or in the given ones. Channels at the same place go together, or, with
    ``one_by_one``, the less important first: with few channels and a large rounding an amount is
    then met more nearly.
    """

    allocation: str
    proportions: list[int]  # one a group, for 'proportional'
    one_by_one: bool = False

    def scores(self, groups: list[Group]) -> list[np.ndarray]:
        """One array (channels,) float32 a group; the lowest scores of all groups go first."""
        if self.allocation == "global":
            return [group.importance for group in groups]
        sizes = [len(group.importance) for group in groups]
        proportions = self.proportions if self.allocation == "proportional" else sizes
        places = [
            place_in_group(group.importance) / np.float32(proportion)
            for group, proportion in zip(groups, proportions, strict=True)
        ]
        return one_by_one(places, groups) if self.one_by_one else places


def place_in_group(importance: np.ndarray) -> np.ndarray:
    """-1 for the most important channel, -2 for the next, and so on: (channels,) float32."""
    places = np.argsort(np.argsort(importance, kind="stable"))
    return (places - len(importance)).astype(np.float32)


def one_by_one(scores: list[np.ndarray], groups: list[Group]) -> list[np.ndarray]:
    """The ranks of the scores among all; of equal scores the less important channel's is lower."""
    importance = np.concatenate([group.importance for group in groups])
    order = np.lexsort((importance, np.concatenate(scores)))
    ranks = np.empty(len(order), dtype=np.float32)
    ranks[order] = np.arange(len(order))
    return np.split(ranks, np.cumsum([len(score) for score in scores])[:-1])


# ------------------------------------------------------------------------------------------ goals


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
class KeepMostWithin:
    """Keep the most importance that fits into the milliseconds."""

    budget_ms: float
    latency: LatencyModel


Goal = KeepWidths | RemoveShare | StayWithin | StayWithinMeasured | KeepMostWithin


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


def budget_after(step: int, params: PruneParams, base_ms: float) -> float:
    """The milliseconds to reach after this step."""
    last = params.budget_ms or base_ms * (1 - params.amount)
    return base_ms - max(base_ms - last, 0) * step / params.steps


# ------------------------------------------------------------------------------------------- plan


def make_plan(groups: list[Group], goal: Goal, round_to: int) -> Plan:
    """How many channels each group keeps.

    Widths are multiples of ``round_to``, or what the group has, except where the goal names them.
    Raises ``InputError`` with what can be reached where the goal asks for more.
    """
    if isinstance(goal, KeepWidths):
        widths = goal.widths
    elif isinstance(goal, RemoveShare):
        widths = widths_near_share(goal, groups, round_to)
    elif isinstance(goal, StayWithin):
        widths = widths_within_budget(goal, groups, round_to)
    elif isinstance(goal, StayWithinMeasured):
        widths = widths_within_measured(goal, groups, round_to)
    else:
        importance = [group.importance for group in groups]
        widths = most_important_widths(importance, goal.budget_ms, round_to, goal.latency)
    return {group.name: width for group, width in zip(groups, widths, strict=True)}


def in_words(plan: Plan, groups: list[Group]) -> str:
    """'block1.conv1 32 of 64, block1.conv2 64 of 64'."""
    return ", ".join(f"{each.name} {plan[each.name]} of {each.width}" for each in groups)


def widths_near_share(goal: RemoveShare, groups: list[Group], round_to: int) -> list[int]:
    """The widths whose share of the cost removed is nearest to the one asked for."""
    scores = goal.ranking.scores(groups)

    def share_at(ratio: float) -> float:
        return 1 - goal.cost.of(widths_at(ratio, groups, scores, round_to)) / goal.cost.base

    most = share_at(1.0)
    if goal.share > most:
        raise InputError(
            f"prune.amount asks to remove {goal.share:g} of the {goal.cost.unit}; with "
            f"prune.round_to {round_to} at most {most:.3f} can be removed"
        )
    return widths_at(nearest_ratio(share_at, goal.share), groups, scores, round_to)


def widths_within_budget(goal: StayWithin, groups: list[Group], round_to: int) -> list[int]:
    """The widths of the smallest pruning ratio whose cost is within the budget."""
    scores = goal.ranking.scores(groups)
    count = sum(len(score) for score in scores)
    least = math.inf
    for removed in range(count + 1):
        widths = widths_at(removed / count, groups, scores, round_to)
        cost = goal.cost.of(widths)
        if cost <= goal.budget:
            return widths
        least = min(least, cost)
    raise out_of_reach(goal.budget, least, goal.cost.unit, round_to)


def widths_within_measured(
    goal: StayWithinMeasured, groups: list[Group], round_to: int
) -> list[int]:
    """Widths whose measured cost is within the budget, and above it by less than CLOSE if the
    machine's noise allows (bisection of the pruning ratio).
    """
    scores = goal.ranking.scores(groups)
    count = sum(len(score) for score in scores)

    def widths_without(removed: int) -> list[int]:
        return widths_at(removed / count, groups, scores, round_to)

    too_few, enough = 0, count
    if goal.cost.of(widths_without(too_few)) <= goal.budget:
        return widths_without(too_few)
    cost = goal.cost.of(widths_without(enough))
    if cost > goal.budget:
        raise out_of_reach(goal.budget, cost, goal.cost.unit, round_to)
    while enough - too_few > 1 and cost < (1 - CLOSE) * goal.budget:
        middle = (too_few + enough) // 2
        found = goal.cost.of(widths_without(middle))
        if found <= goal.budget:
            enough, cost = middle, found
        else:
            too_few = middle
    return widths_without(enough)


def out_of_reach(budget: float, least: float, unit: str, round_to: int) -> InputError:
    return InputError(
        f"prune.budget_ms or prune.amount asks for {budget:.4f} {unit}; with prune.round_to "
        f"{round_to} the least that can be reached is {least:.4f} {unit}"
    )


def widths_at(
    ratio: float, groups: list[Group], scores: list[np.ndarray], round_to: int
) -> list[int]:
    """The widths that remain when the lowest ``ratio`` of all channels is removed.

    Each is the nearest multiple of ``round_to``, but at least one multiple and no more than the
    group has.
    """
    ascending = np.sort(np.concatenate(scores))
    removed = round(ratio * len(ascending))
    threshold = ascending[removed - 1] if removed else -np.inf
    return [
        rounded_width(group, int((score > threshold).sum()), round_to)
        for group, score in zip(groups, scores, strict=True)
    ]


def rounded_width(group: Group, kept: int, round_to: int) -> int:
    """The channels that a group keeps where so many of its sets are to stay.

    Of channels that go in sets at least two sets stay: with one, a grouped convolution would be a
    depthwise one.
    """
    step = round_to // math.gcd(round_to, group.channels_each)
    least = 2 if group.channels_each > 1 else 1
    sets = max(math.ceil(least / step), round(kept / step)) * step
    return min(sets, len(group.importance)) * group.channels_each


def nearest_ratio(share_at: Callable[[float], float], share: float) -> float:
    """The pruning ratio in [0, 1] whose share removed comes nearest to ``share`` (bisection).

    ``share_at`` must not fall as the ratio grows. Widths are rounded, so it moves in jumps.
    """
    low, high = 0.0, 1.0
    best, best_error = 0.0, abs(share_at(0.0) - share)
    for _ in range(12):
        ratio = (low + high) / 2
        reached = share_at(ratio)
        if abs(reached - share) < best_error:
            best, best_error = ratio, abs(reached - share)
        low, high = (ratio, high) if reached < share else (low, ratio)
    return best

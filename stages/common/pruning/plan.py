"""How many channels each group keeps: a pure function of their importance, a goal and a rounding.

A plan knows no network. It is made over groups of channels, whose cost is a function of how many
each group keeps; ``groups.py`` says what the groups and the costs of a network are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.common.core.cli import InputError
from stages.common.pruning.latency_model import LatencyModel
from stages.common.pruning.latency_search import most_important_widths
from stages.common.pruning.params import PruneParams, flat, require_narrower, require_proportions

Plan = dict[str, int]  # the name of a group -> how many channels it keeps


@dataclass(frozen=True)
class Group:
    """Channels of one layer, each of which can be removed with all that depends on it."""

    name: str
    importance: np.ndarray  # (channels,) float32, comparable between groups


@dataclass(frozen=True)
class Cost:
    """The cost of a network whose groups have the given numbers of channels.

    It must not fall when a group is wider, except where it is milliseconds.
    """

    of: Callable[[list[int]], float]
    base: float  # of the network before pruning
    unit: str


@dataclass(frozen=True)
class Ranking:
    """How channels of different groups compare.

    'global': by their importance. 'uniform' and 'proportional': by their place in their own group,
    so that the groups keep their own most important channels, in the proportions of their present
    widths ('uniform') or in the given ones.
    """

    allocation: str
    proportions: list[int]  # one a group, for 'proportional'

    def scores(self, groups: list[Group]) -> list[np.ndarray]:
        """One array (channels,) float32 a group; the lowest scores of all groups go first."""
        if self.allocation == "global":
            return [group.importance for group in groups]
        sizes = [len(group.importance) for group in groups]
        proportions = self.proportions if self.allocation == "proportional" else sizes
        return [
            place_in_group(group.importance) / np.float32(proportion)
            for group, proportion in zip(groups, proportions, strict=True)
        ]


def place_in_group(importance: np.ndarray) -> np.ndarray:
    """-1 for the most important channel, -2 for the next, and so on: (channels,) float32."""
    places = np.argsort(np.argsort(importance, kind="stable"))
    return (places - len(importance)).astype(np.float32)


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
class KeepMostWithin:
    """Keep the most importance that fits into the milliseconds."""

    budget_ms: float
    latency: LatencyModel


Goal = KeepWidths | RemoveShare | StayWithin | KeepMostWithin


def goals_of(
    params: PruneParams, base: list[list[int]], cost: Cost, latency: LatencyModel | None
) -> list[Goal]:
    """The goal of every step, on the way from the base's widths to what the params ask for.

    ``cost`` is in milliseconds where there is a latency model, else in ``params.target``. Raises
    ``InputError`` for widths or proportions that do not fit the base, and for a rounding to widths
    that the latency model does not know.
    """
    steps = range(1, params.steps + 1)
    if params.widths:
        require_narrower(params.widths, base)
        return [KeepWidths(widths_after(step, params, base)) for step in steps]
    if latency is None:
        ranking = ranking_of(params, base)
        shares = [params.amount * step / params.steps for step in steps]
        return [RemoveShare(share, cost, ranking) for share in shares]
    latency.require_multiple(params.round_to)
    budgets = [budget_after(step, params, cost.base) for step in steps]
    if params.target == "latency":
        return [KeepMostWithin(budget, latency) for budget in budgets]
    ranking = ranking_of(params, base)
    return [StayWithin(budget, cost, ranking) for budget in budgets]


def ranking_of(params: PruneParams, base: list[list[int]]) -> Ranking:
    if params.allocation == "proportional":
        require_proportions(params.proportions, base)
    return Ranking(params.allocation, flat(params.proportions))


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
        widths = widths_near_share(goal, goal.ranking.scores(groups), round_to)
    elif isinstance(goal, StayWithin):
        widths = widths_within_budget(goal, goal.ranking.scores(groups), round_to)
    else:
        importance = [group.importance for group in groups]
        widths = most_important_widths(importance, goal.budget_ms, round_to, goal.latency)
    return {group.name: width for group, width in zip(groups, widths, strict=True)}


def in_words(plan: Plan, groups: list[Group]) -> str:
    """'block1.conv1 32 of 64, block1.conv2 64 of 64'."""
    return ", ".join(f"{each.name} {plan[each.name]} of {len(each.importance)}" for each in groups)


def widths_near_share(goal: RemoveShare, scores: list[np.ndarray], round_to: int) -> list[int]:
    """The widths whose share of the cost removed is nearest to the one asked for."""

    def share_at(ratio: float) -> float:
        return 1 - goal.cost.of(widths_at(ratio, scores, round_to)) / goal.cost.base

    most = share_at(1.0)
    if goal.share > most:
        raise InputError(
            f"prune.amount asks to remove {goal.share:g} of the {goal.cost.unit}; with "
            f"prune.round_to {round_to} at most {most:.3f} can be removed"
        )
    return widths_at(nearest_ratio(share_at, goal.share), scores, round_to)


def widths_within_budget(goal: StayWithin, scores: list[np.ndarray], round_to: int) -> list[int]:
    """The widths of the smallest pruning ratio whose cost is within the budget."""
    channels = sum(len(score) for score in scores)
    least = math.inf
    for removed in range(channels + 1):
        widths = widths_at(removed / channels, scores, round_to)
        cost = goal.cost.of(widths)
        if cost <= goal.budget:
            return widths
        least = min(least, cost)
    raise InputError(
        f"prune.budget_ms or prune.amount asks for {goal.budget:.4f} {goal.cost.unit}; with "
        f"prune.round_to {round_to} the least that can be reached is {least:.4f} {goal.cost.unit}"
    )


def widths_at(ratio: float, scores: list[np.ndarray], round_to: int) -> list[int]:
    """The widths that remain when the lowest ``ratio`` of all channels is removed.

    Each is the nearest multiple of ``round_to``, but at least one multiple and no more than the
    group has.
    """
    ascending = np.sort(np.concatenate(scores))
    removed = round(ratio * len(ascending))
    threshold = ascending[removed - 1] if removed else -np.inf
    return [
        min(len(score), max(1, round(int((score > threshold).sum()) / round_to)) * round_to)
        for score in scores
    ]


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

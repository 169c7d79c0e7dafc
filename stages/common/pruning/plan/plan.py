"""How many channels each group keeps: a pure function of their importance, a goal and a rounding.

A plan knows no network. It is made over groups of channels, whose cost is a function of how many
each group keeps; ``groups.py`` and ``costs.py`` say what the groups and the costs of a network are.
"""

import math
from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from stages.common.core.cli import InputError
from stages.common.pruning.latency.search import most_important_widths
from stages.common.pruning.plan.goals import (
    Goal,
    KeepWidths,
    RemoveShare,
    StayWithin,
    StayWithinBytes,
    StayWithinMeasured,
)
from stages.common.pruning.plan.ranking import Group

Plan = dict[str, int]  # the name of a group -> how many channels it keeps

CLOSE = 0.02  # of a budget: a measured time is not sought more closely


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
    elif isinstance(goal, StayWithinBytes):
        widths = widths_within_bytes(goal, groups, round_to)
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


def widths_within_bytes(goal: StayWithinBytes, groups: list[Group], round_to: int) -> list[int]:
    """The widths of the smallest pruning ratio whose bytes are within the budget; then each group
    gets back the channels for which there is room, the one that is whole for fewest bytes first.

    The arena is decided by a few layers: the others keep what takes no bytes from them.
    """
    scores = goal.ranking.scores(groups)
    count = sum(len(score) for score in scores)

    def is_within(widths: list[int]) -> bool:
        return goal.cost.of(widths) <= goal.budget

    def widths_without(removed: int) -> list[int]:
        return widths_at(removed / count, groups, scores, round_to)

    if not is_within(widths_without(count)):
        least = goal.cost.of(widths_without(count))
        raise bytes_out_of_reach(goal, least, round_to)
    removed = bisect_left(range(count), True, key=lambda each: is_within(widths_without(each)))
    widths = widths_without(removed)
    when_whole = [
        goal.cost.of(replaced(widths, index, group.width)) for index, group in enumerate(groups)
    ]
    for index in np.argsort(when_whole, kind="stable"):
        options = widths_of(groups[index], round_to)
        wider = [each for each in options if each > widths[index]]
        fitting = bisect_left(
            wider, True, key=lambda each: not is_within(replaced(widths, index, each))
        )
        if fitting:
            widths = replaced(widths, index, wider[fitting - 1])
    return widths


def widths_of(group: Group, round_to: int) -> list[int]:
    """All that the group can keep, ascending."""
    sets = len(group.importance)
    return sorted({rounded_width(group, kept, round_to) for kept in range(1, sets + 1)})


def replaced(widths: list[int], index: int, width: int) -> list[int]:
    return [*widths[:index], width, *widths[index + 1 :]]


def bytes_out_of_reach(goal: StayWithinBytes, least: float, round_to: int) -> InputError:
    return InputError(
        f"prune.budget_bytes or prune.amount asks for {goal.budget:,.0f} {goal.cost.unit}; with "
        f"prune.round_to {round_to} the least that can be reached is {least:,.0f}"
    )


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

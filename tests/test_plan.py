"""Plans of how many channels to keep, against all that could have been chosen; no network."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from stages.common.core.cli import InputError
from stages.common.pruning.latency.model import model_from
from stages.common.pruning.params import PruneParams, refuse_contradictions
from stages.common.pruning.plan.goals import (
    Cost,
    KeepMostWithin,
    KeepWidths,
    RemoveShare,
    StayWithin,
    StayWithinMeasured,
    goals_of,
)
from stages.common.pruning.plan.plan import in_words, make_plan, nearest_ratio, widths_at
from stages.common.pruning.plan.ranking import Group, Ranking
from tests.profiles import profile

SIZES = [8, 6, 12]
PROPORTIONS = [1, 2, 3]
ALLOCATIONS = ["global", "uniform", "proportional"]


def groups_of(seed: int, sizes: list[int] = SIZES) -> list[Group]:
    rng = np.random.default_rng(seed)
    return [
        Group(f"group{number}", rng.uniform(size=size).astype(np.float32))
        for number, size in enumerate(sizes)
    ]


def chain_cost(widths: list[int]) -> int:
    """Multiplications of a chain with 3 inputs and 10 outputs."""
    return sum(a * b for a, b in itertools.pairwise([3, *widths, 10]))


COST = Cost(chain_cost, base=chain_cost(SIZES), unit="macs")


def all_rankings(groups: list[Group], allocation: str, round_to: int) -> list[list[int]]:
    """The widths after removing no channel, the lowest ranked, the two lowest ranked, ..."""
    lost = []  # (rank, number of the group) of every channel
    for number, group in enumerate(groups):
        for place, importance in enumerate(sorted(group.importance, reverse=True), 1):
            share = {"global": 1, "uniform": SIZES[number], "proportional": PROPORTIONS[number]}
            rank = importance if allocation == "global" else -place / share[allocation]
            lost.append((rank, number))
    lost.sort()
    found = []
    for removed in range(len(lost) + 1):
        kept = [number for rank, number in lost if not removed or rank > lost[removed - 1][0]]
        multiples = [max(1, round(kept.count(number) / round_to)) for number in range(len(groups))]
        found.append([min(n * round_to, size) for n, size in zip(multiples, SIZES, strict=True)])
    return found


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7])
@pytest.mark.parametrize("round_to", [1, 2])
def test_the_share_removed_is_the_nearest_of_all_rankings(allocation, share, round_to):
    for seed in range(5):
        groups = groups_of(seed)
        goal = RemoveShare(share, COST, Ranking(allocation, PROPORTIONS))
        plan = make_plan(groups, goal, round_to)
        errors = [
            abs(1 - chain_cost(widths) / COST.base - share)
            for widths in all_rankings(groups, allocation, round_to)
        ]
        reached = 1 - chain_cost(list(plan.values())) / COST.base
        assert abs(reached - share) == pytest.approx(min(errors))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("budget", [60, 120, 200])
@pytest.mark.parametrize("round_to", [1, 2])
def test_a_budget_is_kept_by_removing_as_few_channels_as_possible(allocation, budget, round_to):
    for seed in range(5):
        groups = groups_of(seed)
        goal = StayWithin(budget, COST, Ranking(allocation, PROPORTIONS))
        plan = make_plan(groups, goal, round_to)
        everything = all_rankings(groups, allocation, round_to)
        first = next(widths for widths in everything if chain_cost(widths) <= budget)
        assert list(plan.values()) == first


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_within_milliseconds_no_other_widths_keep_more_importance(seed, share):
    shape = [[32, 24], [40]]
    latency = model_from(profile(shape, {"new": 1.0, "classic": 1.1}, seed=seed), "p.json")
    groups = groups_of(seed, [32, 24, 40])
    everything = list(itertools.product(*(range(8, size + 1, 8) for size in (32, 24, 40))))

    def milliseconds(widths: tuple[int, ...]) -> float:
        return latency.predict([[*widths[:2]], [widths[2]]])

    def kept(widths: tuple[int, ...]) -> float:
        """The product of the shares that the groups keep of their importance."""
        return math.prod(
            np.sort(group.importance)[::-1][:width].sum() / group.importance.sum()
            for group, width in zip(groups, widths, strict=True)
        )

    budget = float(np.quantile([milliseconds(widths) for widths in everything], share))
    plan = make_plan(groups, KeepMostWithin(budget, latency), round_to=8)
    widths = tuple(plan.values())
    fitting = [each for each in everything if milliseconds(each) <= budget]
    assert milliseconds(widths) <= budget
    assert kept(widths) == pytest.approx(max(kept(each) for each in fitting), rel=1e-6)


def test_no_group_is_starved_because_its_channels_cost_most():
    """The sum of all importance is largest with 8, 64 and 64 channels: a bottleneck."""
    shape, steps = [[64], [64], [64]], np.arange(1, 9)
    prices = (0.15, 0.10, 0.05)  # milliseconds of 8 channels, whatever the layer before has
    tables = [
        np.tile(price * steps, (rows, 1)) for price, rows in zip(prices, (1, 8, 8), strict=True)
    ]
    content = profile(shape)
    content["fitted"]["fp32"]["new"] = {
        "constant_ms": 0.0,
        "layers_ms": [table.tolist() for table in (*tables, np.zeros((8, 1)))],
    }
    latency = model_from(content, "deploy/profiles/test.json")
    equal = [Group(name, np.ones(64, dtype=np.float32)) for name in "abc"]
    goal = KeepMostWithin(0.6 * latency.predict(shape), latency)
    assert make_plan(equal, goal, round_to=8) == {"a": 32, "b": 32, "c": 64}


def test_groups_without_any_importance_can_be_planned():
    latency = model_from(profile([[32, 32]]), "p.json")
    budget = 0.6 * latency.predict([[32, 32]])
    groups = [Group(name, np.zeros(32, dtype=np.float32)) for name in "ab"]
    plan = make_plan(groups, KeepMostWithin(budget, latency), round_to=8)
    assert latency.predict([list(plan.values())]) <= budget


def test_widths_that_are_named_are_kept_without_rounding():
    plan = make_plan(groups_of(0), KeepWidths([5, 6, 7]), round_to=4)
    assert plan == {"group0": 5, "group1": 6, "group2": 7}
    assert in_words(plan, groups_of(0)) == "group0 5 of 8, group1 6 of 6, group2 7 of 12"


def test_uniform_allocation_takes_the_same_share_of_every_group():
    groups = groups_of(0, [16, 32, 64])
    goal = StayWithin(1500, Cost(chain_cost, 1, "macs"), Ranking("uniform", []))
    widths = list(make_plan(groups, goal, round_to=1).values())
    assert widths[1] == pytest.approx(2 * widths[0], abs=2)
    assert widths[2] == pytest.approx(4 * widths[0], abs=4)


def test_uniform_allocation_one_by_one_meets_an_amount_more_nearly():
    """Of equal groups all lose a multiple at once, else the one whose channels matter least."""
    groups = groups_of(0, [16, 16, 16])
    cost = Cost(chain_cost, base=chain_cost([16] * 3), unit="macs")
    shares, widths = {}, {}
    for single in (False, True):
        goal = RemoveShare(0.25, cost, Ranking("uniform", [], one_by_one=single))
        widths[single] = list(make_plan(groups, goal, round_to=8).values())
        shares[single] = 1 - chain_cost(widths[single]) / cost.base
    assert len(set(widths[False])) == 1
    assert sorted(widths[True]) == [8, 16, 16]
    assert abs(shares[True] - 0.25) < abs(shares[False] - 0.25)


def test_proportional_allocation_keeps_the_proportions_or_all_that_a_group_has():
    groups = groups_of(0, [16, 16, 64])
    goal = StayWithin(1000, Cost(chain_cost, 1, "macs"), Ranking("proportional", PROPORTIONS))
    widths = list(make_plan(groups, goal, round_to=1).values())
    assert 8 < widths[0] < 16
    assert widths[1] == 16, "all, since twice the first is more than it has"
    assert widths[2] == pytest.approx(3 * widths[0], abs=3)


def test_widths_are_rounded_but_never_to_nothing():
    def widths(ratio: float, *scores: np.ndarray) -> list[int]:
        groups = [Group(str(number), score) for number, score in enumerate(scores)]
        return widths_at(ratio, groups, list(scores), round_to=8)

    scores = [np.arange(1.0, 33.0), np.arange(101.0, 133.0)]
    assert widths(0.0, *scores) == [32, 32]
    assert widths(0.25, *scores) == [16, 32]
    assert widths(0.5, *scores) == [8, 32]
    assert widths(1.0, *scores) == [8, 8]
    assert widths(1.0, np.random.default_rng(0).uniform(size=5)) == [5]


@pytest.mark.parametrize(
    ("channels_each", "round_to", "expected"),
    [
        (1, 4, [8, 8, 8, 4, 4]),
        (3, 1, [24, 21, 18, 15, 12]),  # one from each of three groups
        (3, 4, [24, 24, 24, 12, 12]),  # a multiple of 3 and of 4
        (4, 8, [32, 32, 24, 16, 16]),
        (3, 16, [24, 24, 24, 24, 24]),  # no multiple of 3 and of 16 is small enough
    ],
)
def test_channels_of_a_grouped_convolution_go_in_sets_and_widths_are_multiples_all_the_same(
    channels_each, round_to, expected
):
    group = Group("grouped", np.arange(8.0), channels_each=channels_each)
    assert group.width == 8 * channels_each
    found = [
        widths_at(removed / 8, [group], [group.importance], round_to)[0] for removed in range(5)
    ]
    assert found == expected
    fewest = widths_at(1.0, [group], [group.importance], 1)
    assert fewest == [1 if channels_each == 1 else 2 * channels_each], "two sets: not depthwise"


NOISE = 0.005  # of a time measured here


def measured(asked: list[list[int]]) -> Cost:
    """Noisy milliseconds of a chain; every question is noted."""
    rng = np.random.default_rng(0)

    def of(widths: list[int]) -> float:
        asked.append(widths)
        return chain_cost(widths) * (1 + NOISE * rng.uniform(-1, 1))

    return Cost(of, base=chain_cost([64, 64, 64]), unit="ms measured here", measured=True)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_a_measured_budget_is_met_with_few_measurements(share):
    groups, asked = groups_of(0, [64, 64, 64]), []
    cost = measured(asked)
    goal = StayWithinMeasured(share * cost.base, cost, Ranking("global", []))
    widths = list(make_plan(groups, goal, round_to=1).values())
    assert 0.95 * goal.budget < chain_cost(widths) <= (1 + NOISE) * goal.budget
    assert len(asked) <= 10


def test_a_measured_budget_that_the_base_meets_removes_nothing():
    groups = groups_of(0, [64, 64, 64])
    goal = StayWithinMeasured(2 * chain_cost([64] * 3), measured([]), Ranking("uniform", []))
    assert list(make_plan(groups, goal, round_to=8).values()) == [64, 64, 64]


def test_a_measured_budget_out_of_reach_says_what_the_narrowest_network_takes():
    goal = StayWithinMeasured(3.0, measured([]), Ranking("global", []))
    with pytest.raises(InputError, match=r"asks for 3\.0000 ms .* can be reached is 23\d\."):
        make_plan(groups_of(0, [64, 64, 64]), goal, round_to=8)


def test_an_amount_out_of_reach_says_what_can_be_reached():
    goal = RemoveShare(0.99, COST, Ranking("global", []))
    most = 1 - chain_cost([4, 4, 4]) / COST.base
    with pytest.raises(InputError, match=rf"remove 0\.99 of the macs; .* at most {most:.3f} can"):
        make_plan(groups_of(0), goal, round_to=4)


def test_a_budget_out_of_reach_says_the_least_that_can_be_reached():
    goal = StayWithin(3.0, Cost(chain_cost, 1, "ms on test"), Ranking("global", []))
    with pytest.raises(InputError, match=r"asks for 3\.0000 ms on test; .* is 84\.0000 ms on test"):
        make_plan(groups_of(0), goal, round_to=4)


def test_the_search_finds_the_nearest_reachable_share():
    def steps(ratio: float) -> float:
        return round(ratio * 8) / 8

    assert steps(nearest_ratio(steps, 0.5)) == 0.5
    assert steps(nearest_ratio(steps, 0.3)) == 0.25
    assert steps(nearest_ratio(steps, 0.36)) == 0.375
    assert nearest_ratio(steps, 0.0) == 0.0


# -------------------------------------------------------------------------- from params to goals

PARAMS = PruneParams(
    seed=0,
    method="structured",
    target="macs",
    amount=0.5,
    budget_ms=0,
    precision="fp32",
    budget_bytes=0,
    widths=[],
    importance="taylor",
    allocation="global",
    proportions=[],
    round_to=4,
    steps=2,
    epochs_between=1,
    epochs=1,
    batch_size=50,
    learning_rate=0.05,
    warmup=0.1,
    mixup_share=0.0,
    mixup_views=3,
    distillation=0.9,
    temperature=4.0,
    device="cpu",
)
BASE = [[8, 6], [12]]
WIDTHS = [[4, 6], [3]]
LATENCY = model_from(profile([[32, 32]]), "deploy/profiles/test.json")
MILLISECONDS = Cost(chain_cost, base=2.0, unit="ms on test")


def test_every_step_removes_its_part_of_the_amount():
    goals = goals_of(dataclasses.replace(PARAMS, amount=0.6, steps=3), BASE, COST, None)
    assert [goal.share for goal in goals] == pytest.approx([0.2, 0.4, 0.6])


def test_every_step_goes_its_part_of_the_way_to_the_widths():
    goals = goals_of(dataclasses.replace(PARAMS, widths=WIDTHS), BASE, COST, None)
    assert goals == [KeepWidths([6, 6, 8]), KeepWidths([4, 6, 3])]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target": "latency", "amount": 0.5}, [1.5, 1.0]),
        ({"target": "latency", "budget_ms": 0.8}, [1.4, 0.8]),
        ({"target": "latency", "budget_ms": 3.0}, [2.0, 2.0]),  # more than it takes: nothing goes
    ],
)
def test_every_step_saves_its_part_of_the_milliseconds(changes, expected):
    params = dataclasses.replace(PARAMS, round_to=8, **changes)
    goals = goals_of(params, [[32, 32]], MILLISECONDS, LATENCY)
    assert [goal.budget_ms for goal in goals] == pytest.approx(expected)


def test_a_budget_with_another_target_is_met_by_rank():
    params = dataclasses.replace(PARAMS, round_to=8, budget_ms=0.8)
    goals = goals_of(params, [[32, 32]], MILLISECONDS, LATENCY)
    assert [goal.budget for goal in goals] == pytest.approx([1.4, 0.8])
    assert all(isinstance(goal, StayWithin) for goal in goals)


def test_milliseconds_measured_here_are_a_budget_whatever_the_target():
    cost = dataclasses.replace(MILLISECONDS, measured=True)
    for changes in ({"target": "latency", "amount": 0.6}, {"budget_ms": 0.8}):
        goals = goals_of(dataclasses.replace(PARAMS, **changes), [], cost, None)
        assert [goal.budget for goal in goals] == pytest.approx([1.4, 0.8])
        assert all(isinstance(goal, StayWithinMeasured) for goal in goals)


def test_a_rounding_that_the_profile_does_not_know_is_refused():
    params = dataclasses.replace(PARAMS, target="latency")
    with pytest.raises(InputError, match=r"prune\.round_to is 4; .* multiples of 8"):
        goals_of(params, [[32, 32]], MILLISECONDS, LATENCY)


@pytest.mark.parametrize("proportions", [[], [[1, 2]], [[1], [2, 4]]], ids=str)
def test_proportions_of_another_network_are_refused(proportions):
    params = dataclasses.replace(PARAMS, allocation="proportional", proportions=proportions)
    with pytest.raises(InputError, match=r"prune\.proportions is \[.*, the base has \[\[8, 6\]"):
        goals_of(params, BASE, COST, None)


@pytest.mark.parametrize("widths", [[[8, 6]], [[8], [6, 12]], [[9, 6], [12]]], ids=str)
def test_widths_that_the_base_does_not_have_are_refused(widths):
    params = dataclasses.replace(PARAMS, widths=widths)
    with pytest.raises(InputError, match=r"prune\.widths is .*, the base has \[\[8, 6\], "):
        goals_of(params, BASE, COST, None)


def test_zeros_in_place_are_refused_where_time_is_to_be_saved():
    zeros = dataclasses.replace(PARAMS, method="unstructured")
    refuse_contradictions(zeros)
    for changes in ({"target": "latency"}, {"budget_ms": 0.5}):
        with pytest.raises(InputError, match="zeros in place save no time"):
            refuse_contradictions(dataclasses.replace(zeros, **changes))


@pytest.mark.parametrize(
    "changes", [{"method": "unstructured"}, {"budget_ms": 0.5, "target": "latency"}]
)
def test_named_widths_are_refused_where_something_else_decides(changes):
    with pytest.raises(InputError, match=r"prune\.widths"):
        refuse_contradictions(dataclasses.replace(PARAMS, widths=WIDTHS, **changes))


def test_int8_milliseconds_are_refused_where_none_are_asked_for():
    int8 = dataclasses.replace(PARAMS, precision="int8")
    with pytest.raises(InputError, match=r"prune\.precision is int8, but no milliseconds"):
        refuse_contradictions(int8)
    for changes in ({"target": "latency"}, {"budget_ms": 0.5}):
        refuse_contradictions(dataclasses.replace(int8, **changes))


def test_a_checkpoint_records_the_precision_only_where_it_is_int8():
    assert "precision" not in PARAMS.provenance()
    assert dataclasses.replace(PARAMS, precision="int8").provenance()["precision"] == "int8"

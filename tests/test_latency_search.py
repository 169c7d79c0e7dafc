"""Widths within a budget of milliseconds, against all that could have been chosen."""

import dataclasses
import itertools

import numpy as np
import pytest

from stages.common.pruning.latency.model import model_from
from stages.common.pruning.latency.search import (
    Choices,
    allowed_widths,
    best_choice,
    best_widths,
    restricted,
    shortest_ms,
    tie_broken,
)
from tests.profiles import profile

SHAPE = [[32, 24], [40, 32]]


def choices_of(seed: int, shape: list[list[int]] = SHAPE, round_to: int = 8) -> Choices:
    """Importance of channels drawn at random, best first."""
    rng = np.random.default_rng(seed)
    widths = [allowed_widths(width, round_to) for block in shape for width in block]
    gains = []
    for options in widths:
        sums = np.sort(rng.uniform(size=options[-1]))[::-1].cumsum()
        gains.append(sums[[width - 1 for width in options]])
    return Choices(widths=widths, gains=gains)


def brute_force(model, choices: Choices) -> list[tuple[float, float, list[int]]]:
    """(milliseconds, importance, widths) of everything that can be chosen."""
    found = []
    for options in itertools.product(*(range(len(each)) for each in choices.widths)):
        widths = [each[option] for each, option in zip(choices.widths, options, strict=True)]
        gain = sum(each[option] for each, option in zip(choices.gains, options, strict=True))
        found.append((model.predict([widths[:2], widths[2:]]), gain, widths))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.2, 0.45, 0.7])
def test_the_widths_are_the_best_of_all_within_the_budget(seed, share):
    model = model_from(profile(SHAPE, {"new": 1.0, "classic": 1.1}, seed=seed), "p.json")
    choices = choices_of(seed)
    everything = brute_force(model, choices)
    times = sorted(ms for ms, _, _ in everything)
    budget = times[int(share * len(times))]
    best = max(gain for ms, gain, _ in everything if ms <= budget)
    [(ms, gain)] = [
        (ms, gain)
        for ms, gain, widths in everything
        if widths == best_widths(model, choices, budget)
    ]
    assert ms <= budget
    assert gain == pytest.approx(best, rel=1e-12)


def test_the_best_widths_of_every_engine_are_compared():
    """Each engine is fast where the other is slow; the better of the two results counts."""
    content = profile([[16, 16]], {"new": 1.0, "classic": 1.0})
    narrow, wide = [[0.9], [0.1]], [[0.1], [0.9]]
    for name, last in (("new", narrow), ("classic", wide)):
        tables = [[[0.1, 0.1]], [[0.1, 0.1], [0.1, 0.1]], last]
        content["fitted"]["fp32"][name] = {"constant_ms": 0.0, "layers_ms": tables}
    model = model_from(content, "p.json")
    choices = Choices(widths=[[8, 16], [8, 16]], gains=[np.array([1.0, 2.0])] * 2)
    assert best_widths(model, choices, 0.35) == [16, 16]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_milliseconds_are_those_of_the_precision(precision):
    """As FP32 the first layer is dear, as INT8 the second."""
    content = profile([[16, 16]])
    dear, cheap = [[0.1, 0.9]], [[0.1, 0.1]]
    for name, first in (("fp32", dear), ("int8", cheap)):
        second = [[0.1, 0.1]] * 2 if name == "fp32" else [[0.1, 0.9]] * 2
        tables = [first, second, [[0.0], [0.0]]]
        content["fitted"][name]["new"] = {"constant_ms": 0.0, "layers_ms": tables}
    model = dataclasses.replace(model_from(content, "p.json"), precision=precision)
    choices = Choices(widths=[[8, 16], [8, 16]], gains=[np.array([1.0, 2.0])] * 2)
    expected = [8, 16] if precision == "fp32" else [16, 8]
    assert best_widths(model, choices, 0.3) == expected
    assert model.predict([expected]) == pytest.approx(0.2)


def test_latency_search_keeps_channels_that_save_no_time():
    """Not even channels of no importance: all widths cost the same but the third layer's."""
    content = profile(SHAPE)
    layers = [np.full_like(table, 0.1) for table in content["fitted"]["fp32"]["new"]["layers_ms"]]
    layers[2] = np.tile(np.linspace(0.1, 0.5, 5), (3, 1))
    content["fitted"]["fp32"]["new"]["layers_ms"] = [table.tolist() for table in layers]
    choices = choices_of(0)
    choices.gains[1][:] = 1.0
    widths = best_widths(model_from(content, "p.json"), choices, 0.05 + 0.4 + 0.31)
    assert widths == [32, 24, 24, 32]


def test_a_network_within_the_budget_stays_whole():
    model = model_from(profile(SHAPE), "p.json")
    assert best_widths(model, choices_of(0), model.predict(SHAPE)) == [32, 24, 40, 32]


def test_the_least_reachable_latency_is_that_of_the_fastest_choice():
    model = model_from(profile(SHAPE, {"new": 1.0, "classic": 0.9}), "p.json")
    choices = choices_of(0)
    least, _, fastest = min(brute_force(model, choices), key=lambda row: row[0])
    assert shortest_ms(model, choices) == pytest.approx(least)
    assert best_widths(model, choices, 0.999 * least) is None
    assert best_widths(model, choices, least) == fastest


def test_few_partial_choices_cost_little_importance_and_never_the_budget():
    """With too many to keep all, the result holds what best_choice states."""
    model = model_from(profile(SHAPE, seed=5), "p.json")
    choices = choices_of(5)
    [cost] = [restricted(model, each, choices) for each in model.engines["fp32"].values()]
    everything = brute_force(model, choices)
    budget, labels = float(np.median([ms for ms, _, _ in everything])), 8
    path = best_choice(cost, tie_broken(choices), budget, labels=labels)
    widths = [each[option] for each, option in zip(choices.widths, path, strict=True)]
    [(ms, gain)] = [(ms, gain) for ms, gain, each in everything if each == widths]
    smaller = budget * (1 - 5 / labels)
    assert ms <= budget
    assert gain >= max((gain for ms, gain, _ in everything if ms <= smaller), default=0)


def test_a_width_that_is_no_multiple_may_stay_as_it_is():
    assert allowed_widths(32, 8) == [8, 16, 24, 32]
    assert allowed_widths(20, 8) == [8, 16, 20]
    assert allowed_widths(5, 8) == [5]

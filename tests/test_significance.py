"""Exact tests: against sums over all outcomes, and where there is nothing to test."""

import math

import numpy as np
import pytest

from stages.common.core.accuracy import share_interval
from stages.common.measuring.exact_tests import (
    holm,
    mcnemar_exact,
    signed_rank_exact,
)

COUNTS = [(0, 1), (0, 12), (3, 9), (20, 20), (41, 77), (230, 310), (1200, 1000), (5000, 4400)]


def tail(successes: int, trials: int, share: float) -> float:
    """P(X <= successes) of a binomial X."""
    return sum(
        math.comb(trials, count) * share**count * (1 - share) ** (trials - count)
        for count in range(successes + 1)
    )


def fair_tail(successes: int, trials: int) -> float:
    """The same for a fair coin, exact for any number of trials."""
    return sum(math.comb(trials, count) for count in range(successes + 1)) / 2**trials


@pytest.mark.parametrize(("first", "second"), COUNTS)
def test_mcnemar_is_twice_the_smaller_tail_of_a_fair_coin(first, second):
    expected = min(1.0, 2 * fair_tail(min(first, second), first + second))
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-8)
    assert mcnemar_exact(second, first) == mcnemar_exact(first, second)


def test_no_disagreement_is_no_difference():
    assert mcnemar_exact(0, 0) == 1
    assert share_interval(0, 0) == (0, 1)


def test_share_interval_is_clopper_pearsons():
    # In closed form for 0 of n and 1 of 1: 0.025 = (1 - p)^n.
    assert share_interval(0, 12) == pytest.approx((0, 1 - 0.025 ** (1 / 12)))
    assert share_interval(1, 1) == pytest.approx((0.025, 1))
    low, high = share_interval(4, 20)
    assert 1 - tail(3, 20, low) == pytest.approx(0.025)
    assert tail(4, 20, high) == pytest.approx(0.025)


def test_the_interval_excludes_a_half_exactly_when_mcnemar_is_significant():
    for only_first in range(31):
        low, high = share_interval(only_first, 30)
        assert (low > 0.5 or high < 0.5) == (mcnemar_exact(only_first, 30 - only_first) < 0.05)


@pytest.mark.parametrize("count", [5, 8, 12])
def test_signed_ranks_count_the_signs_that_are_as_extreme(count):
    differences = np.random.default_rng(count).normal(loc=0.4, size=count)
    ranks = np.abs(differences).argsort().argsort() + 1
    sums = [
        sum(rank for bit, rank in enumerate(ranks) if signs >> bit & 1) for signs in range(2**count)
    ]
    found = ranks[differences > 0].sum()
    at_most = np.mean([each <= found for each in sums])
    at_least = np.mean([each >= found for each in sums])
    assert signed_rank_exact(differences) == pytest.approx(min(1, 2 * min(at_most, at_least)))


def test_differences_that_all_have_one_sign_give_the_smallest_p_value():
    assert signed_rank_exact(np.arange(1.0, 13)) == 2 / 2**12


@pytest.mark.filterwarnings("error")
def test_no_differences_are_no_difference():
    assert signed_rank_exact(np.zeros(10)) == 1


def test_zeros_are_dropped():
    differences = np.array([0.3, -0.1, 0.7, 0.5, 0.9])
    padded = np.concatenate([differences, np.zeros(4)])
    assert signed_rank_exact(padded) == signed_rank_exact(differences)


def test_holm_multiplies_each_p_value_by_the_number_of_those_not_smaller():
    # By hand: sorted 0.01, 0.02, 0.03, 0.5, times 4, 3, 2, 1, never less than one before.
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]

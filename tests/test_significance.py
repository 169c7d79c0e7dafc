"""Exact tests and intervals give what scipy gives."""

import numpy as np
import pytest
from scipy import stats

from stages.common.measuring.exact_tests import (
    holm,
    mcnemar_exact,
    share_interval,
    signed_rank_exact,
)

COUNTS = [(0, 1), (0, 12), (3, 9), (20, 20), (41, 77), (230, 310), (1200, 1000), (5000, 4400)]


@pytest.mark.parametrize(("first", "second"), COUNTS)
def test_mcnemar_is_the_two_sided_binomial_test(first, second):
    expected = stats.binomtest(first, first + second, 0.5).pvalue
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-8)
    assert mcnemar_exact(second, first) == mcnemar_exact(first, second)


def test_no_disagreement_is_no_difference():
    assert mcnemar_exact(0, 0) == 1
    assert share_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("successes", "failures"), COUNTS)
def test_share_interval_is_clopper_pearsons(successes, failures):
    trials = successes + failures
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert share_interval(successes, trials) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_interval_excludes_a_half_exactly_when_mcnemar_is_significant():
    for only_first in range(31):
        low, high = share_interval(only_first, 30)
        assert (low > 0.5 or high < 0.5) == (mcnemar_exact(only_first, 30 - only_first) < 0.05)


@pytest.mark.parametrize("shift", [0.0, 0.3, -0.8, 3.0])
@pytest.mark.parametrize("count", [8, 12, 25])
def test_signed_ranks_are_wilcoxons(count, shift):
    differences = np.random.default_rng(count).normal(loc=shift, size=count)
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert signed_rank_exact(differences) == pytest.approx(expected, rel=1e-12)


def test_differences_of_nothing_are_no_difference():
    assert signed_rank_exact(np.zeros(10)) == 1


def test_holm_corrects_by_what_is_left_and_keeps_the_order():
    # By hand: sorted 0.01, 0.02, 0.03, 0.5, times 4, 3, 2, 1, never less than one before.
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]

"""Whether a difference is more than chance: exact tests, computed without scipy.

All are two-sided, and exact: they need no large samples and no shape of distribution.
"""

import math
from collections.abc import Callable

import numpy as np

from stages.common.measuring.bootstrap import CONFIDENCE

BISECTIONS = 60  # of [0, 1]: the bound is then known to 1e-18


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """p-value of two classifiers being right equally often on the same images.

    ``only_first`` and ``only_second`` count the images that one of them alone got right. Without
    a difference each falls on either side like a coin: p is twice the smaller binomial tail.
    Source: McNemar 1947, https://doi.org/10.1007/BF02295996, in its exact form.
    """
    trials = only_first + only_second
    return min(1.0, 2 * lower_tail(min(only_first, only_second), trials, share=0.5))


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """The Clopper-Pearson interval of a binomial share, at ``CONFIDENCE``.

    It excludes 1/2 exactly when ``mcnemar_exact`` is below 1 - CONFIDENCE. Without trials nothing
    is known of the share: (0, 1). Source: https://doi.org/10.1093/biomet/26.4.404
    """
    tail = (1 - CONFIDENCE) / 2
    failures = trials - successes
    # P(X >= successes) = P(failures <= trials - successes) grows with the share; P(X <= successes)
    # falls with it.
    low = bisect(lambda share: lower_tail(failures, trials, 1 - share) > tail) if successes else 0.0
    high = bisect(lambda share: lower_tail(successes, trials, share) < tail) if failures else 1.0
    return low, high


def lower_tail(successes: int, trials: int, share: float) -> float:
    """P(X <= successes) of a binomial X, for a share in (0, 1)."""
    # Terms one by one through their logarithms: 10,000 trials overflow any other way.
    terms = [
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(share)
        + (trials - count) * math.log1p(-share)
        for count in range(successes + 1)
    ]
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def bisect(is_above: Callable[[float], bool]) -> float:
    """The share in (0, 1) at which ``is_above`` turns from false to true."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return (low + high) / 2


def signed_rank_exact(differences: np.ndarray) -> float:
    """Wilcoxon's p-value of paired differences (N,) float that lie around 0.

    Exact when swapping the two sides of a pair changes nothing but its sign, whatever the noise
    is. N differences can give no less than 2 / 2**N. Zeros are dropped; equal sizes are ranked in
    the order in which they come. Source: Wilcoxon 1945, https://doi.org/10.2307/3001968
    """
    differences = differences[differences != 0]
    order = np.argsort(np.abs(differences), kind="stable")
    ranks = np.empty(len(differences), int)
    ranks[order] = np.arange(1, len(differences) + 1)
    positive = int(ranks[differences > 0].sum())
    smaller = min(positive, int(ranks.sum()) - positive)
    counts = sums_of_ranks(len(differences))
    return min(1.0, 2 * sum(counts[: smaller + 1]) / 2 ** len(differences))


def sums_of_ranks(count: int) -> list[int]:
    """How many subsets of the ranks 1 to ``count`` have the sum 0, 1, 2, ..."""
    counts = [1]
    for rank in range(1, count + 1):
        without, including = counts + [0] * rank, [0] * rank + counts
        counts = [a + b for a, b in zip(without, including, strict=True)]
    return counts


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number, in the order given.

    The chance that any of them falls below a level without a difference is at most that level.

    Source: Holm 1979, https://www.jstor.org/stable/4615733
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected

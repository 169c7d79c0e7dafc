"""Whether a difference is more than chance: two-sided exact tests.

They need neither large samples nor an assumption about the shape of a distribution.
"""

import numpy as np
import scipy  # its parts load when they are first used

from stages.common.core.accuracy import share_interval


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """p-value of two classifiers being right equally often on the same images.

    ``only_first`` and ``only_second`` count the images that one of them alone got right. Without
    a difference each falls on either side like a coin: it is a binomial test of 1/2. The p-value is
    below 1 - CONFIDENCE exactly when ``share_interval`` of the two counts excludes 1/2.
    Source: McNemar 1947, https://doi.org/10.1007/BF02295996, in its exact form.
    """
    trials = only_first + only_second
    return float(scipy.stats.binomtest(only_first, trials).pvalue) if trials else 1.0


def discordant(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """The numbers of images that only the first and only the second got right; predictions and
    labels (N,) of class indices.
    """
    first_right, second_right = first == labels, second == labels
    return int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())


def paired_change(only_first: int, only_second: int, images: int) -> tuple[float, float, float]:
    """The second's accuracy less the first's on the same images, in points, and its interval.

    The interval is that of the second's share among the images that only one of them got right,
    whose number is taken as given; so it excludes 0 exactly when ``mcnemar_exact``, which takes it
    so too, is below 1 - CONFIDENCE.
    """
    points = 100 * (only_first + only_second) / images
    low, high = share_interval(only_second, only_first + only_second)
    change = 100 * (only_second - only_first) / images
    return change, points * (2 * low - 1), points * (2 * high - 1)


def signed_rank_exact(differences: np.ndarray) -> float:
    """Wilcoxon's p-value of paired differences (N,) float that lie around 0.

    Exact when swapping the two sides of a pair changes nothing but its sign, whatever the noise
    is. N differences can give no less than 2 / 2**N. Zeros are dropped.
    Source: Wilcoxon 1945, https://doi.org/10.2307/3001968
    """
    if not differences.any():
        return 1.0
    return float(scipy.stats.wilcoxon(differences, method="exact").pvalue)


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

"""One accuracy for every runtime, so that figures compare."""

import math

import numpy as np
import scipy  # its parts load when they are first used

CONFIDENCE = 0.95  # of every interval
MOST_DECIMALS = 2  # of an accuracy in percent


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of right predictions, in percent; both arrays (N,) of class indices."""
    return 100.0 * int(np.count_nonzero(predictions == labels)) / len(labels)


def sampling_error(percent: float, images: int) -> float:
    """Half the 95 % interval of an accuracy, in points: 1.96 sqrt(p (1 - p) / n)."""
    share = percent / 100
    return 196 * math.sqrt(share * (1 - share) / images)


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """The Clopper-Pearson interval of a binomial share, at ``CONFIDENCE``.

    Without trials the share may be anything: (0, 1). Source: https://doi.org/10.1093/biomet/26.4.404
    """
    if not trials:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def decimals_of(images: int) -> int:
    """The fewest decimals of a percentage in which one image more or less shows, at most two:
    none up to 100 images, one up to 1,000.
    """
    return min(max(len(str(images - 1)) - 2, 0), MOST_DECIMALS)


def points_text(points: float, images: int) -> str:
    """ "-0.12 points", with no more decimals than so many images carry."""
    return f"{round(points, decimals_of(images)) or 0:+g} points"


def percent_text(percent: float, images: int) -> str:
    """ "94.1 %", with the decimals that so many images carry."""
    return f"{percent:.{decimals_of(images)}f} %"

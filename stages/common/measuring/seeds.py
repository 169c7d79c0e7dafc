"""The same work under several seeds: the seeds that params may name, means and differences."""

import math
import statistics
from typing import Any

import scipy  # its parts load when they are first used

from stages.common.core.params import rule

MOST_SEEDS = 10


def seeds() -> Any:
    """A list of different whole numbers; at least two, for one has no spread."""
    return rule(
        lambda value: (
            isinstance(value, list)
            and 2 <= len(value) <= MOST_SEEDS
            and all(type(seed) is int and seed >= 0 for seed in value)
            and len(set(value)) == len(value)
        ),
        f"a list of 2 to {MOST_SEEDS} different whole numbers of at least 0",
    )


def spread(values: list[float]) -> dict:
    """Mean, sample standard deviation (n - 1) and n of at least two values."""
    return {
        "mean": round(statistics.mean(values), 4),
        "std": round(statistics.stdev(values), 4),
        "n": len(values),
    }


def paired_difference(ours: list[float], others: list[float]) -> dict:
    """How far ``ours`` is above ``others``, position i of both being of the same seed.

    The mean of the n differences, their sample standard deviation s, and the 95 % interval
    mean ± t(n - 1) s / sqrt(n). It covers the choice of the seed only: the base and the images are
    the same for all.
    """
    differences = [one - other for one, other in zip(ours, others, strict=True)]
    mean, std = statistics.mean(differences), statistics.stdev(differences)
    quantile = float(scipy.stats.t.ppf(0.975, df=len(differences) - 1))  # 2.5 % on either side
    half = quantile * std / math.sqrt(len(differences))
    return {
        "points": round(mean, 4),
        "std": round(std, 4),
        "low": round(mean - half, 4),
        "high": round(mean + half, 4),
        "n": len(differences),
    }

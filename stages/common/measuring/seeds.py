"""The same work under several seeds: which may be asked for, what they say together."""

import math
import statistics
from typing import Any

from stages.common.core.params import rule

# Student's t, two-sided 95 %, by degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
MOST_SEEDS = len(T_95) + 1


def seeds() -> Any:
    """A list of different whole numbers; two at least, for one has no spread."""
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
    """Mean, sample standard deviation (n - 1) and n of two values or more."""
    return {
        "mean": round(statistics.mean(values), 4),
        "std": round(statistics.stdev(values), 4),
        "n": len(values),
    }


def paired_difference(ours: list[float], others: list[float]) -> dict:
    """How far ``ours`` is above ``others``, position i of both being of the same seed.

    The mean of the n differences, their sample standard deviation s, and the 95 % interval
    mean ± t(n - 1) s / sqrt(n). It is what the seeds make uncertain, and nothing else: the base
    and the images are the same for all.
    """
    differences = [one - other for one, other in zip(ours, others, strict=True)]
    mean, std = statistics.mean(differences), statistics.stdev(differences)
    half = T_95[len(differences) - 1] * std / math.sqrt(len(differences))
    return {
        "points": round(mean, 4),
        "std": round(std, 4),
        "low": round(mean - half, 4),
        "high": round(mean + half, 4),
        "n": len(differences),
    }

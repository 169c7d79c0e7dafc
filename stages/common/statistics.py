"""Latency samples summed up: percentiles, and a ratio of medians with its interval."""

import numpy as np

CONFIDENCE = 0.95


def latency_summary(samples_ms: np.ndarray) -> dict:
    """Median, 5th and 95th percentile of samples in any order (numpy sorts them)."""
    p5, median, p95 = np.percentile(samples_ms, [5, 50, 95])
    return {
        "latency_ms_median": float(median),
        "latency_ms_p5": float(p5),
        "latency_ms_p95": float(p95),
    }


def ratio_of_medians(
    samples: np.ndarray, base: np.ndarray, bootstrap_samples: int, seed: int
) -> dict:
    """Median of ``samples`` divided by that of ``base``, with a bootstrap interval.

    Both are (rounds,), and position i of both was measured in the same round. Rounds are drawn
    with replacement and taken from both together, so a drift that hits both cancels out.
    """
    assert samples.shape == base.shape, f"{samples.shape} and {base.shape} are not paired"
    rng = np.random.default_rng(seed)
    ratios = np.empty(bootstrap_samples)
    for index in range(bootstrap_samples):
        rounds = rng.integers(len(base), size=len(base))
        ratios[index] = np.median(samples[rounds]) / np.median(base[rounds])
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {
        "ratio_to_base": float(np.median(samples) / np.median(base)),
        "ratio_to_base_low": float(low),
        "ratio_to_base_high": float(high),
    }

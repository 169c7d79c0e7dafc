"""Percentiles of latency samples, and ratios of medians with bootstrap intervals."""

import numpy as np

from stages.common.core.accuracy import CONFIDENCE


def latency_summary(samples_ms: np.ndarray) -> dict:
    """Median, 5th and 95th percentile of samples in any order (numpy sorts them)."""
    p5, median, p95 = np.percentile(samples_ms, [5, 50, 95])
    return {
        "latency_ms_median": float(median),
        "latency_ms_p5": float(p5),
        "latency_ms_p95": float(p95),
    }


def ratio_of_medians(
    samples: np.ndarray,
    base: np.ndarray,
    bootstrap_samples: int,
    seed: int,
    name: str = "ratio_to_base",
) -> dict:
    """Median of ``samples`` divided by that of ``base``, with a bootstrap interval.

    The keys are ``name``, and ``name`` with _low and _high. Both are (rounds, calls) or (rounds,),
    and position i of both was measured in the same round. Whole rounds are drawn with replacement
    and taken from both together, so a drift that hits both cancels out, and calls in a row, which
    are alike, do not count as independent.
    """
    assert samples.shape == base.shape, f"{samples.shape} and {base.shape} are not paired"
    rounds = np.random.default_rng(seed).integers(len(base), size=(bootstrap_samples, len(base)))
    low, high = interval(block_ratios(samples[rounds], base[rounds]))
    return {
        name: float(np.median(samples) / np.median(base)),
        f"{name}_low": low,
        f"{name}_high": high,
    }


def ratio_over_blocks(
    samples: np.ndarray, base: np.ndarray, bootstrap_samples: int, seed: int
) -> tuple[float, float, float]:
    """Ratio of medians in each block, its median over the blocks, with a bootstrap interval.

    Both are (blocks, rounds, calls) or (blocks, rounds). In each block the models were loaded
    anew, because a model's place in memory changes its speed for as long as it stays loaded. More
    rounds of one load do not show that, so the bootstrap is hierarchical: blocks are drawn with
    replacement, and whole rounds within each of them, from both models together. One disturbed
    block does not move the median over the blocks.
    """
    assert samples.shape == base.shape, f"{samples.shape} and {base.shape} are not paired"
    rng = np.random.default_rng(seed)
    blocks, rounds = samples.shape[:2]
    ratios = np.empty(bootstrap_samples)
    for index in range(bootstrap_samples):
        drawn_blocks = rng.integers(blocks, size=(blocks, 1))
        drawn = drawn_blocks, rng.integers(rounds, size=(blocks, rounds))
        ratios[index] = np.median(block_ratios(samples[drawn], base[drawn]))
    return float(np.median(block_ratios(samples, base))), *interval(ratios)


def block_ratios(samples: np.ndarray, base: np.ndarray) -> np.ndarray:
    """(blocks,) ratios of the medians of two (blocks, ...)."""
    return block_medians(samples) / block_medians(base)


def block_medians(samples: np.ndarray) -> np.ndarray:
    return np.median(samples.reshape(len(samples), -1), axis=1)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The central ``CONFIDENCE`` of bootstrap values."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)

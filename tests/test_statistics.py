import numpy as np
import pytest
from scipy import stats

from stages.common.measuring.bootstrap import latency_summary, ratio_of_medians, ratio_over_blocks


def lognormal(rng: np.random.Generator, median: float, rounds: int) -> np.ndarray:
    """Samples like latencies: most near the median, a tail of long ones."""
    return median * np.exp(rng.normal(scale=0.1, size=rounds))


def test_unsorted_samples_give_the_right_percentiles():
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 102.0))
    summary = latency_summary(samples)
    assert summary == {"latency_ms_median": 51.0, "latency_ms_p5": 6.0, "latency_ms_p95": 96.0}


def test_one_outlier_does_not_move_the_median():
    assert latency_summary(np.array([2.0, 1.0, 1000.0]))["latency_ms_median"] == 2.0


def test_interval_covers_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        base = lognormal(rng, median=4.0, rounds=60)
        samples = lognormal(rng, median=2.0, rounds=60)
        ratio = ratio_of_medians(samples, base, bootstrap_samples=200, seed=seed)
        covered += ratio["ratio_to_base_low"] <= 0.5 <= ratio["ratio_to_base_high"]
    assert 88 <= covered <= 100


def test_identical_samples_give_a_ratio_of_exactly_1():
    samples = lognormal(np.random.default_rng(0), median=4.0, rounds=50)
    ratio = ratio_of_medians(samples, samples, bootstrap_samples=100, seed=0)
    assert list(ratio.values()) == [1.0, 1.0, 1.0]


def test_drift_shared_by_both_cancels_out_of_the_interval():
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 200)  # the machine becomes three times slower
    base = drift * rng.normal(4, 0.01, 200)
    samples = drift * rng.normal(2, 0.01, 200)
    paired = ratio_of_medians(samples, base, bootstrap_samples=500, seed=0)
    shuffled = ratio_of_medians(rng.permutation(samples), base, bootstrap_samples=500, seed=0)
    assert width(paired) < width(shuffled) / 10


def width(ratio: dict) -> float:
    return ratio["ratio_to_base_high"] - ratio["ratio_to_base_low"]


def test_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(0)
    base, samples = lognormal(rng, 4.0, 40), lognormal(rng, 2.0, 40)
    first, again, other = (
        ratio_of_medians(samples, base, bootstrap_samples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_samples_that_are_not_paired_are_refused():
    with pytest.raises(AssertionError, match="not paired"):
        ratio_of_medians(np.ones(3), np.ones(4), bootstrap_samples=10, seed=0)


def test_the_interval_is_scipys_bootstrap_interval():
    rng = np.random.default_rng(0)
    base, samples = lognormal(rng, 4.0, 80), lognormal(rng, 2.0, 80)
    expected = stats.bootstrap(
        (samples, base),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=0,
    ).confidence_interval
    ratio = ratio_of_medians(samples, base, bootstrap_samples=4000, seed=0, name="ratio")
    assert (ratio["ratio_low"], ratio["ratio_high"]) == pytest.approx(tuple(expected), rel=0.005)


def test_with_one_round_a_block_the_interval_over_blocks_is_scipys_for_their_median():
    ratios = lognormal(np.random.default_rng(0), 1.1, 25)
    expected = stats.bootstrap(
        (ratios,), np.median, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    ratio, low, high = ratio_over_blocks(
        ratios[:, None], np.ones((25, 1)), bootstrap_samples=4000, seed=0
    )
    assert ratio == np.median(ratios)
    assert (low, high) == pytest.approx(tuple(expected), rel=0.005)


def test_differences_between_loads_are_part_of_the_interval_over_blocks():
    """More rounds of one load do not see it."""
    rng = np.random.default_rng(0)
    placement = np.exp(rng.normal(scale=0.05, size=(2, 12, 1)))  # of 12 loads of each
    samples, base = placement * np.exp(rng.normal(scale=0.01, size=(2, 12, 50)))
    _, low, high = ratio_over_blocks(samples, base, bootstrap_samples=500, seed=0)
    one_load = ratio_of_medians(samples[0], base[0], bootstrap_samples=500, seed=0)
    assert high - low > 5 * width(one_load)


def test_one_disturbed_block_does_not_move_the_ratio_over_blocks():
    base = np.random.default_rng(0).normal(4, 0.01, size=(9, 20))
    samples = base / 2
    samples[3] *= 10
    ratio, _, _ = ratio_over_blocks(samples, base, bootstrap_samples=100, seed=0)
    assert ratio == pytest.approx(0.5)

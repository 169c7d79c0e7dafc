"""The sessions of all models timed in one run, and what follows from it for each."""

import numpy as np

from stages.common.inference.sessions import Session, random_image
from stages.common.measuring.bootstrap import latency_summary, ratio_of_medians
from stages.common.measuring.interleaved_timing import time_interleaved
from stages.common.measuring.latency_rows import rounded, speed
from stages.common.measuring.matrix_product import matrix_product, matrix_product_gflops
from stages.common.measuring.params import BenchmarkParams
from stages.runtimes.comparison.catalogue import OPENCV, timed_call

RATIO_KEYS = ("ratio_to_opencv", "ratio_to_opencv_low", "ratio_to_opencv_high")


def time_sessions(
    sessions: list[dict[str, Session]], params: BenchmarkParams
) -> tuple[list[dict[str, np.ndarray]], float]:
    """The milliseconds (rounds, calls) of each model's sessions, and the GFLOP/s of the matrix
    product, which is timed in the same rounds.
    """
    calls = [
        timed_call(session, random_image(session.shape, params.seed))
        for by_name in sessions
        for session in by_name.values()
    ]
    samples_ms = time_interleaved(
        [*calls, matrix_product(params.threads)],
        rounds=params.rounds,
        calls=params.calls,
        warmup=params.warmup,
        seed=params.seed,
        progress="runtimes",
    )
    columns = iter(samples_ms.swapaxes(0, 1))
    by_model = [{name: next(columns) for name in by_name} for by_name in sessions]
    return by_model, matrix_product_gflops(float(np.median(next(columns))))


def latencies(
    samples_ms: dict[str, np.ndarray], macs: int, matmul_gflops: float, params: BenchmarkParams
) -> dict[str, dict]:
    """By runtime; the ratio is to the faster engine of OpenCV, None where none is right."""
    engines = [name for name in samples_ms if name.startswith(OPENCV)]
    opencv = min(engines, key=lambda name: float(np.median(samples_ms[name])), default=None)
    blocks = {}
    for name, samples in samples_ms.items():
        summary = latency_summary(samples)
        ratio: dict = dict.fromkeys(RATIO_KEYS)
        if opencv is not None:
            ratio = ratio_of_medians(
                samples, samples_ms[opencv], params.bootstrap_samples, params.seed, RATIO_KEYS[0]
            )
        rates = speed(macs, summary["latency_ms_median"], matmul_gflops)
        blocks[name] = {**rounded(summary | ratio), **rates}
    return blocks

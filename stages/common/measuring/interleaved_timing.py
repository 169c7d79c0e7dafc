"""Calls timed in interleaved rounds, and warnings when the machine is too busy for that.

A device runs one model again and again; a benchmark runs many in turn, and the first calls after
another model are slower, while caches, predictors and the clock adapt. So each model has a turn of
several calls, of which those dropped come first: at least SETTLE_CALLS, for at least SETTLE_MS.

Measured with the committed models on an idle AMD EPYC, 8 models in turns (medians of 120 turns):
the 1st, 2nd, 3rd, 4th and 6th call took 1.61, 1.07, 1.01, 1.01 and 1.00 of a settled call's time
for pruned in ONNX Runtime (0.32 ms), 2.48, 1.05, 1.02, 1.01 and 1.01 for pruned_int8 (0.11 ms), and
no more than 1.25, 1.05, 1.02, 1.01 and 1.00 in OpenCV. With this rule, further models changed a
model's median by at most 0.4 %; with the second of two calls, by up to 9.8 %.
"""

import gc
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from stages.common.core.cli import InputError
from stages.common.measuring.machine import allowed_cores, available_cores, cpu_quota

SETTLE_CALLS = 4
SETTLE_MS = 4.0


def measurement_orders(contestants: int, rounds: int, seed: int) -> np.ndarray:
    """(rounds, contestants): in every row all contestants, in a random order."""
    in_turn = np.tile(np.arange(contestants), (rounds, 1))
    return np.random.default_rng(seed).permuted(in_turn, axis=1)


def time_interleaved(
    contestants: Sequence[Callable[[], object]],
    rounds: int,
    calls: int,
    warmup: int,
    seed: int,
    progress: str | None = "benchmark",
) -> np.ndarray:
    """(rounds, contestants, calls) milliseconds; each round gives every contestant a turn.

    ``warmup``: calls of each before the first round; ``progress`` names the progress bar, None
    shows none.
    """
    for call in contestants:
        for _ in range(warmup):
            call()
    samples_ns = np.empty((rounds, len(contestants), calls))
    orders = measurement_orders(len(contestants), rounds, seed)
    gc.disable()
    try:
        bar = tqdm(orders, desc=progress, unit="round", disable=progress is None)
        for round_index, order in enumerate(bar):
            for index in order:
                samples_ns[round_index, index] = time_turn(contestants[index], calls)
    finally:
        gc.enable()
    return samples_ns / 1e6


def time_turn(call: Callable[[], object], calls: int) -> list[int]:
    """Nanoseconds of so many calls in a row, after those that settle it and do not count."""
    began = time.perf_counter_ns()
    dropped = 0
    while dropped < SETTLE_CALLS or time.perf_counter_ns() - began < SETTLE_MS * 1e6:
        call()
        dropped += 1
    samples_ns = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        call()
        samples_ns.append(time.perf_counter_ns() - start)
    return samples_ns


def check_machine(threads: int, key: str) -> float | None:
    """The load average before the work begins; prints a warning when something else is running.

    Raises ``InputError``, which names the param ``key``, for more threads than there are cores.
    """
    require_cores(threads, key)
    load = load_average()
    warn_if_busy(load, threads)
    return load


def require_cores(threads: int, key: str) -> None:
    """Raise ``InputError`` when the params ask for more threads than this process has cores."""
    cores = available_cores()
    if threads > cores:
        raise InputError(f"{key} is {threads}; allowed: 1 to {cores}, the cores it may use")


def load_average() -> float | None:
    """Mean number of runnable processes in the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def warn_if_busy(load: float | None, threads: int) -> None:
    """Print a line for each disturbance: other processes, and a CPU quota that pauses this one."""
    cores, quota = allowed_cores(), cpu_quota()
    if load is not None and load > max(cores - threads, 0.5):
        print(
            f"warning: load average {load} on {cores} cores: something else is running or ran in "
            "the last minute; latencies may be too long (ratios suffer less)"
        )
    if quota is not None and quota < cores:
        print(
            f"warning: a CPU quota of {quota:g} on {cores} cores (of this container or control "
            "group): it is paused whenever its share is used up; latencies may be too long"
        )

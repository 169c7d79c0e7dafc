"""Calls timed in interleaved rounds, and warnings when the machine is too busy for that."""

import gc
import os
import time
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from stages.common.core.cli import InputError
from stages.common.measuring.machine import allowed_cores, available_cores, cpu_quota


def measurement_orders(contestants: int, rounds: int, seed: int) -> np.ndarray:
    """(rounds, contestants): in every row all contestants, in a random order."""
    in_turn = np.tile(np.arange(contestants), (rounds, 1))
    return np.random.default_rng(seed).permuted(in_turn, axis=1)


def time_interleaved(
    calls: list[Callable[[], object]],
    rounds: int,
    warmup: int,
    seed: int,
    progress: str | None = "benchmark",
) -> np.ndarray:
    """(rounds, calls) milliseconds; one round times every call once.

    ``progress`` names the progress bar; None shows none.
    """
    for call in calls:
        for _ in range(warmup):
            call()
    samples_ns = np.empty((rounds, len(calls)))
    orders = measurement_orders(len(calls), rounds, seed)
    gc.disable()
    try:
        bar = tqdm(orders, desc=progress, unit="round", disable=progress is None)
        for round_index, order in enumerate(bar):
            for index in order:
                samples_ns[round_index, index] = time_once(calls[index])
    finally:
        gc.enable()
    return samples_ns / 1e6


def time_once(call: Callable[[], object]) -> int:
    """Nanoseconds of the second of two calls; the first brings code and weights into the cache."""
    call()
    start = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - start


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

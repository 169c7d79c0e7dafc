"""The conditions of a timing: looked at before it, and recorded beside its milliseconds."""

from stages.common.measuring.interleaved_timing import load_average, require_cores, warn_if_busy
from stages.common.measuring.machine import cpu_quota, describe_machine
from stages.common.measuring.params import BenchmarkParams


def check_machine(threads: int, key: str) -> float | None:
    """The load average before the work begins; prints a warning when something else is running.

    Raises ``InputError``, which names the param ``key``, for more threads than there are cores.
    """
    require_cores(threads, key)
    load = load_average()
    warn_if_busy(load, threads)
    return load


def describe_conditions(params: BenchmarkParams, load: float | None, matmul_gflops: float) -> dict:
    """The machine and how it was timed, as flat text and numbers."""
    return {
        **describe_machine(),
        "threads": params.threads,
        "rounds": params.rounds,
        "calls": params.calls,
        "load_average_at_start": load,
        "cpu_quota": cpu_quota(),
        "matmul_gflops": round(matmul_gflops, 2),
    }

"""Latencies of several models in several runtimes, timed side by side, as rows and as metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.common.measuring.bootstrap import latency_summary, ratio_of_medians
from stages.common.measuring.int8_or_fp32 import RATIO_TO_FP32, fp32_name
from stages.common.measuring.machine import cpu_quota, describe_machine
from stages.common.measuring.params import BenchmarkParams


@dataclass(frozen=True)
class Variant:
    """A model file; ``macs``: multiply-accumulates of one image."""

    name: str
    path: str
    macs: int
    is_int8: bool


@dataclass(frozen=True)
class Contestant:
    """One variant in one runtime and engine."""

    variant: Variant
    runtime: str
    engine: str


def latency_rows(
    contestants: Sequence[Contestant], samples_ms: np.ndarray, bootstrap_samples: int, seed: int
) -> list[dict]:
    """One row a contestant; ``samples_ms`` (rounds, contestants, calls).

    Ratios refer to the fastest engine of the first variant (the base) and to that of the variant's
    own FP32 model, in the same runtime; where that was not timed, they are None.
    """
    fastest = fastest_engines(contestants, samples_ms)
    base = contestants[0].variant.name
    fp32 = fp32_variants([contestant.variant for contestant in contestants])
    rows = []
    for index, contestant in enumerate(contestants):
        name, runtime = contestant.variant.name, contestant.runtime
        values = latency_summary(samples_ms[:, index])
        for key, other in (("ratio_to_base", base), (RATIO_TO_FP32, fp32[name])):
            fast = None if other is None else fastest.get((other, runtime))
            reference = None if fast is None else samples_ms[:, fast]
            values |= ratio(samples_ms[:, index], reference, key, bootstrap_samples, seed)
        rows.append(
            {
                "name": f"{name} | {runtime} {contestant.engine}",
                "variant": name,
                "runtime": runtime,
                "engine": contestant.engine,
                **rounded(values),
                "fastest": "true" if fastest[name, runtime] == index else "false",
            }
        )
    return rows


def ratio(
    samples_ms: np.ndarray,
    reference_ms: np.ndarray | None,
    key: str,
    bootstrap_samples: int,
    seed: int,
) -> dict:
    """The ratio to a reference with its interval; the same keys with None without a reference."""
    if reference_ms is None:
        return {key: None, f"{key}_low": None, f"{key}_high": None}
    return ratio_of_medians(samples_ms, reference_ms, bootstrap_samples, seed, name=key)


def fp32_variants(variants: list[Variant]) -> dict[str, str | None]:
    """The FP32 variant that each belongs to: itself if it is one, None if that was not timed."""
    fp32 = [variant.name for variant in variants if not variant.is_int8]
    return {
        variant.name: fp32_name(variant.name, fp32) if variant.is_int8 else variant.name
        for variant in variants
    }


def fastest_engines(
    contestants: Sequence[Contestant], samples_ms: np.ndarray
) -> dict[tuple[str, str], int]:
    """The index of the contestant with the lowest median, by variant and runtime."""
    medians = np.median(samples_ms, axis=(0, 2))
    fastest: dict[tuple[str, str], int] = {}
    for index in np.argsort(medians, kind="stable"):
        contestant = contestants[index]
        fastest.setdefault((contestant.variant.name, contestant.runtime), int(index))
    return fastest


def latency_metrics(variant: Variant, rows: list[dict], matmul_gflops: float) -> dict[str, dict]:
    """By runtime: latency, ratios and speed of the variant in its fastest engine.

    ``share_of_matmul``: that speed over the float32 matrix product's, timed in the same rounds.
    """
    blocks = {}
    for row in rows:
        if row["variant"] == variant.name and row["fastest"] == "true":
            values = {key: row[key] for key in row if key.startswith(("latency_ms", "ratio_to_"))}
            rates = speed(variant.macs, row["latency_ms_median"], matmul_gflops)
            blocks[row["runtime"]] = {"engine": row["engine"], **values, **rates}
    return blocks


def speed(macs: int, latency_ms: float, matmul_gflops: float) -> dict[str, float]:
    """GFLOP/s, and their share of those of the float32 matrix product."""
    gflops = 2 * macs / latency_ms / 1e6
    return {"gflops": round(gflops, 2), "share_of_matmul": round(gflops / matmul_gflops, 3)}


def describe_conditions(params: BenchmarkParams, load: float | None, matmul_gflops: float) -> dict:
    """The machine and how it was timed, as flat text and numbers; ``load``: before the work."""
    return {
        **describe_machine(),
        "threads": params.threads,
        "rounds": params.rounds,
        "calls": params.calls,
        "load_average_at_start": load,
        "cpu_quota": cpu_quota(),
        "matmul_gflops": round(matmul_gflops, 2),
    }


def rounded(values: dict) -> dict:
    """Four decimals: 0.1 microseconds, far below what repeats."""
    return {key: None if value is None else round(value, 4) for key, value in values.items()}

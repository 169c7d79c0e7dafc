"""Time all variants side by side in OpenCV DNN and ONNX Runtime, one image at a time.

Reads   the model files; the first --variant is the base that ratios refer to
Writes  a JSON with the machine and, for each variant, its latency in both runtimes (OpenCV: in
        the variant's fastest engine); a CSV with a row for every engine timed
Params  benchmark.*  (see BenchmarkParams)
Raises  InputError for wrong params, more threads than cores, a missing model, an engine that
        refuses a model

A latency is one call with batch 1, the copy of the input included, image decoding excluded. A
round times everything once, in an order shuffled anew, so that what drifts (clock, heat, other
processes) hits all alike. Each timed call follows an untimed one of the same session, because a
device runs one model again and again and not four models in turn.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import list_of, load_params, whole
from stages.common.data.cifar10 import IMAGE_SHAPE
from stages.common.inference.onnx_graph import cost_of, load_model
from stages.common.inference.sessions import OnnxRuntimeSession, OpenCVSession, Session
from stages.common.measuring.bootstrap import latency_summary, ratio_of_medians
from stages.common.measuring.int8_or_fp32 import RATIO_TO_FP32, fp32_name
from stages.common.measuring.interleaved_timing import (
    load_average,
    require_cores,
    time_interleaved,
    warn_if_busy,
)
from stages.common.measuring.machine import describe_machine
from stages.common.measuring.matrix_product import matrix_product, matrix_product_gflops

RUNTIMES = ("opencv", "onnxruntime")
ENVIRONMENT = "environment"  # the block of the JSON that is no variant
# Engines whose name says what ran; 'auto' may silently be either.
ENGINES = ("classic", "new")


@dataclass(frozen=True)
class BenchmarkParams:
    """How latency is measured."""

    threads: int = whole(at_least=1)
    rounds: int = whole(at_least=10)
    warmup: int = whole(at_least=0)
    engines_fp32: list = list_of(*ENGINES)
    engines_int8: list = list_of(*ENGINES)
    bootstrap_samples: int = whole(at_least=100)
    seed: int = whole(at_least=0)


@dataclass(frozen=True)
class Variant:
    name: str
    path: str
    macs: int
    is_int8: bool


@dataclass(frozen=True)
class Contestant:
    """One variant in one runtime and engine, with a session of its own."""

    variant: Variant
    runtime: str
    engine: str
    session: Session


def read_variant(name: str, path: str) -> Variant:
    model = load_model(path)
    operators = {node.op_type for node in model.graph.node}
    return Variant(
        name=name,
        path=path,
        macs=cost_of(model).macs,
        is_int8=bool(operators & {"QuantizeLinear", "DequantizeLinear"}),
    )


def contestants_of(variant: Variant, params: BenchmarkParams) -> list[Contestant]:
    """The variant in every OpenCV engine that params name for its kind, and in ONNX Runtime."""
    key = "engines_int8" if variant.is_int8 else "engines_fp32"
    contestants = []
    for engine in getattr(params, key):
        try:
            session = OpenCVSession(variant.path, engine=engine, threads=params.threads)
        except InputError as error:
            raise InputError(f"benchmark.{key}, engine '{engine}': {error}") from None
        contestants.append(Contestant(variant, "opencv", engine, session))
    session = OnnxRuntimeSession(variant.path, threads=params.threads)
    return [*contestants, Contestant(variant, "onnxruntime", "cpu", session)]


def measure(
    contestants: list[Contestant], params: BenchmarkParams
) -> tuple[np.ndarray, np.ndarray]:
    """Samples in milliseconds: (rounds, contestants), and (rounds,) of the matrix product."""
    rng = np.random.default_rng(params.seed)
    blob = rng.integers(256, size=(1, *IMAGE_SHAPE)).astype(np.float32)
    calls = [lambda session=each.session: session.logits(blob) for each in contestants]
    samples_ms = time_interleaved(
        [*calls, matrix_product(params.threads)],
        rounds=params.rounds,
        warmup=params.warmup,
        seed=params.seed,
    )
    return samples_ms[:, :-1], samples_ms[:, -1]


def latency_rows(
    contestants: list[Contestant], samples_ms: np.ndarray, params: BenchmarkParams
) -> list[dict]:
    """One row a contestant; a ratio refers to the fastest engine of the first variant (the base)
    and to that of the variant's own FP32 model.
    """
    fastest = fastest_engines(contestants, samples_ms)
    base = contestants[0].variant.name
    fp32 = fp32_variants([contestant.variant for contestant in contestants])
    rows = []
    for index, contestant in enumerate(contestants):
        name, runtime = contestant.variant.name, contestant.runtime
        to_base, to_fp32 = (
            ratio_to(fastest.get((reference, runtime)), key, samples_ms, index, params)
            for key, reference in (("ratio_to_base", base), (RATIO_TO_FP32, fp32[name]))
        )
        rows.append(
            {
                "name": f"{name} | {runtime} {contestant.engine}",
                "variant": name,
                "runtime": runtime,
                "engine": contestant.engine,
                **rounded(latency_summary(samples_ms[:, index]) | to_base | to_fp32),
                "fastest": "true" if fastest[name, runtime] == index else "false",
            }
        )
    return rows


def fp32_variants(variants: list[Variant]) -> dict[str, str | None]:
    """The FP32 variant that each belongs to: itself if it is one, None if that was not timed."""
    fp32 = [variant.name for variant in variants if not variant.is_int8]
    return {
        variant.name: fp32_name(variant.name, fp32) if variant.is_int8 else variant.name
        for variant in variants
    }


def ratio_to(
    reference: int | None, key: str, samples_ms: np.ndarray, index: int, params: BenchmarkParams
) -> dict:
    """The contestant's ratio to another; the same keys with None when there is no other."""
    if reference is None:
        return {key: None, f"{key}_low": None, f"{key}_high": None}
    return ratio_of_medians(
        samples_ms[:, index],
        base=samples_ms[:, reference],
        bootstrap_samples=params.bootstrap_samples,
        seed=params.seed,
        name=key,
    )


def fastest_engines(
    contestants: list[Contestant], samples_ms: np.ndarray
) -> dict[tuple[str, str], int]:
    """Which contestant has the lowest median of each variant and runtime."""
    medians = np.median(samples_ms, axis=0)
    fastest = {}
    for index in np.argsort(medians, kind="stable"):
        contestant = contestants[index]
        fastest.setdefault((contestant.variant.name, contestant.runtime), int(index))
    return fastest


def metrics_of(variant: Variant, rows: list[dict], matmul_gflops: float) -> dict:
    """The variant's block of the JSON: its reported row of each runtime, and its speed.

    ``share_of_matmul`` is that speed over the float32 matrix product's, timed in the same rounds.
    """
    block = {}
    for runtime in RUNTIMES:
        [row] = [
            row
            for row in rows
            if (row["variant"], row["runtime"], row["fastest"]) == (variant.name, runtime, "true")
        ]
        values = {key: row[key] for key in row if key.startswith(("latency_ms", "ratio_to_"))}
        gflops = 2 * variant.macs / row["latency_ms_median"] / 1e6
        block[runtime] = {
            "engine": row["engine"],
            **values,
            "gflops": round(gflops, 2),
            "share_of_matmul": round(gflops / matmul_gflops, 3),
        }
    return block


def rounded(values: dict) -> dict:
    """Four decimals: 0.1 microseconds, far below what repeats."""
    return {key: None if value is None else round(value, 4) for key, value in values.items()}


def named_path(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (name and separator and path) or name == ENVIRONMENT:
        raise argparse.ArgumentTypeError(f"{text!r}; expected NAME=PATH, such as base=model.onnx")
    return name, path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", required=True)
    parser.add_argument("--variant", required=True, action="append", type=named_path)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--latency", required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(BenchmarkParams, args.params, section="benchmark")
    require_cores(params.threads, "benchmark.threads")
    load = load_average()
    warn_if_busy(load, params.threads)
    variants = [read_variant(name, path) for name, path in args.variant]
    contestants = [each for variant in variants for each in contestants_of(variant, params)]
    samples_ms, product_ms = measure(contestants, params)
    rows = latency_rows(contestants, samples_ms, params)
    matmul_gflops = matrix_product_gflops(float(np.median(product_ms)))
    environment = {
        **describe_machine(),
        "threads": params.threads,
        "rounds": params.rounds,
        "load_average_at_start": load,
        "matmul_gflops": round(matmul_gflops, 2),
    }
    blocks = {variant.name: metrics_of(variant, rows, matmul_gflops) for variant in variants}
    write_json(args.metrics, {ENVIRONMENT: environment, **blocks})
    write_csv(args.latency, rows, header=list(rows[0]))
    for row in rows:
        print(
            f"{row['name']:<32} {row['latency_ms_median']:8.3f} ms   "
            f"{row['ratio_to_base']:.3f} x base "
            f"[{row['ratio_to_base_low']:.3f}, {row['ratio_to_base_high']:.3f}]"
        )


if __name__ == "__main__":
    run(main)

"""Time all variants side by side in OpenCV DNN and ONNX Runtime, one image at a time.

Reads   the model files, the first --variant being the base that ratios refer to; the JSONs of
        their checks: a runtime or engine that is wrong for a file is not timed with it
Writes  a JSON with the machine and, for each variant, its latency in every runtime (OpenCV: in
        the variant's fastest engine); a CSV with a row for every engine timed
Params  benchmark.*  (see BenchmarkParams)
Raises  InputError for wrong params, more threads than cores, a missing model, a name that is
        given twice, a check of no variant, an engine that refuses a model, a model that no engine
        to be timed computes right

A latency is one call with batch 1, the copy of the input included, image decoding excluded. In a
round every session has a turn of several calls, in an order shuffled anew, so that what drifts
(clock, heat, other processes) hits all alike. The first calls of a turn do not count, because a
device runs one model again and again: see common/measuring/interleaved_timing.py.
"""

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError, named_path, paths_by_name, run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params
from stages.common.inference.onnx_graph import cost_of, is_int8, load_model
from stages.common.inference.runtimes.onnx_files import (
    WRONG,
    onnx_runtimes,
    read_wrong,
    runtime_name,
)
from stages.common.inference.runtimes.opencv import installed_engines
from stages.common.inference.sessions import Session, random_image
from stages.common.measuring.interleaved_timing import check_machine, time_interleaved
from stages.common.measuring.latency_rows import (
    Contestant,
    Variant,
    describe_conditions,
    latency_metrics,
    latency_rows,
)
from stages.common.measuring.matrix_product import matrix_product, matrix_product_gflops
from stages.common.measuring.params import BenchmarkParams

ENVIRONMENT = "environment"  # the block of the JSON that is no variant


def read_variant(name: str, path: str) -> Variant:
    model = load_model(path)
    return Variant(name, path, macs=cost_of(model).macs, is_int8=is_int8(model))


def load_contestants(
    variants: list[Variant], params: BenchmarkParams, wrong: dict[str, set[str]]
) -> tuple[list[tuple[Contestant, Session]], dict[str, list[str]]]:
    """Every variant in every runtime, and in the OpenCV engines that params name for its kind; the
    names of those left out. ``wrong``: the runtimes that a variant's check found wrong.
    """
    keys = ["engines_int8" if variant.is_int8 else "engines_fp32" for variant in variants]
    engines = {
        key: installed_engines(getattr(params, key), key=f"benchmark.{key}")
        for key in dict.fromkeys(keys)
    }
    loaded, left_out = [], {}
    for variant, key in zip(variants, keys, strict=True):
        runtimes = onnx_runtimes(engines[key])
        right = {
            each: load
            for each, load in runtimes.items()
            if runtime_name(*each) not in wrong.get(variant.name, set())
        }
        if not right:
            raise InputError(f"{variant.path}: all that benchmark.{key} would time is wrong here")
        for (runtime, engine), load in right.items():
            session = load(Path(variant.path), threads=params.threads)
            loaded.append((Contestant(variant, runtime, engine), session))
        if len(right) < len(runtimes):
            left_out[variant.name] = [runtime_name(*each) for each in runtimes if each not in right]
    return loaded, left_out


def measure(sessions: Iterable[Session], params: BenchmarkParams) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds: (rounds, sessions, calls), and (rounds, calls) of the matrix product."""
    sessions = list(sessions)
    calls = [
        partial(session.logits, random_image(session.shape, params.seed)) for session in sessions
    ]
    samples_ms = time_interleaved(
        [*calls, matrix_product(params.threads)],
        rounds=params.rounds,
        calls=params.calls,
        warmup=params.warmup,
        seed=params.seed,
    )
    return samples_ms[:, :-1], samples_ms[:, -1]


def variant_path(text: str) -> tuple[str, str]:
    """A NAME=PATH whose name is not that of the environment's block."""
    name, path = named_path(text)
    if name == ENVIRONMENT:
        raise argparse.ArgumentTypeError(f"{text!r}; expected NAME=PATH, with another name")
    return name, path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", required=True)
    parser.add_argument("--variant", required=True, action="append", type=variant_path)
    parser.add_argument("--check", default=[], action="append", type=variant_path)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--latency", required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(BenchmarkParams, args.params, section="benchmark")
    load = check_machine(params.threads, "benchmark.threads")
    paths = paths_by_name("--variant", args.variant)
    checks = paths_by_name("--check", args.check, known=paths)
    variants = [read_variant(name, path) for name, path in paths.items()]
    wrong = {name: read_wrong(Path(path)) for name, path in checks.items()}
    loaded, left_out = load_contestants(variants, params, wrong)
    contestants, sessions = zip(*loaded, strict=True)
    samples_ms, product_ms = measure(sessions, params)
    rows = latency_rows(contestants, samples_ms, params.bootstrap_samples, params.seed)
    matmul_gflops = matrix_product_gflops(float(np.median(product_ms)))
    environment = {
        **describe_conditions(params, load, matmul_gflops),
        **({WRONG: left_out} if left_out else {}),
    }
    blocks = {each.name: latency_metrics(each, rows, matmul_gflops) for each in variants}
    write_json(args.metrics, {ENVIRONMENT: environment, **blocks})
    write_csv(args.latency, rows, header=list(rows[0]))
    for row in rows:
        print(f"{row['name']:<32} {row['latency_ms_median']:8.3f} ms{ratio_text(row)}")


def ratio_text(row: dict) -> str:
    """The ratio to the base with its interval; empty where the base was not timed."""
    if row["ratio_to_base"] is None:
        return ""
    low, high = row["ratio_to_base_low"], row["ratio_to_base_high"]
    return f"   {row['ratio_to_base']:.3f} x base [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    run(main)

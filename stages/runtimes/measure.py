"""Time models in ONNX Runtime, OpenCV, OpenVINO, LiteRT and ncnn, side by side in one run.

Reads   ONNX files (--variant), and the .tflite that the pipeline made of them (--tflite): LiteRT
        runs that, and where none is named one that is written for the run
Writes  a JSON with the machine and for each model its latency in every runtime and what was left
        out; a Markdown page of it; a sentence on the runtime to use
Params  benchmark.* but its engines, quantize.logit_tolerance
Raises  InputError for wrong params, more threads than cores, a missing file, a name that is given
        twice, and a model that ONNX Runtime refuses: the others are checked against it

A runtime that is not installed, refuses a model, computes it wrongly or uses more than one thread
where one is allowed is named and not timed: see comparison/check.py. A latency is one call with
batch 1, timed as in the benchmark: see common/measuring/interleaved_timing.py. Each runtime gets
its input as its file takes it: float32 NCHW, LiteRT NHWC and, as INT8, integers.
"""

import argparse
from pathlib import Path

from stages.common.core.cli import named_path, paths_by_name, run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.inference.onnx_graph import cost_of, is_int8, load_model
from stages.common.inference.params import QuantizeParams
from stages.common.inference.sessions import require_file
from stages.common.measuring.interleaved_timing import check_machine
from stages.common.measuring.latency_rows import Variant, describe_conditions
from stages.common.measuring.params import BenchmarkParams
from stages.runtimes.comparison.advice import advice_text, with_advice
from stages.runtimes.comparison.catalogue import RUNTIMES, Model, package_versions, why_missing
from stages.runtimes.comparison.check import right_sessions
from stages.runtimes.comparison.page import markdown_page
from stages.runtimes.comparison.timing import latencies, time_sessions


def read_models(variants: list[tuple[str, str]], tflites: list[tuple[str, str]]) -> list[Model]:
    """Raises ``InputError`` for a missing file, a name given twice, a .tflite of no model."""
    paths = paths_by_name("--variant", variants)
    tflite_paths = paths_by_name("--tflite", tflites, known=paths)
    for tflite in tflite_paths.values():
        require_file(tflite)
    models = []
    for name, path in paths.items():
        onnx = load_model(path)
        variant = Variant(name, path, cost_of(onnx).macs, is_int8(onnx))
        models.append(Model(variant, Path(tflite_paths[name]) if name in tflite_paths else None))
    return models


def missing_runtimes() -> dict[str, str]:
    """By name, each with the reason, which is printed."""
    missing = {name: reason for name in RUNTIMES if (reason := why_missing(name))}
    for name, reason in missing.items():
        print(f"{RUNTIMES[name].title} is left out: {reason}")
    return missing


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", required=True)
    parser.add_argument("--variant", required=True, action="append", type=named_path)
    parser.add_argument("--tflite", default=[], action="append", type=named_path)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--advice", type=Path, required=True, help="Markdown: a sentence")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(BenchmarkParams, args.params, section="benchmark")
    int8_tolerance = load_params(QuantizeParams, args.params, section="quantize").logit_tolerance
    load = check_machine(params.threads, "benchmark.threads")
    missing = missing_runtimes()
    names = [name for name in RUNTIMES if name not in missing]
    models = read_models(args.variant, args.tflite)
    right = [right_sessions(model, names, params.threads, int8_tolerance) for model in models]
    samples_ms, matmul_gflops = time_sessions([sessions for sessions, _ in right], params)
    environment = {
        **describe_conditions(params, load, matmul_gflops),
        "packages": package_versions(names),
        "missing": missing,
    }
    blocks = {}
    for model, (_, block), samples in zip(models, right, samples_ms, strict=True):
        found = latencies(samples, block["macs"], matmul_gflops, params)
        runtimes = {name: found[name] | block["runtimes"][name] for name in found}
        blocks[model.variant.name] = {**block, "runtimes": runtimes}
    result = with_advice({"environment": environment, "models": blocks})
    write_json(args.metrics, result)
    write_text(args.table, markdown_page(result))
    write_text(args.advice, advice_text(result))
    print(f"{args.table}:\n{args.table.read_text()}\n{args.advice.read_text()}", end="")


if __name__ == "__main__":
    run(main)

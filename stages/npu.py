"""Compile the networks for Arm's Ethos-U NPUs and show what the compiler estimates for each.

Four variants: base and pruned, INT8; "unstructured", the base with the smallest weights of its
convolutions, but the first, set to 0 until as many are left as in pruned; and the base in FP32, a
control that no NPU takes. Vela's estimates are not measurements. "unstructured" is compiled only,
never fine-tuned or evaluated: zeros as such change what the compiler makes of it, whatever it
predicts. A network that has no TFLite file is named with the reason; without base, nothing is
estimated.

Reads   the INT8 TFLite files of base and pruned, the FP32 ONNX file of base
Writes  a JSON by variant and target, a CSV with all that Vela says, a Markdown table, a picture
Params  npu.*  (see NPUParams)
Raises  InputError when Vela refuses a network or a target
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json, write_text
from stages.common.core.params import load_params
from stages.common.inference.layer_graph.graph import UnsupportedNetwork
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.tflite.file import UNSUPPORTED, load_tflite, packed, why_none
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.npu.chart import no_chart, npu_chart
from stages.common.npu.sparse_tflite import nonzero_weights, share_of_zeros, thinned
from stages.common.npu.table import COLUMNS, ESTIMATED, Estimates, markdown_table, rows_of
from stages.common.npu.vela import NPUParams, Target, estimate
from stages.common.reporting.style import save_png

CONTROL = "base_fp32"
METRICS = (  # of the JSON; the CSV has all costs
    "npu_cycles",
    "total_cycles",
    "inferences_per_second",
    "sram_bytes",
    "encoded_weight_bytes",
)


def write_variants(
    folder: Path, written: dict[str, Path], fp32: Path, missing: dict[str, str]
) -> dict[str, Path]:
    """The TFLite file of every variant; those that only this stage needs go to ``folder``.

    ``written``: those of base and pruned that have one; nothing is made without base. Why there is
    no control goes to ``missing``.
    """
    if "base" not in written:
        return {}
    variants = dict(written)
    if "pruned" in written:
        nonzero = nonzero_weights(load_tflite(written["pruned"]))
        variants["unstructured"] = folder / "unstructured.tflite"
        variants["unstructured"].write_bytes(packed(thinned(load_tflite(written["base"]), nonzero)))
    try:
        control = tflite_bytes(read_graph(fp32))
    except UnsupportedNetwork as error:
        missing[CONTROL] = error.reason
    else:
        variants[CONTROL] = folder / "fp32.tflite"
        variants[CONTROL].write_bytes(control)
    return variants


def estimate_all(variants: dict[str, Path], targets: list[Target]) -> Estimates:
    jobs = [(name, target) for name in variants for target in targets]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # each waits for a process
        found = list(pool.map(lambda job: estimate(variants[job[0]], job[1]), jobs))
    estimates: Estimates = {name: {} for name in variants}
    for (name, target), result in zip(jobs, found, strict=True):
        estimates[name][target] = result
    return estimates


def metrics_of(estimates: Estimates, zeros: dict[str, float], missing: dict[str, str]) -> dict:
    """By variant and target; ``zeros``: percent of the weights, by variant."""
    found = {
        name: {
            "zero_weights_percent": zeros.get(name),
            **{
                str(target): {
                    "npu_operators": each.npu_operators,
                    **{key: getattr(each.costs, key, None) for key in METRICS},
                }
                for target, each in by_target.items()
            },
        }
        for name, by_target in estimates.items()
    }
    return found | {name: {UNSUPPORTED: reason} for name, reason in missing.items()}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="INT8 TFLite file")
    parser.add_argument("--pruned", type=Path, required=True, help="INT8 TFLite file")
    parser.add_argument("--fp32", type=Path, required=True, help="FP32 ONNX file of base")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--csv", type=Path, required=True, help="CSV to write")
    parser.add_argument("--table", type=Path, required=True, help="Markdown table to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(NPUParams, args.params, section="npu")
    targets = [Target(*text.split()) for text in params.targets]
    files = {"base": args.base, "pruned": args.pruned}
    missing = {name: reason for name, path in files.items() if (reason := why_none(path))}
    written = {name: path for name, path in files.items() if name not in missing}
    with TemporaryDirectory() as folder:
        variants = write_variants(Path(folder), written, args.fp32, missing)
        estimates = estimate_all(variants, targets)
        zeros = {
            name: share_of_zeros(load_tflite(path))
            for name, path in variants.items()
            if name != CONTROL
        }
    rows = rows_of(estimates)
    table = markdown_table(estimates, zeros, missing)
    write_json(args.metrics, metrics_of(estimates, zeros, missing))
    write_csv(args.csv, rows, header=COLUMNS)
    write_text(args.table, table)
    save_png(args.picture, npu_chart(rows, note=ESTIMATED) if rows else no_chart(table))
    print(table)


if __name__ == "__main__":
    run(main)

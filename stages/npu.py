"""Compile the networks for Arm's Ethos-U NPUs and show what the compiler estimates for each.

Four variants: base and pruned, INT8; "unstructured", the base with its smallest 3x3 filter weights
set to 0 until as many non-zero weights are left as in pruned; and the base in FP32, a control that
no NPU takes. Vela's estimates are not measurements. "unstructured" is compiled only, never
fine-tuned or evaluated: zeros as such change what the compiler makes of it, whatever it predicts.

Reads   the INT8 TFLite files of base and pruned, the FP32 ONNX file of base
Writes  a JSON by variant and target, a CSV with all that Vela says, a Markdown table, a picture
Params  npu.*  (see NPUParams)
Raises  InputError when Vela refuses a network or a target
"""

import argparse
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json, write_text
from stages.common.core.params import load_params
from stages.common.inference.layer_chain import read_chain
from stages.common.inference.tflite_file import load_tflite, packed
from stages.common.inference.tflite_writer import tflite_bytes
from stages.common.npu.chart import npu_chart
from stages.common.npu.sparse_tflite import nonzero_weights, share_of_zeros, thinned
from stages.common.npu.vela import VERSION, Costs, Estimate, NPUParams, Target, estimate
from stages.common.reporting.markdown import as_table
from stages.common.reporting.style import save_png

ESTIMATED = f"Estimates of Arm's compiler (Vela {VERSION}), not measurements"
CONTROL = "base_fp32"
METRICS = (  # of the JSON; the CSV has all costs
    "npu_cycles",
    "total_cycles",
    "inferences_per_second",
    "sram_bytes",
    "encoded_weight_bytes",
)
Estimates = dict[str, dict[Target, Estimate]]  # by variant


def write_variants(folder: Path, base: Path, pruned: Path, fp32: Path) -> dict[str, Path]:
    """The TFLite file of every variant; those that only this stage needs go to ``folder``."""
    unstructured, control = folder / "unstructured.tflite", folder / "fp32.tflite"
    nonzero = nonzero_weights(load_tflite(pruned))
    unstructured.write_bytes(packed(thinned(load_tflite(base), nonzero)))
    control.write_bytes(tflite_bytes(read_chain(fp32)))
    return {"base": base, "pruned": pruned, "unstructured": unstructured, CONTROL: control}


def estimate_all(variants: dict[str, Path], targets: list[Target]) -> Estimates:
    jobs = [(name, target) for name in variants for target in targets]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # each waits for a process
        found = list(pool.map(lambda job: estimate(variants[job[0]], job[1]), jobs))
    estimates: Estimates = {name: {} for name in variants}
    for (name, target), result in zip(jobs, found, strict=True):
        estimates[name][target] = result
    return estimates


def metrics_of(estimates: Estimates, zeros: dict[str, float]) -> dict:
    """By variant and target; ``zeros``: percent of the weights, by variant."""
    return {
        name: {
            "zero_weights_percent": zeros.get(name),
            **{
                str(target): {
                    "npu_operators": found.npu_operators,
                    **{key: getattr(found.costs, key, None) for key in METRICS},
                }
                for target, found in by_target.items()
            },
        }
        for name, by_target in estimates.items()
    }


def rows_of(estimates: Estimates) -> list[dict]:
    """One flat row for each target and variant that runs on the NPU."""
    return [
        {
            "name": f"{variant} | {target.npu} {found.weights_in}",
            "variant": variant,
            "target": str(target),
            "npu": target.npu,
            "weights_in": found.weights_in,
            "operators": found.operators,
            "npu_operators": found.npu_operators,
            "million_cycles": found.costs.total_cycles / 1e6,
            **dataclasses.asdict(found.costs),
        }
        for variant, by_target in estimates.items()
        for target, found in by_target.items()
        if found.costs
    ]


def markdown_table(estimates: Estimates, zeros: dict[str, float]) -> str:
    heads = ["NPU", "weights in", "memory mode", "variant", "NPU cycles", "total cycles", "× base"]
    heads += ["limited by", "inferences/s", "SRAM", "encoded weights"]
    rows = [heads, [*["---"] * 4, *["---:"] * 3, "---", *["---:"] * 3]]
    for target, base in estimates["base"].items():
        for variant, by_target in estimates.items():
            if (costs := by_target[target].costs) and base.costs:
                place = [target.npu, base.weights_in, target.memory_mode]
                rows.append([*place, variant, *cost_cells(costs, base.costs)])
    return f"{as_table(rows)}\n\n{conditions(estimates, zeros)}\n"


def cost_cells(costs: Costs, base: Costs) -> list[str]:
    return [
        f"{costs.npu_cycles:,}",
        f"{costs.total_cycles:,}",
        f"{costs.total_cycles / base.total_cycles:.2f}",
        "arithmetic" if costs.limited_by == "npu" else costs.limited_by,
        f"{costs.inferences_per_second:,.0f}",
        f"{costs.sram_bytes / 1000:,.0f} KB",
        f"{costs.encoded_weight_bytes / 1000:,.0f} KB",
    ]


def conditions(estimates: Estimates, zeros: dict[str, float]) -> str:
    systems = sorted({target.system_config for target in estimates["base"]})
    counts = [
        f"{name} {min(found.npu_operators for found in by_target.values())} of "
        f"{max(found.operators for found in by_target.values())}"
        for name, by_target in estimates.items()
    ]
    shares = ", ".join(f"{name} {share:.1f} %" for name, share in zeros.items())
    return (
        f"{ESTIMATED}; batch 1; memories as Vela's Arm/vela.ini has them: {', '.join(systems)}. "
        f"Weights that are 0: {shares}; unstructured is neither fine-tuned nor evaluated. "
        f"Operators on the NPU: {', '.join(counts)}. KB are 1000 bytes; SRAM holds the weights too "
        "where they are in it."
    )


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
    with TemporaryDirectory() as folder:
        variants = write_variants(Path(folder), args.base, args.pruned, args.fp32)
        estimates = estimate_all(variants, targets)
        zeros = {
            name: share_of_zeros(load_tflite(path))
            for name, path in variants.items()
            if name != CONTROL
        }
    rows = rows_of(estimates)
    table = markdown_table(estimates, zeros)
    write_json(args.metrics, metrics_of(estimates, zeros))
    write_csv(args.csv, rows, header=list(rows[0]))
    write_text(args.table, table)
    save_png(args.picture, npu_chart(rows, note=ESTIMATED))
    print(table)


if __name__ == "__main__":
    run(main)

"""Estimate the energy of one inference in 45 nm from operations, bytes and published energies.

Five variants: base and pruned, FP32 (the control) and INT8; and "unstructured_int8", the INT8 base
with its smallest 3x3 filter weights set to 0 until as many non-zero weights are left as in the INT8
pruned, which is neither fine-tuned nor evaluated. energy_model/energy.py says what is assumed. An
estimate of a hypothetical chip, not a measurement of one.

Reads   the ONNX files of base and pruned, FP32 and INT8
Writes  a JSON by variant, engine and memory, a Markdown table, a picture
Params  energy.*  (see EnergyParams)
Raises  InputError for a network whose activations the memory cannot hold, or with operators that
        are not counted
"""

import argparse
from pathlib import Path

from onnx import ModelProto

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.inference.onnx_graph import cost_of, load_model
from stages.common.reporting.markdown import as_table
from stages.common.reporting.style import save_png
from stages.hardware.energy_model.chart import energy_chart
from stages.hardware.energy_model.energy import MEMORIES, estimates
from stages.hardware.energy_model.operator_counts import work_of
from stages.hardware.energy_model.params import SRAM_BYTES, EnergyParams
from stages.hardware.energy_model.sparse_onnx import nonzero_weights, thinned

ESTIMATED = "An estimate, not a measurement"
SOURCE = 'M. Horowitz, "Computing\'s energy problem (and what we can do about it)", ISSCC 2014'
ZEROS = "unstructured_int8"


def with_zeros(models: dict[str, ModelProto]) -> dict[str, ModelProto]:
    nonzero = nonzero_weights(models["pruned_int8"])
    return models | {ZEROS: thinned(models["base_int8"], nonzero)}


def refuse_large_activations(models: dict[str, ModelProto], params: EnergyParams) -> None:
    for name, model in models.items():
        peak = cost_of(model).peak_activation_bytes
        if peak > SRAM_BYTES[params.activation_sram]:
            raise InputError(
                f"{name} holds {peak:,} bytes of activations at once, which energy.activation_sram "
                f"({params.activation_sram}) cannot; set it to a size that holds them"
            )


def rows_of(metrics: dict[str, dict], memory: str) -> dict[str, dict]:
    """A flat row for each variant in a dense engine, and for the zeros in one that skips them."""
    places = [(name, name, "dense") for name in metrics]
    places.append((f"{ZEROS}, zeros skipped", ZEROS, "zero_skipping"))
    rows = {}
    for label, name, engine in places:
        block = metrics[name]
        skips = engine == "zero_skipping"
        rows[label] = {
            "macs": block["nonzero_macs" if skips else "macs"],
            "weight_bytes": block["packed_weight_bytes" if skips else "weight_bytes"],
            "activation_bytes": block["activation_written_bytes"] + block["activation_read_bytes"],
            "arithmetic_uj": block[engine]["arithmetic_uj"],
            "activations_uj": block[engine]["activations_uj"],
            **block[engine][memory],
        }
    return rows


def markdown_table(metrics: dict[str, dict], params: EnergyParams) -> str:
    heads = ["variant", "MACs", "weights read", "activations moved", "arithmetic", "activations"]
    heads += ["in all, weights from DRAM", "× base", "weights that fit on chip"]
    heads += ["in all, these stay there", "× base"]
    streamed, resident = (rows_of(metrics, memory) for memory in MEMORIES)
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for label, row in streamed.items():
        rows.append(
            [
                label,
                f"{row['macs']:,}",
                f"{row['weight_bytes'] / 1000:,.0f} KB",
                f"{row['activation_bytes'] / 1000:,.0f} KB",
                f"{row['arithmetic_uj']:,.1f} µJ",
                f"{row['activations_uj']:,.1f} µJ",
                *total_and_ratio(row, streamed["base"]),
                f"{100 * resident[label]['weight_sram_bytes'] / row['weight_bytes']:.0f} %",
                *total_and_ratio(resident[label], resident["base"]),
            ]
        )
    return f"{as_table(rows)}\n\n{conditions(params)}\n"


def total_and_ratio(row: dict, base: dict) -> list[str]:
    """Each from the lower to the higher energy of DRAM, which is the same for both in a ratio."""
    totals = [f"{row[key]:,.0f}" for key in ("total_uj_low", "total_uj_high")]
    ratios = [row[key] / base[key] for key in ("total_uj_low", "total_uj_high")]
    shown = [f"{ratio:.3f}" for ratio in sorted(ratios)]
    return [f"{' – '.join(dict.fromkeys(totals))} µJ", " – ".join(dict.fromkeys(shown))]


def conditions(params: EnergyParams) -> str:
    low, high = params.dram_pj
    return (
        f"{ESTIMATED}: operations and bytes of one image times energies of 45 nm ({SOURCE}; in pJ: "
        f"int8 multiply {params.int8_multiply_pj}, int32 add {params.int32_add_pj}, fp32 multiply "
        f"{params.fp32_multiply_pj}, fp32 add {params.fp32_add_pj}; 64 bits in SRAM of 8 KB "
        f"{params.sram_8kb_pj}, 32 KB {params.sram_32kb_pj}, 1 MB {params.sram_1mb_pj}, in DRAM "
        f"{low} to {high}). Every activation is written once to SRAM of {params.activation_sram} "
        "and read once by each operator that needs it; every weight is read once, from DRAM or, as "
        f"far as they fit, from SRAM of {params.weight_sram}. Registers, control, clock, leakage, "
        "bias, ReLU and requantization are left out. Zeros skipped: only weights that are not 0 "
        f"are stored and multiplied, with one bit for each weight that says which; {ZEROS} has as "
        "many as pruned_int8 and is neither fine-tuned nor evaluated. KB of the columns are 1000 "
        "bytes, of memories 1024."
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    for name in ("base", "pruned", "base-int8", "pruned-int8"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="ONNX file")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--table", type=Path, required=True, help="Markdown table to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(EnergyParams, args.params, section="energy")
    names = ("base", "pruned", "base_int8", "pruned_int8")
    models = with_zeros({name: load_model(getattr(args, name)) for name in names})
    refuse_large_activations(models, params)
    metrics = {name: estimates(work_of(model), params) for name, model in models.items()}
    table = markdown_table(metrics, params)
    write_json(args.metrics, metrics)
    write_text(args.table, table)
    spent = {memory: rows_of(metrics, memory) for memory in MEMORIES}
    save_png(args.picture, energy_chart(spent, note=f"{ESTIMATED}; energies of 45 nm: {SOURCE}"))
    print(table)


if __name__ == "__main__":
    run(main)

"""Estimate the energy of one inference in 45 nm from operations, bytes and published energies.

Five variants: base and pruned in FP32 (the control) and in INT8, and "unstructured_int8": the INT8
base with its smallest 3x3 filter weights set to 0 until it has as many non-zero weights as the INT8
pruned network; it is neither fine-tuned nor evaluated. energy_model/energy.py lists the
assumptions. The chip is hypothetical: nothing here is measured.

Reads   the ONNX files of base and pruned, FP32 and INT8
Writes  a JSON by variant, engine and memory, two Markdown tables, a picture
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
from stages.common.reporting.style import save_png
from stages.hardware.energy_model.chart import energy_chart
from stages.hardware.energy_model.energy import MEMORIES, estimates
from stages.hardware.energy_model.operator_counts import work_of
from stages.hardware.energy_model.params import SRAM_BYTES, EnergyParams
from stages.hardware.energy_model.sparse_onnx import nonzero_weights, thinned
from stages.hardware.energy_model.table import ESTIMATED, SOURCE, ZEROS, markdown, rows_of


def with_zeros(models: dict[str, ModelProto]) -> dict[str, ModelProto]:
    """The models, and the INT8 base with as many non-zero weights as the INT8 pruned one has."""
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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    for name in ("base", "pruned", "base-int8", "pruned-int8"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="ONNX file")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--table", type=Path, required=True, help="Markdown to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(EnergyParams, args.params, section="energy")
    names = ("base", "pruned", "base_int8", "pruned_int8")
    models = with_zeros({name: load_model(getattr(args, name)) for name in names})
    refuse_large_activations(models, params)
    metrics = {name: estimates(work_of(model), params) for name, model in models.items()}
    page = markdown(metrics, params)
    write_json(args.metrics, metrics)
    write_text(args.table, page)
    spent = {memory: rows_of(metrics, memory) for memory in MEMORIES}
    save_png(args.picture, energy_chart(spent, note=f"{ESTIMATED}; energies of 45 nm: {SOURCE}"))
    print(page)


if __name__ == "__main__":
    run(main)

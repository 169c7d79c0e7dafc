"""Check the energy estimate against ZigZag, which counts what a mapping onto a chip moves.

The layers with weights of the INT8 networks, with the energies and the memories of the estimate
(weights from DRAM), on three chips: stages/common/zigzag.py describes them.

Reads   the ONNX files of base and pruned INT8
Writes  a JSON of picojoules by variant, chip and layer, a Markdown table
Params  energy.* (see EnergyParams), energy_check.*  (see EnergyCheckParams)
Raises  InputError when ZigZag's environment is missing, for a network that is not INT8, or whose
        activations the memory cannot hold
"""

import argparse
from pathlib import Path

from stages.common.chain import read_chain
from stages.common.cli import run
from stages.common.energy import (
    BYTES_AN_ACCESS,
    EnergyParams,
    arithmetic_pj,
    estimates,
    sram_pj,
    weight_pj,
)
from stages.common.energy_check_table import BUFFER_LEVELS, LEVELS, VARIANTS, markdown_table
from stages.common.files import write_json, write_text
from stages.common.graph import load_model
from stages.common.params import load_params
from stages.common.traffic import work_of
from stages.common.zigzag import (
    BUFFERS,
    CHIPS,
    EnergyCheckParams,
    Layer,
    layers_of,
    refuse_large_layers,
    refuse_without_zigzag,
    spent,
)

COUNTS = ("macs", "sram_read_bytes", "sram_written_bytes", "dram_read_bytes")


def estimated(layer: Layer, energy: EnergyParams) -> dict:
    """What the estimate says of a layer, without its biases."""
    operator = layer.operator
    moved = operator.read_bytes + operator.written_bytes
    weight_bytes = operator.weights * operator.element_bytes
    return with_total(
        {
            "macs": operator.macs,
            "sram_read_bytes": operator.read_bytes,
            "sram_written_bytes": operator.written_bytes,
            "dram_read_bytes": weight_bytes,
            "arithmetic_pj": arithmetic_pj(operator, "dense", energy),
            **dict.fromkeys(BUFFER_LEVELS, 0.0),
            "sram_pj": moved * sram_pj(energy.activation_sram, energy) / BYTES_AN_ACCESS,
            "dram_pj": weight_pj(0, weight_bytes, energy)[0],
        }
    )


def by_level(found: dict) -> dict:
    """What ZigZag says of a layer; its accesses are of a byte, and registers cost nothing."""
    memories = found["memories"]

    def total(name: str, quantity: str) -> float:
        return sum(part[quantity] for part in memories.get(name, {}).values())

    return with_total(
        {
            "macs": found["macs"],
            "sram_read_bytes": total("sram", "reads"),
            "sram_written_bytes": total("sram", "writes"),
            "dram_read_bytes": total("dram", "reads"),
            "arithmetic_pj": found["arithmetic_pj"],
            **{f"{name}_pj": float(total(name, "energy_pj")) for name in BUFFERS},
            "sram_pj": total("sram", "energy_pj"),
            "dram_pj": total("dram", "energy_pj"),
        }
    )


def with_total(levels: dict) -> dict:
    rounded = {key: round(value, 1) for key, value in levels.items()}
    return rounded | {"total_pj": round(sum(levels[level] for level in LEVELS), 1)}


def refuse_other_counts(layers: dict[str, dict], free: dict[str, dict]) -> None:
    """Where registers hold everything, ZigZag must count what the estimate counts."""
    for name, layer in layers.items():
        for key in (*COUNTS, "arithmetic_pj"):
            assert free[name][key] == layer[key], (
                f"{name}: {key} is {layer[key]} in the estimate, {free[name][key]} in ZigZag"
            )


def summed(layers: dict[str, dict]) -> dict:
    keys = next(iter(layers.values()))
    return {key: round(sum(layer[key] for layer in layers.values()), 1) for key in keys}


def checked(model: Path, python: Path, driver: Path, energy: EnergyParams,
            params: EnergyCheckParams) -> dict:  # fmt: skip
    """By chip, the estimate first: every layer, and all of them."""
    work = work_of(load_model(model))
    layers = layers_of(read_chain(model), work)
    refuse_large_layers(layers, energy)
    blocks = {"estimate": {layer.name: estimated(layer, energy) for layer in layers}}
    for chip in CHIPS:
        found = spent(python, driver, layers, chip, energy, params)
        blocks[chip] = {name: by_level(layer) for name, layer in found["layers"].items()}
    refuse_other_counts(blocks["estimate"], blocks["free_registers"])
    whole_pj = 1e6 * estimates(work, energy)["dense"]["streamed"]["total_uj_low"]
    totals = {chip: summed(block) for chip, block in blocks.items()}
    return {
        "zigzag_dse": found["version"],
        "totals": totals,
        "estimate_left_out_pj": round(whole_pj - totals["estimate"]["total_pj"], 1),
        "layers": blocks,
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    for name in ("base-int8", "pruned-int8"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="ONNX file")
    parser.add_argument("--python", type=Path, required=True, help="of ZigZag's environment")
    parser.add_argument("--driver", type=Path, required=True, help="what it runs")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--table", type=Path, required=True, help="Markdown table to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    energy = load_params(EnergyParams, args.params, section="energy")
    params = load_params(EnergyCheckParams, args.params, section="energy_check")
    refuse_without_zigzag(args.python)
    metrics = {
        name: checked(getattr(args, name), args.python, args.driver, energy, params)
        for name in VARIANTS
    }
    table = markdown_table(metrics, energy, params)
    write_json(args.metrics, metrics)
    write_text(args.table, table)
    print(table)


if __name__ == "__main__":
    run(main)

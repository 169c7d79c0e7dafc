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

VARIANTS = ("base_int8", "pruned_int8")
LEVELS = ("arithmetic_pj", "buffers_pj", "sram_pj", "dram_pj")
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
            "buffers_pj": 0.0,
            "sram_pj": moved * sram_pj(energy.activation_sram, energy) / BYTES_AN_ACCESS,
            "dram_pj": weight_pj(0, weight_bytes, energy)[0],
        }
    )


def by_level(found: dict) -> dict:
    """What ZigZag says of a layer; its accesses are of a byte, and registers cost nothing."""
    memories = found["memories"]

    def total(names: tuple[str, ...], quantity: str) -> float:
        parts = [part for name in names for part in memories.get(name, {}).values()]
        return sum(part[quantity] for part in parts)

    return with_total(
        {
            "macs": found["macs"],
            "sram_read_bytes": total(("sram",), "reads"),
            "sram_written_bytes": total(("sram",), "writes"),
            "dram_read_bytes": total(("dram",), "reads"),
            "arithmetic_pj": found["arithmetic_pj"],
            "buffers_pj": total(BUFFERS, "energy_pj"),
            "sram_pj": total(("sram",), "energy_pj"),
            "dram_pj": total(("dram",), "energy_pj"),
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
        blocks[chip] = {name: by_level(layer) for name, layer in found.items()}
    refuse_other_counts(blocks["estimate"], blocks["free_registers"])
    whole_pj = 1e6 * estimates(work, energy)["dense"]["streamed"]["total_uj_low"]
    totals = {chip: summed(block) for chip, block in blocks.items()}
    return {
        "totals": totals,
        "estimate_left_out_pj": round(whole_pj - totals["estimate"]["total_pj"], 1),
        "layers": blocks,
    }


def without_dram(block: dict) -> float:
    return block["total_pj"] - block["dram_pj"]


def totals_table(metrics: dict[str, dict], labels: dict[str, str]) -> list[list[str]]:
    heads = ["variant", "counted for", "arithmetic", "buffers", "SRAM", "DRAM", "in all"]
    heads += ["× estimate", "without DRAM × estimate", "× base_int8"]
    table = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for variant, block in metrics.items():
        ours = block["totals"]["estimate"]
        for chip, found in block["totals"].items():
            base = metrics["base_int8"]["totals"][chip]
            table.append(
                [
                    variant,
                    labels[chip],
                    *(microjoules(found[level]) for level in (*LEVELS, "total_pj")),
                    f"{found['total_pj'] / ours['total_pj']:.2f}",
                    f"{without_dram(found) / without_dram(ours):.2f}",
                    f"{found['total_pj'] / base['total_pj']:.3f}",
                ]
            )
    return table


def layers_table(block: dict) -> list[list[str]]:
    heads = ["layer", "MACs", "SRAM, estimate", "SRAM, buffers", "DRAM, estimate", "DRAM, buffers"]
    heads += ["the buffers", "in all, estimate", "in all, buffers", "× estimate"]
    table = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, ours in block["layers"]["estimate"].items():
        found = block["layers"]["buffers"][name]
        table.append(
            [
                name,
                f"{ours['macs']:,}",
                *(microjoules(each[key]) for key in ("sram_pj", "dram_pj")
                  for each in (ours, found)),
                microjoules(found["buffers_pj"]),
                *(microjoules(each["total_pj"]) for each in (ours, found)),
                f"{found['total_pj'] / ours['total_pj']:.2f}",
            ]
        )  # fmt: skip
    return table


def microjoules(picojoules: float) -> str:
    return f"{picojoules / 1e6:,.2f} µJ"


def markdown_table(
    metrics: dict[str, dict], energy: EnergyParams, params: EnergyCheckParams
) -> str:
    labels = {
        "estimate": "the estimate",
        "free_registers": "ZigZag, registers for all",
        "buffers": f"ZigZag, buffers of {params.buffer}",
        "no_buffers": "ZigZag, no buffers",
    }
    parts = [lines_of(totals_table(metrics, labels)), lines_of(layers_table(metrics[VARIANTS[-1]]))]
    between = f"The layers of {VARIANTS[-1]}, by the estimate and with buffers of {params.buffer}:"
    notes = [verdict(metrics, params), conditions(metrics, energy, params)]
    return "\n\n".join([parts[0], between, parts[1], *notes]) + "\n"


def lines_of(table: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def verdict(metrics: dict[str, dict], params: EnergyCheckParams) -> str:
    base, pruned = (metrics[name]["totals"] for name in VARIANTS)
    left = {chip: f"{100 * pruned[chip]['total_pj'] / base[chip]['total_pj']:.0f} %"
            for chip in ("estimate", "buffers")}  # fmt: skip
    more = [
        f"{totals['buffers']['total_pj'] / totals['estimate']['total_pj']:.2f}"
        for totals in (base, pruned)
    ]
    return (
        "With registers for everything, ZigZag counts what the estimate counts in every layer: the "
        "same multiply-accumulates, and the same bytes read and written in SRAM and DRAM. So the "
        "estimate is what these memories spend at least. On an array of "
        f"{params.rows} x {params.columns} with buffers of {params.buffer} the same energies give "
        f"{' and '.join(more)} times as much ({' and '.join(VARIANTS)}); of the base's energy the "
        f"pruned network takes {left['estimate']} by the estimate and {left['buffers']} there."
    )


def conditions(metrics: dict[str, dict], energy: EnergyParams, params: EnergyCheckParams) -> str:
    left_out = [
        f"{block['estimate_left_out_pj'] / 1e6:.2f} µJ ({name})" for name, block in metrics.items()
    ]
    return (
        "zigzag-dse 3.9.1, batch 1, the layers with weights; energies of the estimate, in pJ of 64 "
        f"bits: buffers {sram_pj(params.buffer, energy):g}, SRAM of {energy.activation_sram} "
        f"{sram_pj(energy.activation_sram, energy):g}, DRAM {energy.dram_pj[0]:g}, its lower "
        "figure, from which all weights come. In the estimate but not here: biases, max pooling, "
        f"and writing the image: {', '.join(left_out)}. A row of the array takes an input channel, "
        "a column makes an output channel; a multiplier keeps 1 weight, a row 1 input, a column "
        f"{params.accumulators} partial sum{'s' if params.accumulators > 1 else ''} of 32 bits, in "
        "registers that cost nothing. The order of the loops is the cheapest that ZigZag finds, "
        f"each layer's loops cut into {params.loop_factors} factors; a larger number may find a "
        "cheaper one. What ZigZag adds is partial sums and inputs that pass through the buffers, "
        "or without them through SRAM, several times."
    )


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

"""Synthesize a multiply-accumulate at int4, int8, int16 and fp32, and compare their sizes.

The Verilog is in stages/hardware/mac. Each format is first simulated on corner and random inputs
and must equal numpy bit for bit. Areas are those of a synthesis (Yosys) before place and route.

Reads   the Verilog, the liberty file of a standard-cell library
Writes  a JSON by format, a Markdown table
Params  mac_area.*  (see MacAreaParams)
Raises  InputError when Icarus Verilog, pyosys or the liberty file is missing
"""

import argparse
from pathlib import Path

import numpy as np

from stages.common.core.cli import run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.hardware.mac.params import MacAreaParams
from stages.hardware.mac.simulation import FORMATS, Format, check
from stages.hardware.mac.synthesis import refuse_without_tools, standard_cells, xilinx_parts


def measured(rtl: Path, form: Format, liberty: Path, params: MacAreaParams) -> dict:
    """The sizes of a format whose simulation equals numpy; an assertion fails for any other."""
    rng = np.random.default_rng(params.seed)
    found = check(rtl, form, params.random_inputs, rng)
    assert found.mismatches == 0, f"{form}: {found.mismatches} of {found.steps} sums are wrong"
    return {
        "operand_bits": form.width,
        "sum_bits": form.sum_width,
        "simulated_steps": found.steps,
        "standard_cells": standard_cells(rtl, form, liberty),
        "xilinx7": xilinx_parts(rtl, form, dsps=True),
        "xilinx7_without_dsps": xilinx_parts(rtl, form, dsps=False),
    }


def markdown_table(metrics: dict[str, dict], library: str) -> str:
    heads = ["multiply-accumulate", "sum", "area", "× int8", "cells", "flip-flops"]
    heads += ["LUTs without DSPs", "× int8", "with DSPs: LUTs", "DSPs"]
    rows = [heads, name_and_figures(heads)]
    int8 = metrics["int8"]
    for name, block in metrics.items():
        cells, logic = block["standard_cells"], block["xilinx7_without_dsps"]
        rows.append(
            [
                name,
                f"{block['sum_bits']} bits",
                f"{cells['area_um2']:,.0f} µm²",
                f"{cells['area_um2'] / int8['standard_cells']['area_um2']:.2f}",
                f"{cells['cells']:,}",
                f"{cells['flip_flops']}",
                f"{logic['luts']:,}",
                f"{logic['luts'] / int8['xilinx7_without_dsps']['luts']:.2f}",
                f"{block['xilinx7']['luts']:,}",
                f"{block['xilinx7']['dsps']}",
            ]
        )
    return f"{as_table(rows)}\n\n{conditions(metrics, library)}\n"


def conditions(metrics: dict[str, dict], library: str) -> str:
    steps = ", ".join(f"{name} {block['simulated_steps']:,}" for name, block in metrics.items())
    return (
        "The Verilog of stages/hardware/mac, synthesized by Yosys, before place and route and "
        f"without a target clock: standard cells of {library} (180 nm); LUTs and DSPs of Xilinx's "
        "7 series. One operation a clock, not pipelined; only the sum is a register. fp32 rounds "
        "product and sum to nearest even and takes subnormals as 0. Simulated first: every sum "
        f"equals numpy's (steps: {steps})."
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--rtl", type=Path, required=True, help="folder of the Verilog")
    parser.add_argument("--liberty", type=Path, required=True, help="the standard cells")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--table", type=Path, required=True, help="Markdown table to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(MacAreaParams, args.params, section="mac_area")
    refuse_without_tools(args.liberty)
    metrics = {
        name: measured(args.rtl, form, args.liberty, params) for name, form in FORMATS.items()
    }
    table = markdown_table(metrics, library=args.liberty.stem)
    write_json(args.metrics, metrics)
    write_text(args.table, table)
    print(table)


if __name__ == "__main__":
    run(main)

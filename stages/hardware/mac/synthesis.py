"""Synthesis of a Verilog module by Yosys, to standard cells or to the parts of an FPGA."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.common.core.cli import InputError
from stages.hardware.external.requirements import require_packages
from stages.hardware.mac.simulation import Format

# Yosys exits on an error, so it runs in a process of its own.
RUNNER = """
import sys
from pyosys import libyosys

design = libyosys.Design()
for command in sys.argv[1:]:
    libyosys.run_pass(command, design)
"""


def refuse_without_tools(liberty: Path) -> None:
    require_packages("pyosys", purpose="synthesizes Verilog")
    if not liberty.is_file():
        raise InputError(
            f"{liberty} is missing, the standard cells; install them (Debian and Ubuntu: sudo "
            "apt-get install qflow-tech-osu018), then run the same command again"
        )


def standard_cells(rtl: Path, form: Format, liberty: Path) -> dict:
    """Area and counts in the cells of ``liberty``, as ABC maps to them by default."""
    design = synthesized(
        rtl,
        form,
        f"synth -top {form.module} -flatten",
        f"dfflibmap -liberty {liberty}",
        f"abc -liberty {liberty}",
        "opt_clean",
        stat=f"stat -json -liberty {liberty}",
    )
    kinds = design["num_cells_by_type"]
    return {
        "area_um2": float(design["area"]),
        "cells": sum(kinds.values()),
        "flip_flops": count(kinds, "DFF"),
    }


def xilinx_parts(rtl: Path, form: Format, dsps: bool) -> dict:
    """Counts of the parts of Xilinx's 7 series; ``dsps``: whether DSP blocks may be used."""
    options = "" if dsps else " -nodsp"
    design = synthesized(
        rtl,
        form,
        f"synth_xilinx -family xc7 -top {form.module} -flatten -noiopad -noclkbuf{options}",
        stat="stat -json",
    )
    kinds = design["num_cells_by_type"]
    return {
        "luts": count(kinds, "LUT") + count(kinds, "INV"),  # an inverter becomes a LUT
        "carry_chains": count(kinds, "CARRY4"),
        "flip_flops": count(kinds, "FD"),
        "dsps": count(kinds, "DSP"),
    }


def count(kinds: dict[str, int], prefix: str) -> int:
    return sum(number for kind, number in kinds.items() if kind.startswith(prefix))


def synthesized(rtl: Path, form: Format, *commands: str, stat: str) -> dict:
    """The report of the command ``stat`` on the whole design, after the other commands."""
    changes = " ".join(f"-set {name} {value}" for name, value in form.parameters.items())
    with TemporaryDirectory() as folder:
        report = Path(folder) / "stat.json"
        script = [
            f"read_verilog {rtl / form.module}.v",
            *([f"chparam {changes} {form.module}"] if changes else []),
            *commands,
            f"tee -q -o {report} {stat}",
        ]
        result = subprocess.run(
            [sys.executable, "-c", RUNNER, *script], capture_output=True, text=True
        )
        assert result.returncode == 0, f"Yosys: {result.stdout[-2000:]}{result.stderr}"
        return json.loads(report.read_text())["design"]

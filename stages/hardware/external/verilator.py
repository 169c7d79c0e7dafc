"""Compile Verilog with Verilator, and run the program that it makes."""

import subprocess
from pathlib import Path

from stages.hardware.external.requirements import require_programs

TOP = "Vbench"  # the program


def refuse_without_verilator() -> None:
    require_programs(
        "verilator",
        "make",
        "g++",
        purpose="simulates Verilog",
        packages="--no-install-recommends verilator make g++",
    )


def compiled(folder: Path, verilog: Path, harness: Path) -> Path:
    """The program, in ``folder``, of a module "bench" and the C++ that clocks it.

    One thread and two-state registers make every run the same. Compiling with -O1 takes a third of
    the time of -O2 and costs little speed.
    """
    called(
        folder, "verilator", "--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast",
        "-Wno-lint", "--top-module", "bench", "--prefix", TOP, "--Mdir", str(folder),
        str(verilog), str(harness),
    )  # fmt: skip
    called(
        folder, "make", "-j2", "-f", f"{TOP}.mk", "OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1",
        TOP,
    )  # fmt: skip
    return folder / TOP


def called(folder: Path, *command: str) -> str:
    """The standard output of a command that runs in ``folder``."""
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    output = f"{result.stdout[-1000:]}{result.stderr[-1000:]}"
    assert result.returncode == 0, f"{' '.join(command)}: {output}"
    return result.stdout

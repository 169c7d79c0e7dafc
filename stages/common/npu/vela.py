"""Arm's compiler for Ethos-U NPUs, Vela, and its estimates for a compiled network.

Nothing here is measured: Vela counts cycles with its own model of the NPU and of the memories that
its ``Arm/vela.ini`` describes. Arm asks to run the compiled network on a model of the hardware
(FVP) or on an FPGA for real figures.
"""

import csv
import re
import subprocess
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ethosu.vela.architecture_features import Accelerator

from stages.common.core.cli import InputError
from stages.common.core.params import rule

VERSION = metadata.version("ethos-u-vela")
CONFIG = "Arm/vela.ini"  # in the package
ACCELERATORS = tuple(Accelerator.member_list())
KIB = 1024  # Vela's summary gives memory in KiB
# What Vela calls the memory of the weights. In the mode Sram_Only it says 'On-chip Flash', but
# vela.ini: "the SRAM is used for all storage".
MEMORIES = {"Off-chip Flash": "flash", "DRAM": "DRAM", "On-chip Flash": "SRAM", "SRAM": "SRAM"}


def names_in_config(kind: str) -> tuple[str, ...]:
    """The names that ``vela.ini`` has of a kind, "System_Config" or "Memory_Mode"."""
    config = ConfigParser()
    config.read_string((resources.files("ethosu") / "config_files" / CONFIG).read_text())
    sections = [section.split(".", 1) for section in config.sections()]
    return tuple(name for prefix, name in sections if prefix == kind)


SYSTEM_CONFIGS = names_in_config("System_Config")
MEMORY_MODES = names_in_config("Memory_Mode")


@dataclass(frozen=True)
class Target:
    """An NPU with its memories, by Vela's names."""

    accelerator: str
    system_config: str
    memory_mode: str

    def __str__(self) -> str:
        return f"{self.accelerator} {self.system_config} {self.memory_mode}"

    @property
    def npu(self) -> str:
        """Such as "U55-256"."""
        return self.accelerator.removeprefix("ethos-").upper()


def is_target(text: Any) -> bool:
    """Three names of Vela's, where the memories are those of the NPU's family."""
    words = text.split() if isinstance(text, str) else []
    if len(words) != 3:
        return False
    accelerator, system_config, memory_mode = words
    family = "_".join(accelerator.split("-")[:2])  # Vela itself would mix the families
    return (
        accelerator in ACCELERATORS
        and system_config in SYSTEM_CONFIGS
        and system_config.lower().startswith(f"{family}_")
        and memory_mode in MEMORY_MODES
    )


def target_list() -> Any:
    """A params field: a non-empty list of different targets."""
    return rule(
        lambda value: (
            isinstance(value, list)
            and len(value) > 0
            and all(is_target(item) for item in value)
            and len(set(value)) == len(value)
        ),
        "a list of one or more 'ACCELERATOR SYSTEM_CONFIG MEMORY_MODE', the last two as in Vela's "
        f"{CONFIG}, such as 'ethos-u55-256 Ethos_U55_High_End_Embedded Shared_Sram'",
    )


@dataclass(frozen=True)
class NPUParams:
    """The targets: accelerator, system configuration and memory mode, by Vela's names."""

    targets: list[str] = target_list()


@dataclass(frozen=True)
class Costs:
    """Vela's figures for one inference (batch 1) on the NPU.

    ``total_cycles``: with waiting for memory; ``npu_cycles``: the arithmetic alone; the others:
    what the traffic with that memory takes. They overlap in part; ``limited_by`` is the largest.
    ``sram_bytes`` and ``off_chip_bytes`` (flash or DRAM): peak use, weights included.
    """

    total_cycles: int
    npu_cycles: int
    sram_access_cycles: int
    off_chip_access_cycles: int
    limited_by: str
    inferences_per_second: float
    sram_bytes: int
    off_chip_bytes: int
    weight_bytes: int
    encoded_weight_bytes: int


@dataclass(frozen=True)
class Estimate:
    """How many operators the NPU takes, and their costs; None where it takes none."""

    operators: int
    npu_operators: int
    weights_in: str  # SRAM, flash or DRAM
    costs: Costs | None


def estimate(path: str | Path, target: Target) -> Estimate:
    """Compile a TFLite file. Raises ``InputError`` when Vela fails, with its reason.

    In a process of its own: Vela 5.2.0 dies of a damaged file instead of raising.
    """
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ethosu.vela", str(path), "--config", CONFIG]
        command += ["--accelerator-config", target.accelerator]
        command += ["--system-config", target.system_config, "--memory-mode", target.memory_mode]
        command += ["--output-dir", folder]
        process = subprocess.run(command, capture_output=True, text=True)
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if process.returncode or len(summaries) != 1:
            lines = (process.stdout + process.stderr).strip().splitlines() or ["no reason given"]
            raise InputError(
                f"{path}: Vela {VERSION} cannot compile this for '{target}' (exit status "
                f"{process.returncode}: {lines[-1]}); mend npu.targets in params.yaml or, if the "
                "file is damaged, delete it and run 'dvc repro'"
            )
        with open(summaries[0], newline="") as file:
            return estimate_of(next(csv.DictReader(file)), process.stdout)


def estimate_of(summary: dict[str, str], output: str) -> Estimate:
    """From the row of Vela's summary, and from what it prints of the operators."""
    counts = {name: int(n) for name, n in re.findall(r"^(CPU|NPU) operators = (\d+)", output, re.M)}
    return Estimate(
        operators=counts["NPU"] + counts["CPU"],
        npu_operators=counts["NPU"],
        weights_in=MEMORIES[summary["weights_storage_area"]],
        costs=costs_of(summary) if counts["NPU"] else None,
    )


def costs_of(summary: dict[str, str]) -> Costs:
    cycles = {
        "npu": whole_number(summary["cycles_npu"]),
        "SRAM": round(total(summary, "cycles_{}_access", "sram", "on_chip_flash")),
        "flash": whole_number(summary["cycles_off_chip_flash_access"]),
        "DRAM": whole_number(summary["cycles_dram_access"]),
    }
    return Costs(
        total_cycles=whole_number(summary["cycles_total"]),
        npu_cycles=cycles["npu"],
        sram_access_cycles=cycles["SRAM"],
        off_chip_access_cycles=cycles["flash"] + cycles["DRAM"],
        limited_by=max(cycles, key=lambda name: cycles[name]),
        inferences_per_second=round(float(summary["inferences_per_second"]), 1),
        sram_bytes=round(KIB * total(summary, "{}_memory_used", "sram", "on_chip_flash")),
        off_chip_bytes=round(KIB * total(summary, "{}_memory_used", "dram", "off_chip_flash")),
        weight_bytes=whole_number(summary["total_original_weights"]),
        encoded_weight_bytes=whole_number(summary["total_npu_encoded_weights"]),
    )


def whole_number(text: str) -> int:
    return round(float(text))


def total(summary: dict[str, str], key: str, *areas: str) -> float:
    """The sum of a figure over some of Vela's memories."""
    return sum(float(summary[key.format(area)]) for area in areas)

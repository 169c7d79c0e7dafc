"""The formats of the multiply-accumulate, and its simulation by Icarus Verilog."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from stages.hardware.external.requirements import require_programs
from stages.hardware.mac.reference import fp32_stimulus, fp32_sums, int_stimulus, int_sums


@dataclass(frozen=True)
class Format:
    """Bits of an operand and of the sum, and the Verilog module, which is in MODULE.v."""

    module: str
    width: int
    sum_width: int

    @property
    def parameters(self) -> dict[str, int]:
        """The module's Verilog parameters."""
        if self.module == "mac_fp32":
            return {}
        return {"WIDTH": self.width, "SUM_WIDTH": self.sum_width}


FORMATS = {
    "int4": Format("mac_int", width=4, sum_width=24),
    "int8": Format("mac_int", width=8, sum_width=32),
    "int16": Format("mac_int", width=16, sum_width=48),
    "fp32": Format("mac_fp32", width=32, sum_width=32),
}


@dataclass(frozen=True)
class Check:
    """Numbers of simulated steps and of sums that differ from the reference."""

    steps: int
    mismatches: int


def check(rtl: Path, form: Format, count: int, rng: np.random.Generator) -> Check:
    """Compare with the reference on corner inputs and on ``count`` random ones of each kind."""
    if form.module == "mac_fp32":
        stimulus = fp32_stimulus(count, rng)
        expected = fp32_sums(stimulus)
    else:
        stimulus = int_stimulus(form.width, count, rng)
        expected = int_sums(stimulus, form.width, form.sum_width)
    sums = simulated(rtl, form, stimulus)
    return Check(steps=len(stimulus), mismatches=int((sums != expected).sum()))


def simulated(rtl: Path, form: Format, stimulus: np.ndarray) -> np.ndarray:
    """The sum's bit pattern after every step; -1 where a bit of it is undefined."""
    parameters = ", ".join(f".{name}({value})" for name, value in form.parameters.items())
    instance = f"{form.module} #({parameters})" if parameters else form.module
    with TemporaryDirectory() as folder:
        lines = [f"{clear:x} {a:x} {b:x}\n" for clear, a, b in stimulus.tolist()]
        steps = Path(folder) / "stimulus.txt"
        steps.write_text("".join(lines))
        program = Path(folder) / "bench"
        called(
            "iverilog", f"-DMAC={instance}", f"-Pbench.WIDTH={form.width}",
            f"-Pbench.SUM_WIDTH={form.sum_width}", "-s", "bench", "-o", str(program),
            str(rtl / "bench.v"), str(rtl / f"{form.module}.v"),
        )  # fmt: skip
        output = called("vvp", str(program), f"+stimulus={steps}")
    sums = [int(line, 16) if "x" not in line else -1 for line in output.split()]
    assert len(sums) == len(stimulus), "the bench writes one sum a step"
    return np.array(sums)


def called(*command: str) -> str:
    """The standard output of one of Icarus Verilog's programs."""
    require_programs(command[0], purpose="simulates Verilog", packages="iverilog")
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
    return result.stdout

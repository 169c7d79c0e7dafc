"""An accelerator in simulation: a test bench with a memory, and the cycles and bytes it counts.

The memory is veriloggen's model: a request waits 10 cycles, and 4 cycles of 19 transfer nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.cli import InputError
from stages.hardware.external.verilator import called, compiled
from stages.hardware.nngen_engine.engine import Accelerator
from stages.hardware.nngen_engine.integer_network import IntegerNetwork
from stages.hardware.nngen_engine.params import AcceleratorParams

CLOCK_PERIOD = 10  # in steps of simulated time
MEMORY_FILE = "memory.hex"  # read by the bench from the folder where its program runs
OPERANDS = re.compile(
    r"^module (?:madd|multiplier)_core_\d+\b.*?input \[(\d+)-1:0\] a,\s+input \[(\d+)-1:0\] b,",
    re.MULTILINE | re.DOTALL,
)
LINE = re.compile(r"^(cycles|beats_read|beats_written|logit) +(-?\d+)$", re.MULTILINE)
RAM = re.compile(
    r"^module ram_w\d+_l\d+_id\w+$.*?^  reg \[(\d+)-1:0\] mem \[0:(\d+)-1\];$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Run:
    """One simulated inference: cycles from the start bit to the end, bytes over the AXI bus."""

    logits: np.ndarray  # (classes,) int64
    cycles: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class Resources:
    """Counted in the generated Verilog: multipliers by operand bits ("8x8"), bits of RAM."""

    multipliers: dict[str, int]
    ram_bits: int


class Simulator:
    """The accelerator's test bench, compiled once in ``folder`` for any number of runs."""

    def __init__(self, accelerator: Accelerator, folder: Path):
        self.accelerator = accelerator
        self._folder = folder
        verilog, harness = write_bench(accelerator, folder)
        self.resources = counted_resources(verilog.read_text())
        self._program = compiled(folder, verilog, harness)

    @property
    def verilog(self) -> str:
        """The accelerator without its test bench; its top module is "accelerator"."""
        return self.accelerator.module.to_verilog()

    def run(self, network: IntegerNetwork, pixels: np.ndarray) -> Run:
        """One image (3, H, W) uint8 through a network of the accelerator's shape."""
        write_memory(self._folder / MEMORY_FILE, self.accelerator.memory(network, pixels))
        return run_of(called(self._folder, str(self._program)), self.accelerator.params)


def write_bench(accelerator: Accelerator, folder: Path) -> tuple[Path, Path]:
    """Write the Verilog of accelerator, memory and test bench, and the C++ that clocks it."""
    from veriloggen import simulation

    bench = bench_of(accelerator, folder)
    simulation.to_verilator(
        bench,
        [bench],
        sim_time=accelerator.params.max_cycles * CLOCK_PERIOD,
        outputdir=str(folder),
        verilog_prefix="bench",
        cpp_prefix="harness",
    )
    return folder / "bench.v", folder / "harness.cpp"


def bench_of(accelerator: Accelerator, folder: Path) -> Any:
    """A module that starts the accelerator, waits for it, and prints the counts and the logits."""
    import nngen as ng
    import veriloggen.thread as vthread
    from veriloggen import Module, Not, simulation

    bench = Module("bench")
    bench.copy_params(accelerator.module)
    ports = bench.copy_sim_ports(accelerator.module)
    clock, reset_low = ports["CLK"], ports["RESETN"]
    reset = bench.Wire("RST")
    reset.assign(Not(reset_low))
    memory = memory_model(bench, reset, ports, accelerator, folder / MEMORY_FILE)
    control = vthread.AXIMLite(bench, "control", clock, reset, noio=True)
    control.connect(ports, "saxi")
    cycle, read, written = counters(bench, reset, ports)
    classes, address = accelerator.logits.shape[-1], accelerator.logits.addr
    work = accelerator.work_address

    # veriloggen makes a state machine of this function's source.
    def test():
        ng.sim.set_global_addrs(control, work)
        start = cycle.value
        ng.sim.start(control)
        ng.sim.wait(control)
        end = cycle.value
        print("cycles %d" % (end - start))  # noqa: UP031
        print("beats_read %d" % read)  # noqa: UP031
        print("beats_written %d" % written)  # noqa: UP031
        for index in range(classes):
            value = memory.read_word(index, address, 32)
            print("logit %d" % value)  # noqa: UP031
        vthread.finish()

    vthread.Thread(bench, "test", clock, reset, test).start()
    bench.Instance(
        accelerator.module,
        "engine",
        params=bench.connect_params(accelerator.module),
        ports=bench.connect_ports(accelerator.module),
    )
    simulation.setup_clock(bench, clock, hperiod=CLOCK_PERIOD // 2)
    simulation.setup_reset(bench, reset_low, bench.make_reset(), period=100, polarity="low")
    return bench


def memory_model(
    bench: Any, reset: Any, ports: Any, accelerator: Accelerator, content: Path
) -> Any:
    """veriloggen's memory behind the accelerator's AXI port; it starts with the file's content."""
    from veriloggen.types.axi import AxiMemoryModel

    write_memory(content, np.zeros(2**accelerator.address_bits, np.uint8))  # its lines are counted
    memory = AxiMemoryModel(
        bench,
        "memory",
        ports["CLK"],
        reset,
        datawidth=accelerator.params.axi_bits,
        mem_addrwidth=accelerator.address_bits,
        memimg=str(content),
    )
    memory.connect(ports, "maxi")
    return memory


def counters(bench: Any, reset: Any, ports: Any) -> list[Any]:
    """Registers that count cycles, and the words read and written over AXI."""
    from veriloggen import Ands, Seq

    names = ("cycle", "beats_read", "beats_written")
    cycle, read, written = registers = [bench.Reg(name, 32, initval=0) for name in names]
    count = Seq(bench, "count", ports["CLK"], reset)
    count(cycle.inc())
    count.If(Ands(ports["maxi_rvalid"], ports["maxi_rready"]))(read.inc())
    count.If(Ands(ports["maxi_wvalid"], ports["maxi_wready"]))(written.inc())
    return registers


def write_memory(path: Path, content: np.ndarray) -> None:
    """One byte a line, as $readmemh reads it."""
    digits = content.tobytes().hex()
    path.write_text("\n".join(digits[i : i + 2] for i in range(0, len(digits), 2)) + "\n")


def counted_resources(source: str) -> Resources:
    """``source``: NNgen's Verilog, in which each multiplier and each RAM is a module used once."""
    operands, rams = OPERANDS.findall(source), RAM.findall(source)
    for name, found in ((r"(?:madd|multiplier)_core_", operands), ("ram_w", rams)):
        modules = len(re.findall(f"^module {name}", source, re.MULTILINE))
        assert len(found) == modules > 0, f"{len(found)} of {modules} modules {name} are parsed"
    multipliers: dict[str, int] = {}
    for a, b in operands:
        multipliers[f"{a}x{b}"] = multipliers.get(f"{a}x{b}", 0) + 1
    return Resources(
        multipliers=dict(sorted(multipliers.items())),
        ram_bits=sum(int(width) * int(length) for width, length in rams),
    )


def run_of(printed: str, params: AcceleratorParams) -> Run:
    """Parse what the bench printed; ``InputError`` where the simulation was cut off."""
    found: dict[str, list[int]] = {}
    for name, value in LINE.findall(printed):
        found.setdefault(name, []).append(int(value))
    if "logit" not in found:
        raise InputError(
            f"the accelerator had not finished after {params.max_cycles:,} cycles "
            "(accelerator.max_cycles); raise that, or accelerator.par_ich and par_och"
        )
    [cycles], [read], [written] = (
        found[name] for name in ("cycles", "beats_read", "beats_written")
    )
    beat = params.axi_bits // 8
    return Run(np.array(found["logit"]), cycles, read * beat, written * beat)

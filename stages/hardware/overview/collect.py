"""The figures of all stages as quantities of one page; see ``stages.hardware.summary``.

"unstructured" differs by platform. On the CPU it is the unstructured point of the study 'sweep'
whose number of non-zero weights is nearest to the pruned network's (fine-tuned, and timed in its
own run, perhaps on another machine; so its time is the dense network's here times their ratio
there, at the same precision). Elsewhere it is the INT8 base with its smallest weights set to 0.
"""

from dataclasses import dataclass
from pathlib import Path

from stages.common.core.cli import InputError
from stages.common.core.files import figure, read_metrics, read_rows
from stages.common.reporting.runtimes import RUNTIMES
from stages.hardware.overview.claims import ZEROS
from stages.hardware.overview.params import HardwareParams
from stages.hardware.overview.quantities import ASIC, CPU, FPGA, NPU, Quantity

HARDWARE = "'make hardware'"
REPRO = "'dvc repro'"
SWEEP = "'make study NAME=sweep'"
DENSE = dict(ZEROS)
MEASURED = ("base", "pruned", "base_int8", "pruned_int8")
ON_NPU = {"base": "base_int8", "pruned": "pruned_int8", "unstructured": "unstructured_int8"}


@dataclass(frozen=True)
class Sources:
    folder: Path  # metrics/
    sweep: Path

    def metrics(self, name: str, remedy: str) -> tuple[dict, Path]:
        path = self.folder / name
        return read_metrics(path, remedy), path


def collect(sources: Sources, params: HardwareParams) -> tuple[list[Quantity], list[str]]:
    """All quantities in the order of the page, and a note for each platform."""
    cpu, cpu_note = on_cpu(sources)
    npu, npu_note = on_npu(sources, params)
    fpga, fpga_note = on_fpga(sources)
    asic, asic_note = on_asic(sources)
    return [*cpu, *npu, *fpga, *asic], [cpu_note, npu_note, fpga_note, asic_note]


# ------------------------------------------------------------------------------------------- CPU


def on_cpu(sources: Sources) -> tuple[list[Quantity], str]:
    times, path = sources.metrics("benchmark.json", REPRO)
    evaluations = {name: sources.metrics(f"evaluate/{name}.json", REPRO) for name in MEASURED}
    pruned, pruned_path = evaluations["pruned"]
    rows = nearest_zeros(
        read_rows(sources.sweep, SWEEP), figure(pruned, "nonzero_params", where=pruned_path)
    )
    quantities = []
    for runtime, title in RUNTIMES.items():
        column = {"opencv": "ratio_to_base", "onnxruntime": "onnxruntime_ratio_to_base"}[runtime]
        values = {
            name: figure(times, name, runtime, "ratio_to_base", where=path) for name in MEASURED
        }
        values |= {
            name: values[DENSE[name]] * float(row[column]) / float(dense[column])
            for name, (row, dense) in rows.items()
        }
        quantities.append(Quantity(CPU, "time", f"time in {title}", "× base", "measured", values))
    sizes = {
        name: figure(evaluations[name][0], "size_bytes", where=evaluations[name][1]) / 1000
        for name in MEASURED
    }
    sizes |= {name: float(row["size_bytes"]) / 1000 for name, (row, _) in rows.items()}
    quantities.append(Quantity(CPU, "memory", "model file", "KB", "measured", sizes))
    row, _ = rows["unstructured"]
    note = (
        f"CPU: {times['environment']['cpu']}, one "
        f"thread; unstructured is the sweep's point at {row['prune.amount']} of the "
        f"multiply-accumulates ({int(row['nonzero_params']):,} weights are not 0), its time put "
        "here as the multiple of the dense network's that it was in the sweep's own rounds."
    )
    return quantities, note


def nearest_zeros(
    rows: list[dict[str, str]], nonzero: float
) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """The sweep's unstructured rows, FP32 and INT8, whose non-zero weights are nearest ``nonzero``.

    Each with the row of the dense network of the same precision, timed in the same rounds.
    """
    unstructured = [row for row in rows if row["prune.method"] == "unstructured"]
    found = {}
    for name, variant in (("unstructured", "pruned"), ("unstructured_int8", "pruned_int8")):
        pairs = [
            (row, dense)
            for row in unstructured
            for dense in unstructured
            if (row["variant"], dense["variant"]) == (variant, DENSE[name])
            and row["prune.amount"] == dense["prune.amount"]
        ]
        if not pairs:
            raise InputError(f"the sweep has no unstructured point; run {SWEEP}")
        found[name] = min(pairs, key=lambda pair: abs(float(pair[0]["nonzero_params"]) - nonzero))
    return found


# ------------------------------------------------------------------------------------------- NPU


def on_npu(sources: Sources, params: HardwareParams) -> tuple[list[Quantity], str]:
    metrics, path = sources.metrics("npu.json", REPRO)

    def values(target: str, key: str, unit: float = 1) -> dict[str, float]:
        return {
            name: figure(metrics, block, target, key, where=path) / unit
            for block, name in ON_NPU.items()
        }

    slow, fast = params.npu_slow_weights, params.npu_fast_weights
    stored = values(slow, "encoded_weight_bytes", 1000)
    quantities = [
        Quantity(
            NPU, "time", "cycles, weights in slow memory", "cycles", "estimated",
            values(slow, "total_cycles"),
        ),
        Quantity(
            NPU, "time", "cycles, weights in SRAM", "cycles", "estimated",
            values(fast, "total_cycles"),
        ),
        Quantity(NPU, "memory", "weights as stored", "KB", "estimated", stored),
        Quantity(
            NPU, "memory", "SRAM that holds all", "KB", "estimated",
            values(fast, "sram_bytes", 1000),
        ),
    ]  # fmt: skip
    note = (
        f"NPU: {slow} (slow) and {fast} (SRAM), by Arm's compiler; FP32 does not run there, so "
        "INT8 is 1.00."
    )
    return quantities, note


# ------------------------------------------------------------------------------------------ FPGA


def on_fpga(sources: Sources) -> tuple[list[Quantity], str]:
    area, area_path = sources.metrics("mac_area.json", HARDWARE)
    runs, designs = (
        {name: sources.metrics(f"{stage}/{name}.json", HARDWARE) for name in ("base", "pruned")}
        for stage in ("accelerator", "hls")
    )
    block, path = designs["base"]
    reuse = f"{figure(block, 'design', 'reuse_factor', where=path):.0f}"
    luts = {
        name: figure(area, form, "xilinx7_without_dsps", "luts", where=area_path)
        for name, form in per_precision()
    }
    dsps = {
        name: figure(area, form, "xilinx7", "dsps", where=area_path)
        for name, form in per_precision()
    }

    def simulated(key: str, zeros_key: str) -> dict[str, float]:
        values = {
            f"{name}_int8": figure(block, key, where=path) for name, (block, path) in runs.items()
        }
        block, path = runs["base"]
        return values | {"unstructured_int8": figure(block, zeros_key, where=path)}

    multipliers = {
        f"{name}_int8": figure(block, "reuse_factors", reuse, "multipliers", where=path)
        for name, (block, path) in designs.items()
    }

    quantities = [
        Quantity(
            FPGA, "time", "cycles of one engine for all layers", "cycles", "simulated",
            simulated("cycles", "cycles_with_zeros"),
        ),
        Quantity(
            FPGA, "multipliers", "multipliers of a pipeline of all layers", "multipliers",
            "counted", multipliers,
        ),
        Quantity(
            FPGA, "memory", "bytes that the engine reads", "KB", "simulated",
            {f"{name}_int8": figure(block, "read_bytes", where=path) / 1000
             for name, (block, path) in runs.items()},
        ),
        Quantity(
            FPGA, "arithmetic", "LUTs of one multiply-accumulate", "LUTs", "synthesized", luts
        ),
        Quantity(
            FPGA, "arithmetic", "DSP blocks of one multiply-accumulate", "DSPs", "synthesized", dsps
        ),
    ]  # fmt: skip
    note = (
        "FPGA: the engine is NNgen's, for the INT8 networks; the pipeline is hls4ml's, in fixed "
        f"point, each multiplier used at most {reuse} times a position: fewer of them in the "
        "pruned network at the same speed."
    )
    return quantities, note


def per_precision() -> list[tuple[str, str]]:
    """(variant, format): a multiplier depends on the precision alone, not on pruning."""
    fp32 = [(name, "fp32") for name in ("base", "pruned", "unstructured")]
    return fp32 + [(f"{name}_int8", "int8") for name, _ in fp32]


# ------------------------------------------------------------------------------------------ ASIC


def on_asic(sources: Sources) -> tuple[list[Quantity], str]:
    area, area_path = sources.metrics("mac_area.json", HARDWARE)
    energy, path = sources.metrics("energy.json", HARDWARE)
    names = [*MEASURED, "unstructured_int8"]
    cells = {
        name: figure(area, form, "standard_cells", "area_um2", where=area_path)
        for name, form in per_precision()
    }

    def spent(engine: str, memory: str) -> dict[str, float]:
        return {
            name: figure(energy, name, engine, memory, "total_uj_low", where=path) for name in names
        }

    def area_for_speed(key: str) -> dict[str, float]:
        return {name: cells[name] * figure(energy, name, key, where=path) / 1e12 for name in names}

    quantities = [
        Quantity(
            ASIC, "energy", "energy, weights from DRAM", "µJ", "estimated",
            spent("dense", "streamed"),
        ),
        Quantity(
            ASIC, "energy", "energy, weights on chip if they fit", "µJ", "estimated",
            spent("dense", "resident"),
        ),
        Quantity(
            ASIC, "energy", "energy, on chip, zeros skipped", "µJ", "estimated",
            spent("zero_skipping", "resident"),
        ),
        Quantity(
            ASIC, "arithmetic", "area of one multiply-accumulate", "µm²", "synthesized", cells
        ),
        Quantity(
            ASIC, "multipliers", "area for equal speed", "mm² × M cycles", "counted",
            area_for_speed("macs"),
        ),
        Quantity(
            ASIC, "multipliers", "area for equal speed, zeros skipped", "mm² × M cycles",
            "counted", area_for_speed("nonzero_macs"),
        ),
    ]  # fmt: skip
    note = (
        "ASIC: standard cells of 180 nm, energies of 45 nm, the lower energy of DRAM; area for "
        "equal speed is that of one multiply-accumulate times how many there are."
    )
    return quantities, note

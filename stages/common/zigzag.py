"""The energy estimate's layers and memories as ZigZag takes them, and what ZigZag says they spend.

ZigZag (zigzag-dse, KU Leuven) counts what a layer moves between the memories of a chip when its
loops run in a certain order, and searches the order that spends least. Three chips, each with the
multiply-accumulate, the activation memory (SRAM) and the weight memory (DRAM) of the estimate:

- "free_registers": one multiplier, beside which registers that cost nothing hold everything: what
  the estimate assumes;
- "buffers": rows x columns multipliers and a few registers, which cost nothing: a weight in each
  multiplier, an input for each row, partial sums for each column (a row takes an input channel, a
  column makes an output channel); and a buffer of SRAM each for inputs, weights and outputs;
- "no_buffers": the same without the buffers.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from stages.common.chain import Chain
from stages.common.cli import InputError
from stages.common.energy import (
    BYTES_AN_ACCESS,
    SRAM_BYTES,
    EnergyParams,
    sram_pj,
)
from stages.common.params import one_of, whole
from stages.common.traffic import Operator, Work

CHIPS = ("free_registers", "buffers", "no_buffers")
SUM_BYTES = 4  # int8 products are added up in int32
BUFFERS = ("input_buffer", "weight_buffer", "output_buffer")
INPUT, WEIGHT, OUTPUT = "I1", "I2", "O"  # ZigZag's names of what a memory holds
DIMENSIONS = ("D1", "D2")  # of the array: rows, columns
UNLIMITED_BYTES = 10**9
ANY_WIDTH = 10**6  # bits at once, of registers


@dataclass(frozen=True)
class EnergyCheckParams:
    """The array of "buffers" and "no_buffers", and how long ZigZag searches."""

    rows: int = whole(at_least=1)
    columns: int = whole(at_least=1)
    accumulators: int = whole(at_least=1)  # partial sums that a column keeps
    buffer: str = one_of(*SRAM_BYTES)
    loop_factors: int = whole(at_least=1, at_most=9)


@dataclass(frozen=True)
class Layer:
    """A convolution, or a linear layer as one of 1x1 over one position.

    ``sizes`` of its loops, by ZigZag's names: K output and C input channels, OY x OX positions,
    FY x FX filter. ``image`` (height, width) of the input; ``output_bytes`` of an element;
    ``operator``: as the estimate counts it; ZigZag is given nothing of it.
    """

    name: str
    sizes: dict[str, int]
    image: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int]
    output_bytes: int
    operator: Operator


def layers_of(chain: Chain, work: Work) -> tuple[Layer, ...]:
    """The layers with weights. Raises ``InputError`` for a network that is not INT8."""
    found, shape = [], chain.shape
    for layer, operator in zip(chain.layers, work.operators, strict=True):
        if layer.weight is not None:
            if operator.precision != "int8":
                raise InputError(f"layer {len(found) + 1} is {operator.precision}; it must be int8")
            channels, height, width = layer.shape
            rows, columns = layer.kernel
            sizes = {"K": channels, "C": shape[0], "OY": height, "OX": width}
            found.append(
                Layer(
                    name=f"{layer.kind} {len(found) + 1}",
                    sizes=sizes | {"FY": rows, "FX": columns},
                    image=shape[1:],
                    stride=layer.stride,
                    pads=((rows - 1) // 2, (columns - 1) // 2) if layer.same else (0, 0),
                    output_bytes=4 if layer.output is None else 1,  # ONNX leaves logits float32
                    operator=operator,
                )
            )
        shape = layer.shape
    return tuple(found)


def workload(layers: tuple[Layer, ...]) -> list[dict]:
    """Each one reads what the one before it puts out."""
    return [
        {
            "id": index,
            "name": layer.name,
            "operator_type": "Conv",
            "equation": "O[k][oy][ox]+=W[k][c][fy][fx]*I[c][iy][ix]",
            "loop_dims": list(layer.sizes),
            "loop_sizes": list(layer.sizes.values()),
            "dimension_relations": [
                f"iy={layer.stride[0]}*oy+1*fy",
                f"ix={layer.stride[1]}*ox+1*fx",
            ],
            "pr_loop_dims": ["IY", "IX"],
            "pr_loop_sizes": list(layer.image),
            "padding": [[pad, pad] for pad in layer.pads],
            "operand_precision": {
                "I": 8,
                "W": 8,
                "O": 8 * SUM_BYTES,
                "O_final": 8 * layer.output_bytes,
            },
            "operand_source": {"I": max(index - 1, 0), "W": index},
        }
        for index, layer in enumerate(layers)
    ]


def outputs(layer: Layer) -> int:
    return layer.sizes["K"] * layer.sizes["OY"] * layer.sizes["OX"]


def mapping(layers: tuple[Layer, ...], chip: str, params: EnergyCheckParams) -> list[dict]:
    """Where everything stays in registers, the order of the loops does not matter: one is given."""
    links = {"memory_operand_links": {"I": INPUT, "W": WEIGHT, "O": OUTPUT}}
    if chip != "free_registers":
        rows, columns = [f"C, {params.rows}"], [f"K, {params.columns}"]
        return [{"name": "default", "spatial_mapping": {"D1": rows, "D2": columns}, **links}]
    given = [
        {
            "name": layer.name,
            "spatial_mapping": {"D1": ["K, 1"], "D2": ["K, 1"]},
            "temporal_ordering": [[name, size] for name, size in layer.sizes.items() if size > 1],
            **links,
        }
        for layer in layers
    ]
    return [*given, {"name": "default", **links}]


def accelerator(chip: str, energy: EnergyParams, params: EnergyCheckParams) -> dict:
    """Memories from the nearest to the farthest."""
    memories = registers(chip, params)
    if chip == "buffers":
        size, cost = SRAM_BYTES[params.buffer], sram_pj(params.buffer, energy) / BYTES_AN_ACCESS
        for name, operand in zip(BUFFERS, (INPUT, WEIGHT, OUTPUT), strict=True):
            memories[name] = memory([operand], size, cost)
    size = SRAM_BYTES[energy.activation_sram]
    cost = sram_pj(energy.activation_sram, energy) / BYTES_AN_ACCESS
    memories["sram"] = memory([INPUT, OUTPUT], size, cost)
    memories["dram"] = memory([WEIGHT], UNLIMITED_BYTES, energy.dram_pj[0] / BYTES_AN_ACCESS)
    return {
        "name": chip,
        "memories": memories,
        "operational_array": {
            "input_precision": [8, 8],
            "unit_energy": float(energy.int8_multiply_pj + energy.int32_add_pj),
            "unit_area": 0.0,
            "dimensions": list(DIMENSIONS),
            "sizes": [1, 1] if chip == "free_registers" else [params.rows, params.columns],
        },
    }


def registers(chip: str, params: EnergyCheckParams) -> dict:
    """Inputs are shared by the columns, partial sums by the rows."""
    sizes = {"input": 1, "weight": 1, "output": SUM_BYTES * params.accumulators}
    if chip == "free_registers":
        sizes = dict.fromkeys(sizes, UNLIMITED_BYTES)
    return {
        f"{name}_registers": memory([operand], sizes[name], 0.0, ANY_WIDTH, shared)
        for name, operand, shared in (
            ("input", INPUT, ("D2",)),
            ("weight", WEIGHT, ()),
            ("output", OUTPUT, ("D1",)),
        )
    }


def memory(
    operands: list[str],
    size_bytes: int,
    byte_pj: float,
    width_bits: int = 8,
    shared: tuple[str, ...] = DIMENSIONS,
) -> dict:
    """An access is of a byte: the estimate too takes an eighth of the energy of 64 bits for it."""
    to_and_from = {
        operand: ["fh", "tl", "fl", "th"] if operand == OUTPUT else ["fh", "tl"]
        for operand in operands
    }
    port = {
        "name": "rw_port_1",
        "type": "read_write",
        "bandwidth_min": 8,
        "bandwidth_max": width_bits,
        "allocation": [f"{name}, {way}" for name, ways in to_and_from.items() for way in ways],
    }
    return {
        "size": 8 * size_bytes,
        "r_cost": float(byte_pj),
        "w_cost": float(byte_pj),
        "area": 0.0,
        "latency": 1,
        "operands": list(operands),
        "ports": [port],
        "served_dimensions": list(shared),
    }


def refuse_large_layers(layers: tuple[Layer, ...], energy: EnergyParams) -> None:
    """Without buffers, the partial sums of a whole layer may be in the activation memory."""
    for layer in layers:
        size = layer.operator.read_bytes + SUM_BYTES * outputs(layer)
        if size > SRAM_BYTES[energy.activation_sram]:
            raise InputError(
                f"{layer.name} holds up to {size:,} bytes of inputs and partial sums, which "
                f"energy.activation_sram ({energy.activation_sram}) cannot; set it to a size that "
                "holds them"
            )


def refuse_without_zigzag(python: Path) -> None:
    if not python.is_file():
        raise InputError(
            f"{python} is missing, the environment of zigzag-dse, which checks the energy; run: "
            "make hardware"
        )


def spent(
    python: Path,
    driver: Path,
    layers: tuple[Layer, ...],
    chip: str,
    energy: EnergyParams,
    params: EnergyCheckParams,
) -> dict:
    """What ZigZag finds: see the driver. ``python`` is that of ZigZag's environment."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in (
            ("workload", workload(layers)),
            ("accelerator", accelerator(chip, energy, params)),
            ("mapping", mapping(layers, chip, params)),
        ):
            (folder / f"{file}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        command = [python, driver, folder, "--loop-factors", str(params.loop_factors)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise InputError(
                f"ZigZag cannot map the layers to the chip '{chip}' ({reason(result.stderr)}); try "
                "another array or buffer (params energy_check), or delete "
                f"{python.parent.parent} and run: make hardware"
            )
        return json.loads((folder / "result.json").read_text())


def reason(stderr: str) -> str:
    """The error's line, without the traceback before it and what may follow."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith(" ")]
    return next((line for line in lines if not line.startswith("Traceback")), "it does not say why")

"""A network as C++17 for TensorFlow Lite Micro: the model in flash, and a program that runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from stages.common.core.cli import InputError
from stages.common.core.files import write_text
from stages.common.inference.tflite.file import load_tflite, read_bytes, read_metadata, why_none
from stages.common.mcu.reference import reference_logits
from stages.common.mcu.structure import Structure, registrations, structure_of
from stages.common.pruning.memory.arena import ALIGNMENT

TEMPLATES = Path(__file__).parent / "templates"
BYTES_A_LINE = 32
MEASURED = (
    "The smallest arena that works with the reference kernels on a 64-bit host; a 32-bit device "
    "needs a little less."
)
ESTIMATED = "Estimated from the file, not measured: the program says how much it used."


@dataclass(frozen=True)
class Quantized:
    """real = scale * (int8 - zero_point)."""

    scale: float
    zero_point: int


def write_mcu_bundle(tflite: Path, folder: Path, arena_bytes: int | None = None) -> list[Path]:
    """Write an INT8 TFLite file as a folder of C++ sources, and return the files.

    ``model.h`` and ``model.cc`` (the file as an array), ``model_io.h`` (shapes, quantization, class
    names, a self-test), ``operators.h``, ``main.cc`` and ``README.md``. All but the last three need
    nothing but C++17. Other files in the folder stay. ``arena_bytes``: the tensor arena as measured
    (``interpreter.smallest_arena``); None: as estimated. Equal files give equal folders.

    Raises ``InputError`` when ``tflite`` is missing, stands for a network without a TFLite file, is
    not INT8 from input to output, or has an operator that this pipeline does not write.
    """
    if reason := why_none(tflite):
        raise InputError(f"{tflite} holds no model, so there is nothing to bundle: {reason}")
    model = load_tflite(tflite)
    structure = structure_of(model)
    methods = registrations(structure, tflite)
    words = {
        **network_words(tflite, structure),
        **io_words(tflite, model),
        **arena_words(arena_bytes, structure),
        "count": str(len(methods)),
        "operators": ", ".join(structure.kinds()),
        "registrations": "\n".join(
            f"  if (operators.{method}() != kTfLiteOk) return kTfLiteError;" for method in methods
        ),
    }
    written = []
    for template in sorted(TEMPLATES.glob("*.in")):
        path = folder / template.stem
        write_text(path, Template(template.read_text()).substitute(words))
        written.append(path)
    return written


def network_words(tflite: Path, structure: Structure) -> dict[str, str]:
    content = read_bytes(tflite)
    return {
        "name": tflite.stem,
        "source": tflite.name,
        "flash": str(len(content)),
        "flash_text": f"{len(content):,}",
        "bytes": ",\n".join(lines_of(content)),
    }


def lines_of(content: bytes) -> Iterator[str]:
    """The bytes as decimals: half the text of hexadecimals."""
    for start in range(0, len(content), BYTES_A_LINE):
        yield ",".join(map(str, content[start : start + BYTES_A_LINE]))


def arena_words(arena_bytes: int | None, structure: Structure) -> dict[str, str]:
    """Rounded up to the arena's own alignment, which no device then takes from it."""
    exact = structure.estimated_arena() if arena_bytes is None else arena_bytes
    rounded = -(-exact // ALIGNMENT) * ALIGNMENT
    return {
        "arena": str(rounded),
        "arena_text": f"{rounded:,}",
        "arena_source": ESTIMATED if arena_bytes is None else MEASURED,
    }


def io_words(tflite: Path, model: schema.ModelT) -> dict[str, str]:
    """Input and output as C++ says them, and the logits of the self-test."""
    subgraph = model.subgraphs[0]
    source, logits = (subgraph.tensors[ends[0]] for ends in (subgraph.inputs, subgraph.outputs))
    took, gives = (quantization_of(tensor, tflite) for tensor in (source, logits))
    metadata = read_metadata(tflite)
    _, height, width, channels = (int(side) for side in source.shape)
    names = metadata.get("classes") or [str(index) for index in range(int(logits.shape[-1]))]
    found = self_test_logits(tflite, (height, width, channels))
    return {
        "height": str(height),
        "width": str(width),
        "channels": str(channels),
        "subtract": as_float(metadata.get("input", {}).get("subtract", 0)),
        "input_scale": as_float(took.scale),
        "input_zero_point": str(took.zero_point),
        "classes": str(len(names)),
        "output_scale": as_float(gives.scale),
        "output_zero_point": str(gives.zero_point),
        "class_names": ",\n".join(f"    {quoted(name)}" for name in names),
        "self_test": ", ".join(map(str, found)),
    }


def output_quantization(model: schema.ModelT, path: Path) -> Quantized:
    """Of the logits. Raises ``InputError`` where they are not int8."""
    subgraph = model.subgraphs[0]
    return quantization_of(subgraph.tensors[subgraph.outputs[0]], path)


def quantization_of(tensor: schema.TensorT, path: Path) -> Quantized:
    """Raises ``InputError`` where the tensor is not int8."""
    found = tensor.quantization
    if found is None or found.scale is None or len(found.scale) != 1:
        raise InputError(
            f"{path} is not INT8 from input to output; expected a file of 'dvc repro tflite'"
        )
    return Quantized(float(found.scale[0]), int(found.zeroPoint[0]))


def self_test_logits(tflite: Path, shape: tuple[int, int, int]) -> list[int]:
    """int8, of the picture that ``model_io.h`` makes."""
    index = np.arange(np.prod(shape))
    pixels = ((index * 31 + index // 97 * 17) % 256).reshape(1, *shape)
    return reference_logits(tflite, pixels)[0].tolist()


def as_float(value: float) -> str:
    """A float literal of C++ with all the digits of a float32."""
    text = repr(float(np.float32(value)))
    return f"{text}f"


def quoted(text: str) -> str:
    """A string literal of C++; what is not ASCII in octal, which ends after three digits."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'

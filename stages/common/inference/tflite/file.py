"""TFLite files as trees of tables: reading, writing, the weights and the metadata in them.

Through the classes that LiteRT generates from the format's flatbuffer schema.
"""

import json
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from stages.common.core.cli import InputError
from stages.common.core.files import write_text

IDENTIFIER = b"TFL3"
# Where a network has no TFLite file, DVC still wants one: it holds this and the reason, which no
# reader takes for a model. In metrics the reason stands under UNSUPPORTED.
NONE = "no TFLite model: "
UNSUPPORTED = "unsupported"
METADATA = "edge_model"  # the name of the metadata buffer: JSON
WEIGHTED = (
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
)
ALIGNMENT = 16  # bytes; the schema's force_align of a buffer, which microcontrollers rely on


class AlignedBuffer(schema.BufferT):
    """A buffer whose data start at a multiple of ``ALIGNMENT``; the generated code's do not."""

    def __init__(self, data: bytes = b""):
        super().__init__()
        self.data = data

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  the generated code's name
        data = self.data
        if data:
            builder.StartVector(1, len(data), ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if data:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def write_none(path: Path, reason: str) -> None:
    """In place of a model."""
    write_text(path, f"{NONE}{reason}\n")


def why_none(path: Path) -> str:
    """The reason for which the network has no TFLite file; "" where it has one.

    Raises ``InputError`` when the file is missing.
    """
    data = read_bytes(path)
    return data.decode().removeprefix(NONE).strip() if data.startswith(NONE.encode()) else ""


def read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro' (or 'dvc pull')") from None


def load_tflite(path: str | Path) -> schema.ModelT:
    """Raises ``InputError`` when the file is missing or no TFLite model."""
    data = read_bytes(path)
    if data[4:8] != IDENTIFIER:
        raise InputError(f"{path} is no TFLite model; delete it and run 'dvc repro'")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    model.buffers = [
        AlignedBuffer(b"" if buffer.data is None else bytes(buffer.data))
        for buffer in model.buffers
    ]
    return model


def read_metadata(path: str | Path) -> dict:
    """The writer's description of the network and its input; empty for another's file."""
    model = schema.Model.GetRootAsModel(Path(path).read_bytes(), 0)
    for index in range(model.MetadataLength()):
        if model.Metadata(index).Name() == METADATA.encode():
            return json.loads(bytes(model.Buffers(model.Metadata(index).Buffer()).DataAsNumpy()))
    return {}


def weight_tensors(model: schema.ModelT) -> list[schema.TensorT]:
    """The filters and matrices of all operators that have one, in the operators' order."""
    subgraph = model.subgraphs[0]
    return [
        subgraph.tensors[node.inputs[1]]
        for node in subgraph.operators
        if model.operatorCodes[node.opcodeIndex].builtinCode in WEIGHTED
    ]


def int8_values(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """A copy of a constant tensor's integers, in its shape."""
    return np.frombuffer(model.buffers[tensor.buffer].data, np.int8).reshape(tensor.shape).copy()


def packed(model: schema.ModelT) -> bytes:
    """The file's bytes; its buffers are ``AlignedBuffer``."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())

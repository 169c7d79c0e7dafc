"""ONNX files as graphs: reading them, stripping them, and counting parameters, MACs and memory.

FP32 or INT8. An INT8 file holds INT8 operators (QLinearConv), or (QDQ) every operator stands
between a DequantizeLinear and a QuantizeLinear. A runtime fuses those three into one INT8
operator, and the counts here are those of the fused operators.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
    shape_inference,
)
from onnx.helper import tensor_dtype_to_np_dtype

from stages.common.core.cli import InputError

# Where an operator with weights has its weight, its zero point and its bias among its inputs.
# A matrix product with activations on both sides has none.
WEIGHTED = {
    "Conv": (1, None, 2),
    "Gemm": (1, None, 2),
    "MatMul": (1, None, None),
    "QLinearConv": (3, 5, 8),
}
# Operators that need no second buffer: fused into the one before them, or only a view.
FUSED = ("Clip", "Relu", "Sub")  # where nothing else reads what they overwrite
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
VIEWS = (*QUANTIZERS, "Flatten", "Reshape", "Identity")
IN_PLACE = (*FUSED, *VIEWS)


@dataclass(frozen=True)
class Cost:
    """Counts for one image; nothing is measured.

    ``params``: weights and biases of convolutions and linear layers; scales and zero points are
    none. ``nonzero_params``: the same less the weights that are exactly 0 (quantized: that equal
    their zero point); every bias counts. ``macs``: multiply-accumulates.

    ``peak_activation_bytes``: the largest sum, over the operators, of the activations that are
    alive while it runs: its input, its output, and what a later operator still reads. ReLU, Clip
    and the subtraction of a mean overwrite their input; an element takes 4 bytes, quantized 1. A
    runtime without scratch buffers needs that much besides the weights.
    """

    params: int
    nonzero_params: int
    macs: int
    peak_activation_bytes: int


@dataclass(frozen=True)
class Weights:
    """The weights of one operator, of ``element_bytes`` each in the file, and its biases.

    ``nonzero``: those that are not exactly 0 (quantized: not their zero point). ``uses``: how often
    one image multiplies by each weight, zeros at the padded border included.
    """

    count: int
    nonzero: int
    biases: int
    element_bytes: int
    uses: int

    @property
    def macs(self) -> int:
        return self.count * self.uses

    @property
    def nonzero_macs(self) -> int:
        return self.nonzero * self.uses


def load_model(path: str | Path) -> ModelProto:
    """Raises ``InputError`` when the file is missing or no ONNX model."""
    try:
        model = onnx.load(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro' (or 'dvc pull')") from None
    except DecodeError:
        model = ModelProto()
    if not model.graph.node:
        raise InputError(f"{path} is no ONNX model; delete it and run 'dvc repro'")
    return model


def is_int8(model: ModelProto) -> bool:
    """Whether it is a QDQ file, of weights alone or of activations, too."""
    return any(node.op_type in QUANTIZERS for node in model.graph.node)


def cost_of(model: ModelProto) -> Cost:
    """Count for a batch of one image."""
    graph = inferred(model)
    weights = weights_by_output(graph).values()
    biases = sum(each.biases for each in weights)
    return Cost(
        params=sum(each.count for each in weights) + biases,
        nonzero_params=sum(each.nonzero for each in weights) + biases,
        macs=sum(each.macs for each in weights),
        peak_activation_bytes=peak_activation_bytes(graph),
    )


def inferred(model: ModelProto) -> GraphProto:
    """A copy of the graph in which every tensor has its type, and its shape for one image."""
    one_image = ModelProto()
    one_image.CopyFrom(model)
    for value in [*one_image.graph.input, *one_image.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del one_image.graph.value_info[:]
    return shape_inference.infer_shapes(one_image, strict_mode=True).graph


def activations(graph: GraphProto) -> list[ValueInfoProto]:
    return [*graph.input, *graph.value_info, *graph.output]


def shape_of(value: ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def weights_by_output(graph: GraphProto) -> dict[str, Weights]:
    """The weights of every operator that has some, by the name of the operator's output.

    ``graph``: with shapes for one image, see ``inferred``.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dequantized = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    shapes = {value.name: shape_of(value) for value in activations(graph)}
    found = {}
    for node in graph.node:
        if has_weight(node, constants, dequantized):
            values, zeros = weight_values(node, constants, dequantized)
            outputs = values.shape[output_axis(node)]
            found[node.output[0]] = Weights(
                count=values.size,
                nonzero=values.size - int(zeros.sum()),
                biases=outputs if has_bias(node) else 0,
                element_bytes=values.itemsize,
                # A convolution's output is (1, C, H, W): H x W uses; a linear layer's (1, C): one.
                uses=math.prod(shapes[node.output[0]]) // outputs,
            )
    return found


def has_weight(
    node: NodeProto, constants: dict[str, TensorProto], dequantized: dict[str, NodeProto]
) -> bool:
    """A constant one; of a matrix product, a matrix and no stack of them (that is a pooling)."""
    if node.op_type not in WEIGHTED:
        return False
    name = node.input[WEIGHTED[node.op_type][0]]
    if name in dequantized:
        name = dequantized[name].input[0]
    return name in constants and (node.op_type != "MatMul" or len(constants[name].dims) == 2)


def output_axis(node: NodeProto) -> int:
    """The axis of an operator's weight that counts its outputs."""
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    return 1 if node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed) else 0


def weight_values(
    node: NodeProto, constants: dict[str, TensorProto], dequantized: dict[str, NodeProto]
) -> tuple[np.ndarray, np.ndarray]:
    """An operator's weight as the file holds it, and where it is exactly 0 (bool, same shape)."""
    weight_index, zero_point_index, _ = WEIGHTED[node.op_type]
    weight, zero_point = node.input[weight_index], ""
    if zero_point_index:
        zero_point = node.input[zero_point_index]
    elif weight in dequantized:
        weight, _, zero_point = [*dequantized[weight].input, ""][:3]
    values = numpy_helper.to_array(constants[weight])
    if not zero_point:
        return values, values == 0
    zero_points = numpy_helper.to_array(constants[zero_point]).reshape(-1)  # one, or by channel
    shape = [1] * values.ndim
    shape[output_axis(node)] = -1
    return values, values == zero_points.reshape(shape)


def has_bias(node: NodeProto) -> bool:
    """As an input; what an Add brings to a matrix product is not counted."""
    index = WEIGHTED[node.op_type][2]
    return index is not None and len(node.input) > index and bool(node.input[index])


def peak_activation_bytes(graph: GraphProto) -> int:
    """See ``Cost``."""
    buffers = activation_buffers(graph)
    size = buffer_bytes(graph, buffers)
    nodes = [node for node in graph.node if node.output[0] in buffers]
    last_use = {buffers[value.name]: len(nodes) for value in graph.output}
    for index, node in reversed(list(enumerate(nodes))):
        for name in node.input:
            if name in buffers:
                last_use.setdefault(buffers[name], index)
    alive = {buffers[value.name] for value in graph.input}
    peak = 0
    for index, node in enumerate(nodes):
        alive |= {buffers[name] for name in node.output}
        peak = max(peak, sum(size[buffer] for buffer in alive))
        alive = {buffer for buffer in alive if last_use.get(buffer, index) > index}
    return peak


def activation_buffers(graph: GraphProto) -> dict[str, str]:
    """The buffer of every activation, named after the tensor it starts as."""
    readers = Counter(name for node in graph.node for name in node.input)
    buffers = {value.name: value.name for value in graph.input}
    for node in graph.node:
        read = [name for name in node.input if name in buffers]
        if not read:
            continue  # a weight or a bias is dequantized
        overwrites = node.op_type in FUSED and len(read) == 1 and readers[read[0]] == 1
        for name in node.output:
            buffers[name] = buffers[read[0]] if overwrites or node.op_type in VIEWS else name
    return buffers


def buffer_bytes(graph: GraphProto, buffers: dict[str, str]) -> dict[str, int]:
    """Bytes of each buffer; one that is quantized at some point is held quantized."""
    sizes: dict[str, int] = {}
    for value in activations(graph):
        if value.name in buffers:
            element = tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).itemsize
            size = math.prod(shape_of(value)) * element
            buffer = buffers[value.name]
            sizes[buffer] = min(size, sizes.get(buffer, size))
    return sizes


def image_shape(model: ModelProto, path: str | Path) -> tuple[int, int, int]:
    """Channels, height and width of the images that a network takes; ``path`` is for the error.

    Raises ``InputError`` when its first input is no batch of images of a fixed size.
    """
    shape = shape_of(model.graph.input[0]) if model.graph.input else ()
    if len(shape) != 4 or not all(shape[1:]):
        raise InputError(
            f"{path} takes inputs of shape {shape}; expected images of one size, (N, 3, H, W)"
        )
    _, channels, height, width = shape
    return channels, height, width


def read_metadata(model: ModelProto) -> dict[str, str]:
    """The file's metadata: class names, input description, provenance (each JSON)."""
    return {entry.key: entry.value for entry in model.metadata_props}


def strip(model: ModelProto) -> None:
    """Remove source lines, paths, inferred shapes and comments, in place: no runtime reads them.

    The model's own metadata stays, so that equal weights give equal bytes on every machine.
    """
    graph = model.graph
    del graph.value_info[:]
    model.ClearField("doc_string")
    model.producer_version = model.producer_version.split("+")[0]  # 2.14.1+cu130: the build
    for part in [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]:
        part.ClearField("doc_string")
        del part.metadata_props[:]

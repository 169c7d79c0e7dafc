"""Reads an ONNX file of this pipeline, FP32 or INT8 (QDQ), as a graph of layers.

Every function takes a node and returns what its output is: that of a new layer, or, for a node that
makes no layer, that of the layer which it reads.
"""

from pathlib import Path

import numpy as np
from onnx import NodeProto

from stages.common.inference.layer_graph.builder import GraphBuilder, Value, attributes_of
from stages.common.inference.layer_graph.graph import Graph, Quantization
from stages.common.inference.layer_graph.windows import NO_PADS, reached, windows
from stages.common.inference.onnx_graph import load_model

NO_BOUND = float(np.finfo(np.float32).max)  # a Clip from or to here has no such bound
RANK = 4  # of (N, C, H, W)


def read_graph(path: str | Path) -> Graph:
    """Raises ``UnsupportedNetwork``, naming the operator, for one that no layer stands for."""
    model = load_model(path)
    builder = GraphBuilder(model, path)
    for node in model.graph.node:
        if builder.constants.is_dequantized_by(node):
            continue
        if node.op_type not in READERS:
            raise builder.unsupported(node, f"this conversion knows {', '.join(READERS)}")
        builder.values[node.output[0]] = READERS[node.op_type](builder, node)
    return builder.graph()


# ------------------------------------------------------------------------ nodes that make a layer


def convolution(builder: GraphBuilder, node: NodeProto) -> Value:
    value = builder.feature_map(node)
    weight, quantization = weight_of(builder, node)
    channels, groups = builder.shape(value)[0], attributes_of(node).get("group", 1)
    count, window = windows_of(builder, node, value, kernel=weight.shape[2:])
    return builder.add(
        "depthwise" if groups == channels > 1 else "conv",
        (value,),
        (len(weight), *count),
        **window,
        weight=weight,
        weight_quantization=quantization,
        bias=bias_of(builder, node, value, quantization),
    )


def linear(builder: GraphBuilder, node: NodeProto) -> Value:
    value = builder.value(node)
    wanted = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
    found = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0} | attributes_of(node)
    builder.require(found == wanted, node, f"its attributes must be {wanted}")
    weight, quantization = weight_of(builder, node)
    return builder.add(
        "linear",
        (value,),
        (len(weight), 1, 1),
        flat=True,
        weight=weight,
        weight_quantization=quantization,
        bias=bias_of(builder, node, value, quantization),
    )


def max_pool(builder: GraphBuilder, node: NodeProto) -> Value:
    return pool(builder, node, "max_pool")


def average_pool(builder: GraphBuilder, node: NodeProto) -> Value:
    attributes = attributes_of(node)
    plain = not any(attributes.get("pads", NO_PADS)) and not attributes.get("ceil_mode", 0)
    builder.require(plain, node, "it must have no pads and ceil_mode 0")
    return pool(builder, node, "average_pool")


def pool(builder: GraphBuilder, node: NodeProto, kind: str) -> Value:
    """Its output has the quantization of its input."""
    value = builder.feature_map(node)
    kernel = attributes_of(node)["kernel_shape"]
    count, window = windows_of(builder, node, value, kernel)
    shape = (builder.shape(value)[0], *count)
    return builder.add(kind, (value,), shape, **window, output=builder.quantization(value))


def mean(builder: GraphBuilder, node: NodeProto) -> Value:
    value = builder.feature_map(node)
    if node.op_type == "ReduceMean":
        builder.require(axes_of(builder, node) == [2, 3], node, "it must be over H and W")
    flat = not attributes_of(node).get("keepdims", 1)
    return builder.add("mean", (value,), (builder.shape(value)[0], 1, 1), flat=flat)


def sum_of_two(builder: GraphBuilder, node: NodeProto) -> Value:
    one, other = (builder.feature_map(node, index) for index in (0, 1))
    equal = builder.shape(one) == builder.shape(other)
    builder.require(equal, node, "it must add two of the same shape")
    return builder.add("add", (one, other), builder.shape(one))


def product(builder: GraphBuilder, node: NodeProto) -> Value:
    factors = tuple(builder.feature_map(node, index) for index in (0, 1))
    small, large = sorted(builder.shape(factor) for factor in factors)
    fitting = small in (large, (large[0], 1, 1))
    builder.require(fitting, node, "it must multiply two of the same shape, or by (C, 1, 1)")
    return builder.add("multiply", factors, large)


def concatenation(builder: GraphBuilder, node: NodeProto) -> Value:
    parts = tuple(builder.feature_map(node, index) for index in range(len(node.input)))
    along_channels = attributes_of(node)["axis"] % RANK == 1
    builder.require(along_channels, node, "it must be along the channels")
    _, height, width = builder.shape(parts[0])
    channels = sum(builder.shape(part)[0] for part in parts)
    return builder.add("concatenate", parts, (channels, height, width))


def sigmoid(builder: GraphBuilder, node: NodeProto) -> Value:
    value = builder.value(node)
    return builder.add("sigmoid", (value,), builder.shape(value), flat=value.flat)


def hard_swish(builder: GraphBuilder, node: NodeProto) -> Value:
    value = builder.value(node)
    return builder.add("hard_swish", (value,), builder.shape(value), flat=value.flat)


# ---------------------------------------------------------------------- nodes that make no layer


def same(builder: GraphBuilder, node: NodeProto) -> Value:
    return builder.value(node)


def quantize(builder: GraphBuilder, node: NodeProto) -> Value:
    return builder.quantize(node, builder.value(node))


def relu(builder: GraphBuilder, node: NodeProto) -> Value:
    return builder.fuse(node, builder.value(node), "relu")


def clip(builder: GraphBuilder, node: NodeProto) -> Value:
    found = [builder.constants.find(name) for name in [*node.input[1:], "", ""][:2]]
    low, high = (
        default if bound is None else float(bound)
        for bound, default in zip(found, (-NO_BOUND, NO_BOUND), strict=True)
    )
    known = low == 0 and (high == 6 or high >= NO_BOUND)
    builder.require(known, node, "it must be from 0 to 6, or from 0 on")
    return builder.fuse(node, builder.value(node), "relu6" if high == 6 else "relu")


def subtract(builder: GraphBuilder, node: NodeProto) -> Value:
    number = builder.constants.find(node.input[1])
    if number is None or number.size != 1:
        raise builder.unsupported(node, "it must subtract one number from the pixels")
    return builder.subtract(node, builder.value(node), float(number.reshape(())))


def flatten(builder: GraphBuilder, node: NodeProto) -> Value:
    """Also Reshape and Squeeze."""
    value = builder.value(node)
    channels, height, width = builder.shape(value)
    if node.op_type == "Flatten":
        right = attributes_of(node).get("axis", 1) == 1
    elif node.op_type == "Reshape":
        size = channels * height * width
        wanted = builder.constants.find(node.input[1])
        flat = [[batch, rest] for batch in (-1, 0, 1) for rest in (-1, size)]
        right = wanted is not None and wanted.tolist() in flat
    else:
        right = (height, width) == (1, 1) and axes_of(builder, node) == [2, 3]
    builder.require(right, node, "it must make (N, C * H * W)")
    return Value(value.source, value.quantized, flat=True)


# ------------------------------------------------------------------------------ parts of a node


def windows_of(
    builder: GraphBuilder, node: NodeProto, value: Value, kernel: tuple[int, ...]
) -> tuple[tuple[int, int], dict]:
    """The output's size (H, W), and the layer's fields."""
    attributes = attributes_of(node)
    plain = set(attributes.get("dilations", [1])) == {1}
    plain = plain and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    builder.require(plain and len(kernel) == 2, node, "it must have two dimensions, no dilation")
    size = builder.shape(value)[1:]
    kernel = kernel[0], kernel[1]
    down, right = attributes.get("strides", [1, 1])
    top, left, bottom, end = attributes.get("pads", NO_PADS)
    pads, stride = (top, left, bottom, end), (down, right)
    count = windows(size, kernel, stride, pads, bool(attributes.get("ceil_mode", 0)))
    used = reached(size, kernel, stride, pads, count)
    return count, {"kernel": kernel, "stride": stride, "pads": used}


def weight_of(builder: GraphBuilder, node: NodeProto) -> tuple[np.ndarray, Quantization | None]:
    name = node.input[1]
    builder.require(builder.constants.known(name), node, "its weight must be a constant")
    weight, found = builder.constants.with_quantization(name)
    if found is not None:
        symmetric = weight.dtype == np.int8 and not found.zero_point.any()
        builder.require(symmetric, node, "its weight must be int8 with zero point 0")
        each = found.scale.size == len(weight)
        builder.require(each, node, "it must have one scale a channel")
    return weight, found


def bias_of(
    builder: GraphBuilder, node: NodeProto, value: Value, weight: Quantization | None
) -> np.ndarray | None:
    """``weight``: the quantization of the node's weight, ``value``: what the node reads."""
    if len(node.input) < 3:
        return None
    builder.require(builder.constants.known(node.input[2]), node, "its bias must be a constant")
    bias, found = builder.constants.with_quantization(node.input[2])
    if found is not None:
        source = builder.quantization(value)
        assert weight is not None
        assert source is not None
        right = bias.dtype == np.int32 and not found.zero_point.any()
        right = right and np.allclose(found.scale, source.scale * weight.scale)
        builder.require(right, node, "its bias must be int32 with scale input scale * weight scale")
    return bias


def axes_of(builder: GraphBuilder, node: NodeProto) -> list[int]:
    """Counted from 0 and sorted; none where the file does not hold them."""
    found = builder.constants.find(node.input[1]) if len(node.input) > 1 else None
    axes = attributes_of(node).get("axes", []) if found is None else found.tolist()
    return sorted(axis % RANK for axis in axes)


READERS = {
    "Conv": convolution,
    "Relu": relu,
    "Clip": clip,
    "Add": sum_of_two,
    "Mul": product,
    "Concat": concatenation,
    "Sigmoid": sigmoid,
    "HardSwish": hard_swish,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": mean,
    "ReduceMean": mean,
    "Flatten": flatten,
    "Reshape": flatten,
    "Squeeze": flatten,
    "Gemm": linear,
    "Identity": same,
    "Dropout": same,
    "Sub": subtract,
    "QuantizeLinear": quantize,
    "DequantizeLinear": quantize,
}

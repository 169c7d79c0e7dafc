"""A network as a chain of layers, read from an ONNX file of this pipeline, FP32 or INT8 (QDQ).

In a QDQ graph every operator stands between DequantizeLinear and QuantizeLinear. Here the three
are one layer with integer weights and the quantization of its output, as in integer-only formats.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import load_model, read_metadata

OPERATORS = ("Conv", "Relu", "MaxPool", "Flatten", "Gemm", "QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero_point), with int8 integers.

    ``scale`` (n,) float32 and ``zero_point`` (n,) int64, where n is 1 or the output channels.
    """

    scale: np.ndarray
    zero_point: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Quantization)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


@dataclass(frozen=True)
class Layer:
    """One operator, with the shape (C, H, W) and the quantization of its output.

    ``kind``: "conv" (weight (O, I, kH, kW)), "linear" (weight (O, I)) or "max_pool" (no weight).
    Weights are float32, or int8 with ``weight_quantization`` by output channel; biases are float32,
    or int32 with the scale input scale * weight scale. ``same`` pads by (kernel - 1) / 2.
    """

    kind: str
    shape: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    same: bool = False
    relu: bool = False
    weight: np.ndarray | None = None
    weight_quantization: Quantization | None = None
    bias: np.ndarray | None = None
    output: Quantization | None = None


@dataclass(frozen=True)
class Chain:
    """``shape`` (C, H, W) and quantization of the input; the layers; the file's own metadata."""

    shape: tuple[int, int, int]
    input: Quantization | None
    layers: tuple[Layer, ...]
    metadata: dict[str, str]


def read_chain(path: str | Path) -> Chain:
    """Raises ``InputError``, naming the operator, for a graph that is no such chain."""
    model = load_model(path)
    reader = ChainReader(model, path)
    for node in operators_in_order(model, path):
        reader.read(node)
    return Chain(reader.input_shape, reader.input, tuple(reader.layers), read_metadata(model))


def require_int8(chain: Chain, path: str | Path) -> None:
    """Raise ``InputError`` when a layer's weights are FP32."""
    weighted = [layer for layer in chain.layers if layer.weight is not None]
    fp32 = [layer for layer in weighted if layer.weight_quantization is None]
    if fp32:
        raise InputError(
            f"{path}: {len(fp32)} of {len(weighted)} layers are FP32; a device for integers takes "
            "none (quantize.exclude: [] and quantize.repair: none leave none)"
        )


def with_output(chain: Chain, output: Quantization) -> Chain:
    """The chain with its last layer's output quantized: ONNX leaves the logits FP32."""
    return replace(chain, layers=(*chain.layers[:-1], replace(chain.layers[-1], output=output)))


def quantization_between(low: float, high: float) -> Quantization:
    """int8, asymmetric, of the reals from ``low`` to ``high``, and of 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    assert low < high, "a range of zero width has no scale"
    scale = np.float32((high - low) / 255)
    return Quantization(np.array([scale]), np.array([round(-128 - low / float(scale))]))


def operators_in_order(model: ModelProto, path: str | Path) -> list[NodeProto]:
    """The operators from input to output; each must be the only reader of the one before it."""
    graph, found = model.graph, []
    name = graph.input[0].name
    while name != graph.output[0].name:
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1:
            raise InputError(
                f"{path}: {len(readers)} operators read '{name}'; expected a chain, where one does"
            )
        found += readers
        name = readers[0].output[0]
    return found


class ChainReader:
    """Takes the operators of a chain one by one."""

    def __init__(self, model: ModelProto, path: str | Path):
        self.path = path
        self.layers: list[Layer] = []
        self.input: Quantization | None = None
        dims = model.graph.input[0].type.tensor_type.shape.dim
        self.input_shape = tuple(dim.dim_value for dim in dims[1:])
        self._constants = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self._dequantized = {
            node.output[0]: node
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants
        }

    def read(self, node: NodeProto) -> None:
        self._require(
            node.op_type in OPERATORS, node, f"this conversion knows {', '.join(OPERATORS)}"
        )
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            self._quantize(node)
        elif node.op_type == "Relu":
            self._require(self._last_has_weights(), node, "it must follow Conv or Gemm")
            self.layers[-1] = replace(self.layers[-1], relu=True)
        elif node.op_type == "Flatten":
            self._require(
                self.shape[1:] == (1, 1), node, f"it must get (C, 1, 1), not {self.shape}"
            )
        else:
            make = {"Conv": self._convolution, "MaxPool": self._max_pool, "Gemm": self._linear}
            self.layers.append(make[node.op_type](node, attributes_of(node)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the activation that the next operator gets."""
        return self.layers[-1].shape if self.layers else self.input_shape

    @property
    def quantization(self) -> Quantization | None:
        return self.layers[-1].output if self.layers else self.input

    def _last_has_weights(self) -> bool:
        return bool(self.layers) and self.layers[-1].weight is not None

    def _quantize(self, node: NodeProto) -> None:
        """The first one sets the quantization of a layer's output; any others must equal it."""
        found = self._activation_quantization(node)
        if self.quantization is not None:
            self._require(self.quantization == found, node, "it must keep scale and zero point")
        elif self.layers:
            self.layers[-1] = replace(self.layers[-1], output=found)
        else:
            self.input = found

    def _activation_quantization(self, node: NodeProto) -> Quantization:
        scale, zero_point = (self._constants[name] for name in node.input[1:3])
        shift = 128 if zero_point.dtype == np.uint8 else 0  # uint8 q is int8 q - 128
        self._require(scale.size == 1, node, "an activation must have one scale")
        return Quantization(scale.reshape(1), zero_point.reshape(1).astype(np.int64) - shift)

    def _convolution(self, node: NodeProto, attributes: dict) -> Layer:
        weight, quantization = self._weight(node)
        plain = attributes.get("group", 1) == 1 and set(attributes.get("dilations", [1])) == {1}
        self._require(plain, node, "it must have one group and no dilation")
        kernel, stride = weight.shape[2:], tuple(attributes.get("strides", [1, 1]))
        pads = attributes.get("pads", [0, 0, 0, 0])
        half = [(size - 1) // 2 for size in kernel]
        odd = all(size % 2 for size in kernel)
        same = any(pads) and stride == (1, 1) and odd and list(pads) == half + half
        self._require(same or not any(pads), node, "its pads must be 0 or (kernel - 1) / 2")
        height_width = self.shape[1:] if same else windows(self.shape[1:], kernel, stride)
        return Layer(
            kind="conv",
            shape=(len(weight), *height_width),
            kernel=kernel,
            stride=stride,
            same=same,
            weight=weight,
            weight_quantization=quantization,
            bias=self._bias(node, quantization),
        )

    def _max_pool(self, node: NodeProto, attributes: dict) -> Layer:
        plain = not any(attributes.get("pads", [])) and not attributes.get("ceil_mode", 0)
        plain = plain and set(attributes.get("dilations", [1])) == {1}
        self._require(plain, node, "it must have no pads, no dilation and ceil_mode 0")
        kernel = tuple(attributes["kernel_shape"])
        stride = tuple(attributes.get("strides", [1, 1]))
        shape = (self.shape[0], *windows(self.shape[1:], kernel, stride))
        return Layer("max_pool", shape, kernel, stride, output=self.quantization)

    def _linear(self, node: NodeProto, attributes: dict) -> Layer:
        wanted = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
        found = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0} | attributes
        self._require(found == wanted, node, f"its attributes must be {wanted}")
        weight, quantization = self._weight(node)
        return Layer(
            kind="linear",
            shape=(len(weight), 1, 1),
            weight=weight,
            weight_quantization=quantization,
            bias=self._bias(node, quantization),
        )

    def _weight(self, node: NodeProto) -> tuple[np.ndarray, Quantization | None]:
        name = node.input[1]
        if name in self._constants:
            return self._constants[name], None
        self._require(name in self._dequantized, node, "its weight must be a constant")
        weight, scale, zero_point = (self._constants[key] for key in self._dequantized[name].input)
        symmetric = weight.dtype == np.int8 and not zero_point.any()
        self._require(symmetric, node, "its weight must be int8 with zero point 0")
        self._require(scale.size == len(weight), node, "it must have one scale a channel")
        return weight, Quantization(scale, zero_point.astype(np.int64))

    def _bias(self, node: NodeProto, weight: Quantization | None) -> np.ndarray | None:
        if len(node.input) < 3:
            return None
        name = node.input[2]
        if name in self._constants:
            return self._constants[name]
        bias, scale, zero_point = (self._constants[key] for key in self._dequantized[name].input)
        assert weight is not None
        assert self.quantization is not None
        expected = self.quantization.scale * weight.scale
        right = bias.dtype == np.int32 and not zero_point.any() and np.allclose(scale, expected)
        self._require(right, node, "its bias must be int32 with scale input scale * weight scale")
        return bias

    def _require(self, holds: bool, node: NodeProto, rule: str) -> None:
        if not holds:
            raise InputError(
                f"{self.path}: {node.op_type} (it makes '{node.output[0]}') cannot be converted: "
                f"{rule}; change the network in stages/export.py"
            )


def attributes_of(node: NodeProto) -> dict:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def windows(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]
) -> tuple[int, int]:
    """The number of windows that fit, without padding, in each direction."""
    rows, columns = (
        (whole - part) // step + 1 for whole, part, step in zip(size, kernel, stride, strict=True)
    )
    return rows, columns

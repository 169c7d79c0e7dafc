"""A graph of layers while the nodes of an ONNX graph are read, one by one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from stages.common.inference.layer_graph.constants import Constants
from stages.common.inference.layer_graph.graph import (
    PIXELS,
    Graph,
    Layer,
    Quantization,
    UnsupportedNetwork,
    quantization_between,
)
from stages.common.inference.onnx_graph import read_metadata

INT8_MAX = 127
HARD_SWISH_BEND = 3.0
TAKING_ACTIVATIONS = (
    "conv",
    "depthwise",
    "linear",
    "add",
    "multiply",
)  # the kinds that one is fused into


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph: what a layer, or the input, puts out.

    ``quantized``: it comes from a DequantizeLinear. ``flat``: (N, C * H * W), not (N, C, H, W).
    """

    source: str
    quantized: bool = False
    flat: bool = False


class GraphBuilder:
    """The layers so far, and which of them makes which tensor."""

    def __init__(self, model: ModelProto, path: str | Path):
        self._model, self._path = model, path
        self.constants = Constants(model.graph)
        self.values = {model.graph.input[0].name: Value(PIXELS)}
        self._layers: dict[str, Layer] = {}
        self._mean = 0.0
        self._input: Quantization | None = None
        dims = model.graph.input[0].type.tensor_type.shape.dim
        channels, height, width = (dim.dim_value for dim in dims[1:])
        self._input_shape = channels, height, width

    def graph(self) -> Graph:
        """Raises ``UnsupportedNetwork`` where the last layer does not make the output."""
        name = self._model.graph.output[0].name
        last = self.values.get(name)
        if last is None or not self._layers or last.source != next(reversed(self._layers)):
            raise UnsupportedNetwork(self._path, f"its last layer does not make '{name}'")
        return Graph(
            shape=self._input_shape,
            input=self._input,
            layers=tuple(self._layers.values()),
            metadata=read_metadata(self._model),
            mean=self._mean,
        )

    def value(self, node: NodeProto, index: int = 0) -> Value:
        """An input of the node, which must be an activation."""
        name = node.input[index]
        self.require(name in self.values, node, f"'{name}', which it reads, is no activation")
        return self.values[name]

    def feature_map(self, node: NodeProto, index: int = 0) -> Value:
        value = self.value(node, index)
        self.require(not value.flat, node, "it must read (N, C, H, W)")
        return value

    def shape(self, value: Value) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self._input_shape if value.source == PIXELS else self._layers[value.source].shape

    def quantization(self, value: Value) -> Quantization | None:
        """None where the value is read as FP32."""
        return self._known(value) if value.quantized else None

    def _known(self, value: Value) -> Quantization | None:
        return self._input if value.source == PIXELS else self._layers[value.source].output

    def add(
        self,
        kind: str,
        inputs: tuple[Value, ...],
        shape: tuple[int, int, int],
        flat: bool = False,
        **fields: Any,
    ) -> Value:
        """Append a layer, with other fields of ``Layer``."""
        name = f"{kind}_{len(self._layers) + 1}"
        weighted_fp32 = "weight" in fields and fields["weight_quantization"] is None
        self._layers[name] = Layer(
            name,
            kind,
            inputs=tuple(value.source for value in inputs),
            shape=shape,
            fp32=weighted_fp32 or not all(value.quantized for value in inputs),
            **fields,
        )
        return Value(name, flat=flat)

    def quantize(self, node: NodeProto, value: Value) -> Value:
        """The first node sets the quantization of a layer's output; any others must equal it."""
        found = self.constants.of_activation(node)
        if found is None or found.scale.size != 1:
            raise self.unsupported(node, "it must have one constant scale and one zero point")
        self.require(self._known(value) in (None, found), node, "it must keep scale and zero point")
        if value.source == PIXELS:
            self._input = found
        else:
            self._layers[value.source] = replace(self._layers[value.source], output=found)
            self._quantize_before(self._layers[value.source], found)
        return replace(value, quantized=True)

    def _quantize_before(self, layer: Layer, output: Quantization) -> None:
        """Give an INT8 layer that ONNX leaves FP32, a Gemm, the range of the hard-swish after it.

        A hard-swish is 0 up to -3 and its input from 3 on: it loses nothing by an input between -3
        and the end of its output, or 3.
        """
        before = self._layers.get(layer.inputs[0])
        if layer.kind != "hard_swish" or before is None or before.fp32 or before.output is not None:
            return
        end = float(output.scale[0]) * (INT8_MAX - int(output.zero_point[0]))
        found = quantization_between(-HARD_SWISH_BEND, max(HARD_SWISH_BEND, end))
        self._layers[before.name] = replace(before, output=found)
        self._layers[layer.name] = replace(layer, fp32=False)

    def fuse(self, node: NodeProto, value: Value, activation: str) -> Value:
        """Put an activation into the layer, which nothing else may read without it."""
        read = {name for layer in self._layers.values() for name in layer.inputs}
        layer = self._layers.get(value.source)
        rule = "it must follow Conv, Gemm, Add or Mul, whose output nothing else reads"
        if layer is None or layer.kind not in TAKING_ACTIVATIONS or layer.activation:
            raise self.unsupported(node, rule)
        self.require(layer.name not in read, node, rule)
        self._layers[layer.name] = replace(layer, activation=activation)
        self._forget(layer.name)
        return value

    def subtract(self, node: NodeProto, value: Value, mean: float) -> Value:
        """Make the input pixels - mean."""
        first = value == Value(PIXELS) and not self._layers and self._mean == 0
        self.require(first, node, "it must subtract one number from the pixels, before all else")
        self._mean = mean
        self._forget(PIXELS)
        return value

    def _forget(self, source: str) -> None:
        """No node may read the tensors that came from there until now."""
        self.values = {name: each for name, each in self.values.items() if each.source != source}

    def require(self, holds: bool, node: NodeProto, rule: str) -> None:
        if not holds:
            raise self.unsupported(node, rule)

    def unsupported(self, node: NodeProto, rule: str) -> UnsupportedNetwork:
        return UnsupportedNetwork(
            self._path,
            f"{node.op_type} (it makes '{node.output[0]}') cannot be converted: {rule}",
        )


def attributes_of(node: NodeProto) -> dict:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}

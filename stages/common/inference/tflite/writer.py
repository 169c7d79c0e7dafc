"""A graph of layers as a TFLite file: INT8 from input to output, or FP32.

Written through the flatbuffer schema that LiteRT ships; the format is described in
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
and the integers in https://ai.google.dev/edge/litert/models/quantization_spec.
TFLite's layout is NHWC; its filters are (O, kH, kW, I), and (1, kH, kW, O) where depthwise.
"""

import json

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from stages.common.inference.layer_graph.graph import PIXELS, Graph, Layer, Quantization
from stages.common.inference.layer_graph.windows import NO_PADS
from stages.common.inference.runtimes.expected import EXPECTED
from stages.common.inference.tflite.file import METADATA, AlignedBuffer, packed
from stages.common.inference.tflite.operators import (
    OPERATORS,
    is_same,
    operator_code,
    options_of,
)

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
}
ABSENT = -1  # the tensor index of an input that is left out
# What TFLite's int8 LOGISTIC puts out (quantization_spec).
SIGMOID_OUTPUT = Quantization(np.array([1 / 256], np.float32), np.array([-128]))
HEIGHT_WIDTH = np.array([1, 2], np.int32)  # the axes of NHWC


def tflite_bytes(graph: Graph) -> bytes:
    """The file, for batches of one; equal graphs give equal bytes.

    The last layer of an INT8 graph must have its output's quantization.
    """
    assert all((layer.output is None) == (graph.input is None) for layer in graph.layers)
    return packed(ModelWriter(graph).model())


class ModelWriter:
    """Builds the tables of a TFLite model."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._type = np.dtype(np.float32 if graph.input is None else np.int8)
        self._shapes = {PIXELS: graph.shape, **{each.name: each.shape for each in graph.layers}}
        self._buffers = [AlignedBuffer(b"")]  # number 0 stands for 'no data'
        self._tensors: list[schema.TensorT] = []
        self._operators: list[tuple[str, schema.OperatorT]] = []
        self._outputs: dict[str, int] = {}  # the tensor of each layer's output

    def model(self) -> schema.ModelT:
        self._outputs[PIXELS] = self._activation(PIXELS, self._graph.shape, self._graph.input)
        for layer in self._graph.layers:
            self._outputs[layer.name] = self._add(layer)
        model = schema.ModelT()
        model.version = 3
        model.description = "Written from ONNX; see the metadata"
        model.metadata = [self._metadata()]
        kinds = self._used_kinds()
        model.operatorCodes = [operator_code(kind) for kind in kinds]
        model.subgraphs = [self._subgraph(kinds)]
        model.buffers = self._buffers
        return model

    def _add(self, layer: Layer) -> int:
        """Append a layer's operators and tensors; returns its output's tensor."""
        final = layer is self._graph.layers[-1]
        name = "logits" if final else layer.name
        channels, *size = self._shapes[layer.inputs[0]]
        same = is_same(layer, (size[0], size[1]))
        sources = self._sources(layer, same, name)
        inputs = [*sources, *self._constant_inputs(layer, sources[0], name)]
        flat = self._is_flat(layer, final)
        found, shape = layer.output, layer.shape[:1] if flat else layer.shape
        if layer.kind == "sigmoid" and layer.output is not None:
            found = SIGMOID_OUTPUT
        output = self._activation(name, shape, found)
        options = options_of(layer, layer.shape[0] // channels, same, keep_dims=not flat)
        self._operator(layer.kind, inputs, output, options)
        return output if found == layer.output else self._converted(output, shape, layer.output)

    def _sources(self, layer: Layer, same: bool, name: str) -> list[int]:
        """The tensors that the operator reads, padded and rescaled where it cannot do that."""
        sources = [self._outputs[each] for each in layer.inputs]
        if layer.kind == "concatenate" and layer.output is not None:  # int8 has one scale for all
            return [self._requantized(each, layer.output) for each in layer.inputs]
        if layer.pads != NO_PADS and not same:
            return [self._padded(layer, sources[0], name)]
        return sources

    def _is_flat(self, layer: Layer, final: bool) -> bool:
        """Its output is (1, C), not (1, H, W, C)."""
        if layer.kind in ("sigmoid", "hard_swish"):
            return len(self._tensors[self._outputs[layer.inputs[0]]].shape) == 2
        return layer.kind == "linear" or (layer.kind == "mean" and final)

    def _constant_inputs(self, layer: Layer, source: int, name: str) -> list[int]:
        if layer.kind == "mean":
            return [self._constant(f"{name}/axes", HEIGHT_WIDTH, None)]
        if layer.weight is None:
            return []
        return [self._weight(layer, layer.weight, name), self._bias(layer, source, name)]

    def _padded(self, layer: Layer, source: int, name: str) -> int:
        """The source with the layer's pads around it, of what changes nothing there: the real 0, or
        for a maximum the lowest value.
        """
        top, left, bottom, right = layer.pads
        channels, height, width = self._shapes[layer.inputs[0]]
        around = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [source, self._constant(f"{name}/pads", around, None)]
        found = self._quantization(layer.inputs[0])
        kind, number, options = "pad", schema.BuiltinOptions.PadOptions, schema.PadOptionsT()
        if layer.kind == "max_pool" and (found is None or found.zero_point[0] != -128):
            kind, number, options = (
                "pad_lowest", schema.BuiltinOptions.PadV2Options, schema.PadV2OptionsT(),
            )  # fmt: skip
            limits = np.finfo(np.float32) if found is None else np.iinfo(np.int8)
            inputs.append(self._constant(f"{name}/lowest", np.array(limits.min, self._type), found))
        shape = (channels, height + top + bottom, width + left + right)
        output = self._activation(f"{name}/padded", shape, found)
        self._operator(kind, inputs, output, (number, options))
        return output

    def _requantized(self, name: str, wanted: Quantization) -> int:
        """The tensor of a layer's output, with another scale if need be."""
        if self._quantization(name) == wanted:
            return self._outputs[name]
        return self._converted(self._outputs[name], self._shapes[name], wanted)

    def _converted(self, source: int, shape: tuple[int, ...], wanted: Quantization | None) -> int:
        name = f"{self._tensors[source].name}/requantized_{len(self._tensors)}"
        output = self._activation(name, shape, wanted)
        options = schema.BuiltinOptions.QuantizeOptions, schema.QuantizeOptionsT()
        self._operator("requantize", [source], output, options)
        return output

    def _quantization(self, name: str) -> Quantization | None:
        if name == PIXELS:
            return self._graph.input
        return next(layer.output for layer in self._graph.layers if layer.name == name)

    def _operator(
        self, kind: str, inputs: list[int], output: int, options: tuple[int, object]
    ) -> None:
        operator = schema.OperatorT()
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options
        self._operators.append((kind, operator))

    def _used_kinds(self) -> list[str]:
        used = {kind for kind, _ in self._operators}
        return [kind for kind in OPERATORS if kind in used]

    def _activation(self, name: str, shape: tuple[int, ...], found: Quantization | None) -> int:
        """``shape`` is (C, H, W) or (C,)."""
        tensor = tensor_of(name, (1, *shape[1:], shape[0]), TYPES[self._type], found)
        return self._tensor(tensor)

    def _weight(self, layer: Layer, weight: np.ndarray, name: str) -> int:
        if layer.kind == "conv":
            weight = weight.transpose(0, 2, 3, 1)
        elif layer.kind == "depthwise":
            weight = weight.transpose(1, 2, 3, 0)
        else:
            shape = self._shapes[layer.inputs[0]]
            weight = weight.reshape(-1, *shape).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        axis = weight.ndim - 1 if layer.kind == "depthwise" else 0
        return self._constant(f"{name}/weight", weight, layer.weight_quantization, axis)

    def _bias(self, layer: Layer, source: int, name: str) -> int:
        """Only a linear layer may be without."""
        bias, found = layer.bias, None
        if bias is None and layer.kind == "linear":
            return ABSENT
        if bias is None:
            bias = np.zeros(layer.shape[0], np.int32 if layer.weight_quantization else np.float32)
        if layer.weight_quantization is not None:
            scale = self._tensors[source].quantization.scale * layer.weight_quantization.scale
            found = Quantization(scale, np.zeros(len(scale), np.int64))
        return self._constant(f"{name}/bias", bias, found)

    def _constant(
        self, name: str, values: np.ndarray, found: Quantization | None, axis: int = 0
    ) -> int:
        """``axis``: of the channels, where there is a scale for each."""
        tensor = tensor_of(name, values.shape, TYPES[values.dtype], found, axis)
        tensor.buffer = len(self._buffers)
        self._buffers.append(AlignedBuffer(little_endian(values)))
        return self._tensor(tensor)

    def _tensor(self, tensor: schema.TensorT) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _metadata(self) -> schema.MetadataT:
        metadata = schema.MetadataT()
        metadata.name, metadata.buffer = METADATA, len(self._buffers)
        self._buffers.append(AlignedBuffer(json.dumps(described(self._graph)).encode()))
        return metadata

    def _subgraph(self, kinds: list[str]) -> schema.SubGraphT:
        for kind, operator in self._operators:
            operator.opcodeIndex = kinds.index(kind)
        subgraph = schema.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors = self._tensors
        subgraph.operators = [operator for _, operator in self._operators]
        subgraph.inputs = [self._outputs[PIXELS]]
        subgraph.outputs = [self._outputs[self._graph.layers[-1].name]]
        return subgraph


def little_endian(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def tensor_of(
    name: str, shape: tuple[int, ...], kind: int, found: Quantization | None, axis: int = 0
) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.hasRank = name, kind, True
    tensor.shape = list(shape)
    if found is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = found.scale.astype(np.float32)
        tensor.quantization.zeroPoint = found.zero_point.astype(np.int64)
        tensor.quantization.quantizedDimension = axis
    return tensor


def shifted(description: dict, mean: float) -> dict:
    """The input's description where the input is pixels - mean."""
    bounds = [bound - mean for bound in description.get("range", [])]
    return description | {"subtract": mean} | ({"range": bounds} if bounds else {})


def described(graph: Graph) -> dict:
    """The ONNX file's metadata, with this file's input layout and type, without its answers.

    ``subtract``: the file's input is pixels - subtract; not there where it is the pixels.
    """
    content = {key: json.loads(value) for key, value in graph.metadata.items()}
    content.pop(EXPECTED, None)
    if graph.mean:
        content["input"] = shifted(content.get("input", {}), graph.mean)
    if "input" in content:
        content["input"] |= {"layout": "NHWC"}
        if graph.input is not None:
            content["input"] |= {
                "type": "int8",
                "scale": float(graph.input.scale[0]),
                "zero_point": int(graph.input.zero_point[0]),
            }
    return content

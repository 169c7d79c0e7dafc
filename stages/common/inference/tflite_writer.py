"""A chain of layers as a TFLite file: INT8 from input to output, or FP32.

Written through the flatbuffer schema that LiteRT ships; the format is described in
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
and the integers in https://ai.google.dev/edge/litert/models/quantization_spec.
TFLite's layout is NHWC, and its filters are (O, kH, kW, I).
"""

import json

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from stages.common.inference.layer_chain import Chain, Layer, Quantization
from stages.common.inference.tflite_file import AlignedBuffer, packed

METADATA = "edge_model"  # the name of the metadata buffer: JSON
# The operator, and the version of it that first took int8 with a scale for each channel
# (tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc).
OPERATORS = {
    "conv": (schema.BuiltinOperator.CONV_2D, 3),
    "max_pool": (schema.BuiltinOperator.MAX_POOL_2D, 2),
    "linear": (schema.BuiltinOperator.FULLY_CONNECTED, 12),
}
TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
}
ABSENT = -1  # the tensor index of an input that is left out


def tflite_bytes(chain: Chain) -> bytes:
    """The file, for batches of one; equal chains give equal bytes.

    The last layer of an INT8 chain must have its output's quantization.
    """
    assert all((layer.output is None) == (chain.input is None) for layer in chain.layers)
    return packed(ModelWriter(chain).model())


class ModelWriter:
    """Builds the tables of a TFLite model."""

    def __init__(self, chain: Chain):
        self._chain = chain
        self._type = np.dtype(np.float32 if chain.input is None else np.int8)
        self._buffers = [AlignedBuffer(b"")]  # number 0 stands for 'no data'
        self._tensors: list[schema.TensorT] = []
        self._operators: list[schema.OperatorT] = []

    def model(self) -> schema.ModelT:
        first = last = self._activation("pixels", self._chain.shape, self._chain.input)
        for number, layer in enumerate(self._chain.layers, start=1):
            final = number == len(self._chain.layers)
            last = self._add(layer, last, "logits" if final else f"{layer.kind}_{number}", final)
        model = schema.ModelT()
        model.version = 3
        model.description = "Written from ONNX; see the metadata"
        model.metadata = [self._metadata()]
        model.operatorCodes = [operator_code(*OPERATORS[kind]) for kind in OPERATORS]
        model.subgraphs = [self._subgraph(first, last)]
        model.buffers = self._buffers
        return model

    def _add(self, layer: Layer, source: int, name: str, final: bool) -> int:
        """Append a layer's operator and tensors; returns its output's tensor."""
        inputs = [source]
        if layer.weight is not None:
            inputs += [self._weight(layer, layer.weight, name), self._bias(layer, source, name)]
        flat = layer.kind == "linear"
        output = self._activation(name, layer.shape[:1] if flat else layer.shape, layer.output)
        operator = schema.OperatorT()
        operator.opcodeIndex = list(OPERATORS).index(layer.kind)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options_of(layer)
        self._operators.append(operator)
        return output

    def _activation(self, name: str, shape: tuple[int, ...], found: Quantization | None) -> int:
        """``shape`` is (C, H, W) or (C,)."""
        tensor = tensor_of(name, (1, *shape[1:], shape[0]), TYPES[self._type], found)
        return self._tensor(tensor)

    def _weight(self, layer: Layer, weight: np.ndarray, name: str) -> int:
        if layer.kind == "conv":
            weight = weight.transpose(0, 2, 3, 1)
        return self._constant(f"{name}/weight", weight, layer.weight_quantization)

    def _bias(self, layer: Layer, source: int, name: str) -> int:
        if layer.bias is None:
            return ABSENT
        found = None
        if layer.weight_quantization is not None:
            scale = self._tensors[source].quantization.scale * layer.weight_quantization.scale
            found = Quantization(scale, np.zeros(len(scale), np.int64))
        return self._constant(f"{name}/bias", layer.bias, found)

    def _constant(self, name: str, values: np.ndarray, found: Quantization | None) -> int:
        tensor = tensor_of(name, values.shape, TYPES[values.dtype], found)
        tensor.buffer = len(self._buffers)
        self._buffers.append(AlignedBuffer(little_endian(values)))
        return self._tensor(tensor)

    def _tensor(self, tensor: schema.TensorT) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _metadata(self) -> schema.MetadataT:
        metadata = schema.MetadataT()
        metadata.name, metadata.buffer = METADATA, len(self._buffers)
        self._buffers.append(AlignedBuffer(json.dumps(described(self._chain)).encode()))
        return metadata

    def _subgraph(self, first: int, last: int) -> schema.SubGraphT:
        subgraph = schema.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = [first], [last]
        return subgraph


def little_endian(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def tensor_of(
    name: str, shape: tuple[int, ...], kind: int, found: Quantization | None
) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.hasRank = name, kind, True
    tensor.shape = list(shape)
    if found is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = found.scale.astype(np.float32)
        tensor.quantization.zeroPoint = found.zero_point.astype(np.int64)
        tensor.quantization.quantizedDimension = 0  # output channels, where there is more than one
    return tensor


def operator_code(builtin: int, version: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin  # the same below 127
    code.version = version
    return code


def options_of(layer: Layer) -> tuple[int, object]:
    """The operator's own table, and the number of its type."""
    activation = schema.ActivationFunctionType
    relu = activation.RELU if layer.relu else activation.NONE
    if layer.kind == "linear":
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = relu
        return schema.BuiltinOptions.FullyConnectedOptions, options
    pool = layer.kind == "max_pool"
    options = schema.Pool2DOptionsT() if pool else schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME if layer.same else schema.Padding.VALID
    options.strideH, options.strideW = layer.stride
    options.fusedActivationFunction = relu
    if pool:
        options.filterHeight, options.filterWidth = layer.kernel
        return schema.BuiltinOptions.Pool2DOptions, options
    return schema.BuiltinOptions.Conv2DOptions, options


def described(chain: Chain) -> dict:
    """The ONNX file's metadata, with this file's input layout and type."""
    content = {key: json.loads(value) for key, value in chain.metadata.items()}
    if "input" in content:
        content["input"] |= {"layout": "NHWC"}
        if chain.input is not None:
            content["input"] |= {
                "type": "int8",
                "scale": float(chain.input.scale[0]),
                "zero_point": int(chain.input.zero_point[0]),
            }
    return content

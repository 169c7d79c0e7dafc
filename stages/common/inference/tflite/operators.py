"""TFLite's operators: codes, versions, and the tables of their options."""

from ai_edge_litert import schema_py_generated as schema

from stages.common.inference.layer_graph.graph import Layer
from stages.common.inference.layer_graph.windows import NO_PADS, Pads

# The operator, and the version of it that first took int8, where it has weights with a scale for
# each channel (tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc).
OPERATORS = {
    "conv": (schema.BuiltinOperator.CONV_2D, 3),
    "max_pool": (schema.BuiltinOperator.MAX_POOL_2D, 2),
    "linear": (schema.BuiltinOperator.FULLY_CONNECTED, 12),
    "depthwise": (schema.BuiltinOperator.DEPTHWISE_CONV_2D, 3),
    "average_pool": (schema.BuiltinOperator.AVERAGE_POOL_2D, 2),
    "mean": (schema.BuiltinOperator.MEAN, 2),
    "add": (schema.BuiltinOperator.ADD, 2),
    "multiply": (schema.BuiltinOperator.MUL, 2),
    "concatenate": (schema.BuiltinOperator.CONCATENATION, 2),
    "sigmoid": (schema.BuiltinOperator.LOGISTIC, 2),
    "hard_swish": (schema.BuiltinOperator.HARD_SWISH, 1),
    "requantize": (schema.BuiltinOperator.QUANTIZE, 2),
    "pad": (schema.BuiltinOperator.PAD, 2),
    "pad_lowest": (schema.BuiltinOperator.PADV2, 2),
}
CHANNELS = 3  # the axis in NHWC
ACTIVATIONS = {
    "": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}


def operator_code(kind: str) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    builtin, code.version = OPERATORS[kind]
    code.builtinCode = code.deprecatedBuiltinCode = builtin  # the same below 127
    return code


def options_of(layer: Layer, multiplier: int, same: bool, keep_dims: bool) -> tuple[int, object]:
    """The number of the operator's own table, and the table; 0 and None for one that has none.

    ``multiplier``: output channels for each input channel of a depthwise convolution.
    """
    if layer.kind == "sigmoid":
        return schema.BuiltinOptions.NONE, None
    if layer.kind == "hard_swish":
        return schema.BuiltinOptions.HardSwishOptions, schema.HardSwishOptionsT()
    if layer.kind == "concatenate":
        concatenation = with_activation(schema.ConcatenationOptionsT(), layer)
        concatenation.axis = CHANNELS
        return schema.BuiltinOptions.ConcatenationOptions, concatenation
    if layer.kind == "mean":
        mean = schema.ReducerOptionsT()
        mean.keepDims = keep_dims
        return schema.BuiltinOptions.ReducerOptions, mean
    if layer.kind == "add":
        return schema.BuiltinOptions.AddOptions, with_activation(schema.AddOptionsT(), layer)
    if layer.kind == "multiply":
        return schema.BuiltinOptions.MulOptions, with_activation(schema.MulOptionsT(), layer)
    if layer.kind == "linear":
        options = with_activation(schema.FullyConnectedOptionsT(), layer)
        return schema.BuiltinOptions.FullyConnectedOptions, options
    return window_options(layer, multiplier, same)


def window_options(layer: Layer, multiplier: int, same: bool) -> tuple[int, object]:
    """Of a convolution or a pool."""
    number, table = {
        "conv": (schema.BuiltinOptions.Conv2DOptions, schema.Conv2DOptionsT),
        "depthwise": (schema.BuiltinOptions.DepthwiseConv2DOptions, schema.DepthwiseConv2DOptionsT),
        "max_pool": (schema.BuiltinOptions.Pool2DOptions, schema.Pool2DOptionsT),
        "average_pool": (schema.BuiltinOptions.Pool2DOptions, schema.Pool2DOptionsT),
    }[layer.kind]
    options = with_activation(table(), layer)
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    options.strideH, options.strideW = layer.stride
    if layer.kind == "depthwise":
        options.depthMultiplier = multiplier
    if layer.kind in ("max_pool", "average_pool"):
        options.filterHeight, options.filterWidth = layer.kernel
    return number, options


def with_activation(options: schema.Conv2DOptionsT, layer: Layer) -> schema.Conv2DOptionsT:
    """``options``: of any operator that has a fused activation."""
    options.fusedActivationFunction = ACTIVATIONS[layer.activation]
    return options


def pads_of_same(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> Pads:
    """The pads of TFLite's SAME: as many windows as ceil(size / stride), an odd pad at the end.

    With a stride of 2 they are not those of ONNX's (kernel - 1) / 2 on every side.
    """
    totals = [
        max(0, (-(-length // step) - 1) * step + part - length)
        for length, part, step in zip(size, kernel, stride, strict=True)
    ]
    top, left = (total // 2 for total in totals)
    return (top, left, totals[0] - top, totals[1] - left)


def is_same(layer: Layer, size: tuple[int, int]) -> bool:
    """The layer pads its input, of ``size`` (H, W), and exactly as SAME does."""
    return layer.pads != NO_PADS and layer.pads == pads_of_same(size, layer.kernel, layer.stride)

"""Checks an INT8 file for TensorRT (explicit quantization): what its parser takes and refuses.

- Integers are int8 and every zero point is 0; uint8 and others are for NVIDIA's DLA alone
  (onnx-tensorrt, onnxOpImporters.cpp, QuantDequantLinearHelper; github.com/NVIDIA/TensorRT,
  issues 2774 and 4698).
- Biases stay FP32: TensorRT dequantizes int8 and no int32, in which onnxruntime.quantization
  writes them.
- Weights are int8 around 0, one scale an output channel, each behind a DequantizeLinear
  (docs.nvidia.com/deeplearning/tensorrt, "Explicit Quantization"). That is for TensorRT 10: 8 takes
  no int8 constants (github.com/microsoft/onnxruntime/issues/11535).
- What an operator reads is quantized, such as both inputs of an Add, and not what it writes: so a
  convolution is fused with the ReLU behind it, whose outputs alone take up the integers. What only
  moves values (pooling by maximum, changes of shape) has integers on both sides: OpenCV 5.0.0's new
  engine wants them.
- Each reader of a tensor has a pair of its own (onnxruntime.quantization, DedicatedQDQPair).
"""

import numpy as np
from onnx import ModelProto, numpy_helper

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import QUANTIZERS

# Their outputs are some of their inputs: the scale is the same.
MOVERS = ("Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def tensorrt_options(model: ModelProto) -> dict:
    """The extra_options of onnxruntime.quantization with which a model becomes such a file."""
    return {
        "ActivationSymmetric": True,
        "QuantizeBias": False,
        "QDQDisableWeightAdjustForInt32Bias": True,
        "DedicatedQDQPair": True,
        "ForceQuantizeNoInputCheck": True,
        "OpTypesToExcludeOutputQuantization": sorted(
            {node.op_type for node in model.graph.node} - {*MOVERS}
        ),
    }


def refuse_what_tensorrt_refuses(model: ModelProto) -> None:
    """Raise ``InputError`` for a tensor of an INT8 model that is not int8 around 0."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in QUANTIZERS:
            zero_point = numpy_helper.to_array(constants[node.input[2]])
            if zero_point.dtype != np.int8 or zero_point.any():
                raise InputError(
                    f"'{node.input[0]}' is quantized as {zero_point.dtype} with the zero point "
                    f"{zero_point.flat[0]}, which TensorRT does not take; name the layer that "
                    "reads it in quantize.exclude"
                )

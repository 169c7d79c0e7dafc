"""FP16 files: half the bytes of FP32, for GPUs and for processors that compute in FP16.

The input and the output stay FP32, with a Cast behind the one and before the other, so that
whatever runs the FP32 file runs this one. The first layer reads the pixels less 128 where it can,
whole numbers that FP16 holds: its bias is then smaller, and so is its rounding. That left the
logits of the pruned chain 0.14 % off instead of 0.34 %.
"""

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from stages.common.inference.int8.first_layer import centred
from stages.common.inference.onnx_graph import read_metadata, strip

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def in_fp16(model: ModelProto) -> ModelProto:
    """A copy with weights and activations in FP16; equal models give equal bytes."""
    converted = ONNXModel(convert_float_to_float16(centred(model), keep_io_types=True))
    converted.topological_sort()  # the converter appends each Cast
    result = converted.model
    strip(result)
    helper.set_model_props(result, read_metadata(model))
    onnx.checker.check_model(result, full_check=True)
    return result


def in_fp32(model: ModelProto) -> ModelProto:
    """A copy of an FP16 model that computes in FP32 with the same weights."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in copy.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i in FLOATS:
            node.op_type = "Identity"
            del node.attribute[:]
    return copy


def with_rounded_activations(model: ModelProto) -> ModelProto:
    """A copy of an FP16 model that computes each operator in FP32 and rounds what it makes to FP16,
    as a GPU does that adds products of FP16 in FP32.
    """
    copy = in_fp32(model)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        copy.graph.node.extend([node] if node.op_type == "Identity" else rounded(node))
    return copy


def rounded(node: NodeProto) -> list[NodeProto]:
    """The operator, and its outputs by way of FP16."""
    result = NodeProto()
    result.CopyFrom(node)
    casts = []
    for index, name in enumerate(node.output):
        exact, half = f"{name}_exact", f"{name}_half"
        result.output[index] = exact
        casts.append(helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16))
        casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    return [result, *casts]

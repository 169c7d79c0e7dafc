"""Residual and depthwise networks as TFLite: the function that ONNX Runtime computes."""

import dataclasses
import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import ModelProto

from stages.common.core.cli import InputError
from stages.common.inference.layer_graph.chain import read_chain
from stages.common.inference.layer_graph.graph import (
    UnsupportedNetwork,
    quantization_between,
    require_int8,
    with_output,
)
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.litert import LiteRTSession, to_integers
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import predict
from stages.common.inference.tflite.file import load_tflite, read_metadata
from stages.common.inference.tflite.writer import tflite_bytes
from tests.conftest import make_images
from tests.depthwise import depthwise_model
from tests.small_graphs import MEAN, Nodes, inverted_residual, residual, write_int8

ALL_SIDES = [1, 1, 1, 1]


def padded_max_pool(signed: bool, **attributes) -> ModelProto:
    """Signed: the pool reads a convolution, whose padded values may be the largest."""
    net = Nodes()
    x = net.first(8)
    x = x if signed else net.node("Relu", x)
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], **attributes)
    return net.model(net.head(net.mean(x), 8))


def average_pool() -> ModelProto:
    net = Nodes()
    x = net.node("AveragePool", net.first(8), kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.head(net.mean(net.conv(x, (16, 8, 3, 3))), 16))


def same_pads_at_the_end() -> ModelProto:
    """As TensorFlow pads a stride of 2."""
    net = Nodes()
    x = net.node("Relu", net.first(8, pads=[0, 0, 1, 1], strides=[2, 2]))
    x = net.conv(x, (8, 1, 5, 5), group=8, pads=[1, 1, 2, 2], strides=[2, 2])
    return net.model(net.head(net.mean(x), 8))


def two_outputs_a_channel() -> ModelProto:
    net = Nodes()
    x = net.node("Relu", net.first(8, strides=[2, 2]))
    return net.model(net.head(net.mean(net.conv(x, (16, 1, 3, 3), group=8)), 16))


def linear_after_a_map() -> ModelProto:
    net = Nodes()
    x = net.node("Relu", net.first(4, strides=[4, 4]))
    x = net.node("MaxPool", x, kernel_shape=[2, 3], strides=[2, 3])
    return net.model(net.head(x, 4 * 4 * 2))


def one_by_one_head() -> ModelProto:
    net = Nodes()
    x = net.mean(net.node("Relu", net.first(8)))
    return net.model(net.node("Flatten", net.conv(x, (10, 8, 1, 1))))


def mean_at_the_end() -> ModelProto:
    net = Nodes()
    x = net.conv(net.node("Relu", net.first(8)), (10, 8, 1, 1))
    return net.model(net.node("Flatten", net.mean(x)))


def gated() -> ModelProto:
    """SiLU, and squeeze-and-excitation as in EfficientNet: channels times (C, 1, 1)."""
    net = Nodes()
    x = net.first(8, strides=[2, 2])
    x = net.node("Mul", x, net.node("Sigmoid", x))
    gate = net.node("Relu", net.conv(net.node("GlobalAveragePool", x), (4, 8, 1, 1)))
    x = net.node("Mul", net.node("Sigmoid", net.conv(gate, (8, 4, 1, 1))), x)
    return net.model(net.head(net.mean(x), 8))


def hard_swish() -> ModelProto:
    net = Nodes()
    x = net.node("HardSwish", net.first(8, strides=[2, 2]))
    x = net.node("HardSwish", net.conv(x, (8, 8, 1, 1)))
    return net.model(net.head(net.node("GlobalAveragePool", x), 8))


def hard_swish_after_a_linear_layer() -> ModelProto:
    """As in the head of MobileNetV3; its logits are FP32, and so is the first linear layer's."""
    net = Nodes()
    x = net.node("GlobalAveragePool", net.node("Relu", net.first(8, strides=[2, 2])))
    weight = net.constant((8 * np.random.default_rng(1).normal(size=(16, 8))).astype(np.float32))
    x = net.node("HardSwish", net.node("Gemm", net.node("Flatten", x), weight, transB=1))
    weight = net.constant(np.random.default_rng(2).normal(size=(10, 16)).astype(np.float32))
    return net.model(net.node("Gemm", x, weight, transB=1))


def concatenated() -> ModelProto:
    """Branches whose ranges differ, as in SqueezeNet."""
    net = Nodes()
    x = net.node("Relu", net.first(8, strides=[2, 2]))
    parts = [net.conv(x, (4, 8, 1, 1)), net.conv(x, (4, 8, 3, 3), scale=3, pads=ALL_SIDES)]
    x = net.node("Concat", x, *[net.node("Relu", part) for part in parts], axis=1)
    return net.model(net.head(net.mean(x), 16))


def grouped() -> ModelProto:
    net = Nodes()
    x = net.node("Relu", net.first(8, strides=[2, 2]))
    return net.model(net.head(net.mean(net.conv(x, (12, 2, 3, 3), group=4)), 12))


def without_biases() -> ModelProto:
    net = Nodes()
    x = net.centred()
    for shape in ((8, 3, 3, 3), (8, 1, 3, 3)):
        weight = net.constant(np.full(shape, 0.01, np.float32))
        x = net.node("Relu", net.node("Conv", x, weight, group=8 if shape[1] == 1 else 1))
    return net.model(net.head(net.mean(x), 8))


NETWORKS = {
    "residual": residual(),
    "inverted_residual": inverted_residual(),
    "inverted_residual_odd": inverted_residual(size=31),
    "depthwise": depthwise_model(),
    "max_pool": padded_max_pool(signed=False, pads=ALL_SIDES),
    "max_pool_signed": padded_max_pool(signed=True, pads=ALL_SIDES),
    "max_pool_ceil": padded_max_pool(signed=True, ceil_mode=1),
    "average_pool": average_pool(),
    "same_pads_at_the_end": same_pads_at_the_end(),
    "two_outputs_a_channel": two_outputs_a_channel(),
    "linear_after_a_map": linear_after_a_map(),
    "one_by_one_head": one_by_one_head(),
    "mean_at_the_end": mean_at_the_end(),
    "gated": gated(),
    "hard_swish": hard_swish(),
    "hard_swish_after_a_linear_layer": hard_swish_after_a_linear_layer(),
    "concatenated": concatenated(),
    "grouped": grouped(),
    "without_biases": without_biases(),
}


def images_for(model: ModelProto, count: int = 40):
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    images = make_images(count, seed=7)
    return dataclasses.replace(images, pixels=images.pixels[:, :, :size, :size])


def write_tflite(folder, model: ModelProto, **changes):
    """INT8, and the logits (N, 10) that the INT8 ONNX file says of ``images_for``."""
    images = images_for(model)
    onnx = write_int8(folder / "int8.onnx", model, images, **changes)
    expected = predict(OnnxRuntimeSession(onnx, threads=1, optimized=False), images, 20)
    output = quantization_between(float(expected.min()), float(expected.max()))
    graph = with_output(read_graph(onnx), output)
    require_int8(graph, onnx)
    (folder / "int8.tflite").write_bytes(tflite_bytes(graph))
    return folder / "int8.tflite", expected, graph.layers[-1].output.scale[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_is_the_same_function(tmp_path, name):
    model = NETWORKS[name]
    (tmp_path / "fp32.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "fp32.tflite").write_bytes(tflite_bytes(read_graph(tmp_path / "fp32.onnx")))
    images = images_for(model)
    found = predict(LiteRTSession(tmp_path / "fp32.tflite", 1, "xnnpack"), images, 20)
    expected = predict(OnnxRuntimeSession(tmp_path / "fp32.onnx", threads=1), images, 20)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.std())


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_is_what_the_onnx_file_says_within_rounding(tmp_path, name):
    """XNNPACK rounds each layer as ONNX, a sigmoid to 1/256; fixed-point numbers round twice, which
    adds up. One logit may be further off than the root mean square.
    """
    path, expected, step = write_tflite(tmp_path, NETWORKS[name])
    for kernels, steps, error in (("xnnpack", 4, 1.5), ("fixed_point", 8, 4)):
        found = predict(LiteRTSession(path, 1, kernels), images_for(NETWORKS[name]), 20)
        assert np.abs(found - expected).max() <= steps * step, kernels
        assert logit_error(found, expected) <= error, kernels


def test_signed_activations_are_converted_too(tmp_path):
    path, expected, _ = write_tflite(tmp_path, residual(), activation_type="int8")
    found = predict(LiteRTSession(path, 1, "xnnpack"), images_for(residual()), 20)
    assert logit_error(found, expected) <= 2


def operators_of(path) -> list[int]:
    model = load_tflite(path)
    codes = [code.builtinCode for code in model.operatorCodes]
    return [codes[node.opcodeIndex] for node in model.subgraphs[0].operators]


@pytest.mark.parametrize(
    ("name", "count"), [("inverted_residual", 2), ("inverted_residual_odd", 1)]
)
def test_pads_are_an_operator_only_where_tflite_would_place_them_otherwise(tmp_path, name, count):
    """3x3 with stride 2: they are the same for 31 rows, not for the 32 or 16 of the others."""
    path, _, _ = write_tflite(tmp_path, NETWORKS[name])
    assert operators_of(path).count(schema.BuiltinOperator.PAD) == count


@pytest.mark.parametrize(("name", "operator"), [("max_pool", "PAD"), ("max_pool_signed", "PADV2")])
def test_a_padded_maximum_is_never_that_of_the_pads(tmp_path, name, operator):
    path, _, _ = write_tflite(tmp_path, NETWORKS[name])
    assert getattr(schema.BuiltinOperator, operator) in operators_of(path)


def test_a_depthwise_filter_has_its_channels_last_and_a_scale_for_each(tmp_path):
    path, _, _ = write_tflite(tmp_path, two_outputs_a_channel())
    model = load_tflite(path)
    graph = model.subgraphs[0]
    [node] = [
        node
        for node in graph.operators
        if model.operatorCodes[node.opcodeIndex].builtinCode
        == schema.BuiltinOperator.DEPTHWISE_CONV_2D
    ]
    weight = graph.tensors[node.inputs[1]]
    assert weight.shape.tolist() == [1, 3, 3, 16]
    assert weight.quantization.quantizedDimension == 3
    assert len(weight.quantization.scale) == 16
    assert node.builtinOptions.depthMultiplier == 2


def test_the_mean_of_the_pixels_goes_into_the_inputs_quantization(tmp_path):
    """The file takes pixel - 128, exactly, as a network without a mean does."""
    model = residual()
    path, _, _ = write_tflite(tmp_path, model)
    described = read_metadata(path)["input"]
    assert described["subtract"] == MEAN
    assert (described["scale"], described["zero_point"]) == (1.0, MEAN - 128)
    tensor = {"dtype": np.int8, "quantization": (described["scale"], described["zero_point"])}
    pixels = np.arange(256, dtype=np.float32)
    np.testing.assert_array_equal(to_integers(pixels - MEAN, tensor), np.arange(256) - 128)


def test_the_described_range_is_that_of_the_file(tmp_path):
    model = residual()
    entry = model.metadata_props.add()
    entry.key, entry.value = "input", json.dumps({"range": [0, 255], "layout": "NCHW"})
    model.metadata_props.add(key="expected", value=json.dumps({"logits": [[1, 2]]}))
    path, _, _ = write_tflite(tmp_path, model)
    assert "expected" not in read_metadata(path)  # the ONNX file's answers
    described = read_metadata(path)["input"]
    assert described["range"] == [-MEAN, 255 - MEAN]
    assert described["layout"] == "NHWC"


def relu_of_what_is_read_twice() -> ModelProto:
    net = Nodes()
    x = net.first(4)
    y = net.conv(x, (4, 4, 1, 1))
    return net.model(net.node("Add", net.node("Relu", x), y), channels=4)


def mean_subtracted_late() -> ModelProto:
    net = Nodes()
    x = net.conv("pixels", (4, 3, 3, 3))
    return net.model(net.centred(x), channels=4)


def clip_to_one() -> ModelProto:
    net = Nodes()
    bounds = [net.constant(np.array(bound, np.float32)) for bound in (0, 1)]
    return net.model(net.node("Clip", net.first(4), *bounds), channels=4)


def sum_of_one_channel() -> ModelProto:
    net = Nodes()
    x = net.first(4)
    return net.model(net.node("Add", x, net.conv(x, (1, 4, 1, 1))), channels=4)


def product_along_rows() -> ModelProto:
    net = Nodes()
    x = net.first(4)
    y = net.node("MaxPool", x, kernel_shape=[1, 30])
    return net.model(net.node("Mul", x, y), channels=4)


def concatenation_along_rows() -> ModelProto:
    net = Nodes()
    x = net.first(4)
    return net.model(net.node("Concat", x, x, axis=2), channels=4)


def identity_of_a_constant() -> ModelProto:
    net = Nodes()
    bias = net.node("Identity", net.constant(np.zeros(4, np.float32)))
    weight = net.constant(np.zeros((4, 3, 1, 1), np.float32))
    return net.model(net.node("Conv", "pixels", weight, bias), channels=4)


def quantized_without_zero_point() -> ModelProto:
    net = Nodes()
    scale = net.constant(np.array(1, np.float32))
    x = net.node("QuantizeLinear", "pixels", scale)
    return net.model(net.node("DequantizeLinear", x, scale), channels=3)


def mean_over_channels() -> ModelProto:
    net = Nodes()
    axes = net.constant(np.array([1], np.int64))
    return net.model(net.node("ReduceMean", net.first(4), axes), channels=1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (product_along_rows, "Mul .*of the same shape, or by .C, 1, 1."),
        (concatenation_along_rows, "Concat .*along the channels"),
        (relu_of_what_is_read_twice, "Relu .*whose output nothing else reads"),
        (mean_subtracted_late, "Sub .*from the pixels, before all else"),
        (clip_to_one, "Clip .*from 0 to 6"),
        (sum_of_one_channel, "Add .*two of the same shape"),
        (mean_over_channels, "ReduceMean .*over H and W"),
        (identity_of_a_constant, "Identity .*is no activation"),
        (quantized_without_zero_point, "QuantizeLinear .*one constant scale and one zero point"),
    ],
)
def test_what_no_layer_stands_for_is_named(tmp_path, make, said):
    (tmp_path / "odd.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(UnsupportedNetwork, match=rf"odd\.onnx: {said}") as caught:
        read_graph(tmp_path / "odd.onnx")
    assert "\n" not in str(caught.value)
    assert "odd.onnx" not in caught.value.reason


def test_layers_in_fp32_are_counted_in_a_network_with_branches(tmp_path):
    model = residual()
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    path = write_int8(tmp_path / "int8.onnx", model, exclude=[conv.name])
    with pytest.raises(UnsupportedNetwork, match=r"1 of 10 layers are FP32 \(the first: conv_1\)"):
        require_int8(read_graph(path), path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("residual", "it subtracts 121 from the pixels"),
        ("depthwise", "depthwise_3 is none of conv, max_pool, linear"),
    ],
)
def test_a_program_for_the_chain_refuses_another_network_in_one_line(tmp_path, name, said):
    (tmp_path / "fp32.onnx").write_bytes(NETWORKS[name].SerializeToString())
    with pytest.raises(InputError, match=rf"{said}; this stage is for the chain") as caught:
        read_chain(tmp_path / "fp32.onnx")
    assert "\n" not in str(caught.value)

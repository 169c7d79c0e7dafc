"""INT8 of networks other than the chain: padded first layers, branches, depthwise layers, gates."""

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from stages.common.core.accuracy import accuracy
from stages.common.inference.export.onnx_export import onnx_of
from stages.common.inference.int8.first_layer import first_layer
from stages.common.inference.int8.quantizer import ACTIVATION_TYPES, METHODS, quantized
from stages.common.inference.int8.sensitivity import logits_of
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.agreement import allowed_error
from tests.conftest import make_images
from tests.networks import PARAMS
from tests.own_networks import FACTORIES, imported

IMAGES = make_images(60)


def params_with(**changes) -> QuantizeParams:
    return QuantizeParams(**{**PARAMS["quantize"], **changes})


def int8_of(model: ModelProto, **changes) -> ModelProto:
    return quantized(model, IMAGES, params_with(**changes))


@pytest.fixture(scope="module", params=FACTORIES)
def fp32(request) -> ModelProto:
    return onnx_of(imported(request.param), opset=18, metadata={})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation_type", ACTIVATION_TYPES)
def test_every_way_to_quantize_keeps_the_accuracy(fp32, method, activation_type):
    images = make_images(200, seed=5)
    before = accuracy(logits_of(fp32, images).argmax(1), images.labels)

    int8 = int8_of(fp32, calibration_method=method, activation_type=activation_type)

    after = accuracy(logits_of(int8, images).argmax(1), images.labels)
    assert before > 80
    assert before - after <= 5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("activation_type", "zero_point"), [("uint8", 128), ("int8", 0)])
def test_the_difference_from_a_whole_mean_is_quantized_without_an_error(
    fp32, method, activation_type, zero_point
):
    int8 = int8_of(fp32, calibration_method=method, activation_type=activation_type)

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    [subtraction] = [node for node in int8.graph.node if node.op_type == "Sub"]
    [quantize] = [node for node in int8.graph.node if node.input[0] == subtraction.output[0]]
    assert [constants[name] for name in quantize.input[1:]] == [1, zero_point]


def test_the_padded_strided_first_layer_changes_least():
    """The error of its outputs on the calibration images, against the nearest integers'."""
    model = onnx_of(imported("residual"), opset=18, metadata={})
    first = first_layer(model)
    assert first is not None
    assert (first.strides, first.pads, first.mean) == ((2, 2), (1, 1, 1, 1), 128)
    patches = first.patches(IMAGES, (3, 3))
    filters = constant(model, first.node.input[1]).reshape(16, -1)
    scale = np.abs(filters).max(axis=1, keepdims=True) / 64

    rounded = first_weight(int8_of(model)).reshape(16, -1) * scale

    def error(weights: np.ndarray) -> float:
        return float(np.square((patches - patches.mean(0)) @ (weights - filters).T).mean())

    assert error(rounded) < 0.7 * error(np.round(filters / scale) * scale)


def constant(model: ModelProto, name: str) -> np.ndarray:
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == name]
    return numpy_helper.to_array(tensor)


def first_weight(int8: ModelProto) -> np.ndarray:
    """The integers of the first convolution."""
    first = next(node for node in int8.graph.node if node.op_type == "Conv")
    [dequantize] = [node for node in int8.graph.node if first.input[1] in node.output]
    return constant(int8, dequantize.input[0])


def model_of(nodes: list[NodeProto], weight: np.ndarray) -> ModelProto:
    """From 'pixels' to 'logits', one for each filter of the weight 'w' (outputs, 3, H, W)."""
    graph = make_graph(
        nodes,
        "headless",
        [make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["N", 3, 32, 32])],
        [make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", len(weight)])],
        [numpy_helper.from_array(weight, "w")],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=10)


def test_a_first_layer_without_a_bias_gets_one_for_the_mean_error():
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model = model_of(
        [
            make_node("Conv", ["pixels", "w"], ["a"], "first", strides=[2, 2]),
            make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
            make_node("Flatten", ["b"], ["logits"], "flat"),
        ],
        weight,
    )

    int8 = int8_of(model)

    assert len(next(node for node in int8.graph.node if node.op_type == "Conv").input) == 3
    found, expected = logits_of(int8, IMAGES), logits_of(model, IMAGES)
    assert np.abs((found - expected).mean(axis=0)).max() < 0.2 * expected.std()


@pytest.mark.parametrize("operators", [["GlobalAveragePool", "Flatten"], ["Flatten"]])
def test_logits_that_no_linear_layer_makes_stay_fp32(operators):
    """Of a network that ends in a convolution, pooled or not."""
    weight = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    size = 9 if operators == ["GlobalAveragePool", "Flatten"] else 32  # of the kernel
    weight = np.resize(weight, (5, 3, size, size)) / size**2
    names = [f"value{index}" for index in range(len(operators))]
    model = model_of(
        [
            make_node("Conv", ["pixels", "w"], [names[0]], "first"),
            *(
                make_node(operator, [name], [after], f"node{name}")
                for operator, name, after in zip(
                    operators, names, [*names[1:], "logits"], strict=True
                )
            ),
        ],
        weight,
    )

    int8 = int8_of(model)

    last = [node.op_type for node in int8.graph.node][-len(operators) - 1 :]
    assert last == ["Conv", *operators]


def test_a_runtime_may_be_as_far_off_as_int8_itself_but_never_three_times_the_tolerance():
    assert [allowed_error(10, own) for own in (2, 10, 22, 640)] == [10, 10, 22, 30]

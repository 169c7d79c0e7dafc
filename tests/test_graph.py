"""stages.common.inference.onnx_graph: costs counted from the file are those of the network."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from stages.common.core.cli import InputError
from stages.common.inference.export.folding import folded
from stages.common.inference.export.onnx_export import onnx_of
from stages.common.inference.onnx_graph import cost_of, load_model, read_metadata, strip
from stages.common.network.size import size_of
from tests.networks import fp32_model, int8_model, random_network
from tests.own_networks import FACTORIES, imported


def handmade(nodes: list, weights: dict[str, np.ndarray], output: list[int]) -> onnx.ModelProto:
    """x (batch, 2, 4, 4) -> y."""
    graph = make_graph(
        nodes,
        "handmade",
        [make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *output])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 18)])


def test_counts_are_those_of_the_network():
    expected = size_of(random_network())

    cost = cost_of(fp32_model())

    assert cost.params == expected.params
    assert cost.nonzero_params == expected.nonzero_params
    assert cost.macs == expected.macs


def test_int8_counts_the_same_params_and_macs_and_a_quarter_of_the_activation_bytes():
    fp32, int8 = cost_of(fp32_model()), cost_of(int8_model())

    assert int8.params == fp32.params
    assert int8.macs == fp32.macs
    assert 4 * int8.peak_activation_bytes == fp32.peak_activation_bytes


def test_peak_is_the_widest_convolution_with_its_input():
    # The first block: (24, 31, 31) -> (8, 31, 31); ReLU and the pool after it need less.
    assert cost_of(fp32_model()).peak_activation_bytes == 4 * (24 + 8) * 31 * 31


def test_weights_that_are_zero_are_not_counted_as_nonzero():
    network = random_network()
    network.blocks[0].convolutions[1].weight.data[:3] = 0
    model = fp32_model()
    dense = cost_of(model)
    for tensor in model.graph.initializer:
        if tensor.name == "block1_conv2.weight":
            weight = folded(network, size=32).block1_conv2.weight.numpy()
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))

    cost = cost_of(model)

    assert cost.nonzero_params == size_of(network).nonzero_params == dense.nonzero_params - 3 * 72
    assert cost.params == dense.params


def test_a_quantized_weight_is_zero_where_it_equals_its_zero_point():
    nodes = [
        make_node("DequantizeLinear", ["w", "scale", "zero"], ["weight"], axis=0),
        make_node("Conv", ["x", "weight"], ["y"]),
    ]
    weights = {
        "w": np.array([[[[5]], [[7]]], [[[7]], [[7]]], [[[0]], [[0]]]], np.uint8),  # (3, 2, 1, 1)
        "scale": np.ones(3, np.float32),
        "zero": np.array([5, 7, 1], np.uint8),
    }

    cost = cost_of(handmade(nodes, weights, output=[3, 4, 4]))

    assert (cost.params, cost.nonzero_params, cost.macs) == (6, 3, 6 * 16)


def test_an_activation_that_is_read_later_stays_alive():
    nodes = [
        make_node("Conv", ["x", "w"], ["a"]),
        make_node("Relu", ["a"], ["b"]),
        make_node("Add", ["x", "b"], ["y"]),
    ]
    weights = {"w": np.ones((2, 2, 1, 1), np.float32)}

    cost = cost_of(handmade(nodes, weights, output=[2, 4, 4]))

    assert cost.peak_activation_bytes == 3 * 4 * 2 * 4 * 4  # x, a (and b in its place), y


def test_an_activation_that_is_read_later_is_not_overwritten():
    nodes = [
        make_node("Conv", ["x", "w"], ["a"]),
        make_node("Relu", ["a"], ["b"]),
        make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"w": np.ones((2, 2, 1, 1), np.float32)}

    cost = cost_of(handmade(nodes, weights, output=[2, 4, 4]))

    assert cost.peak_activation_bytes == 3 * 4 * 2 * 4 * 4  # a, b, y


def test_the_mean_is_subtracted_in_place_and_constants_may_come_first():
    nodes = [
        make_node("Sub", ["x", "mean"], ["a"]),
        make_node("Mul", ["half", "a"], ["b"]),
        make_node("Conv", ["b", "w"], ["y"]),
    ]
    weights = {
        "mean": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "w": np.ones((3, 2, 1, 1), np.float32),
    }

    cost = cost_of(handmade(nodes, weights, output=[3, 4, 4]))

    assert cost.peak_activation_bytes == (2 + 3) * 4 * 4 * 4  # b, y


def test_a_depthwise_filter_counts_once_for_its_channel():
    weights = {"w": np.ones((4, 1, 3, 3), np.float32), "b": np.zeros(4, np.float32)}
    node = make_node("Conv", ["x", "w", "b"], ["y"], group=2, pads=[1, 1, 1, 1])

    cost = cost_of(handmade([node], weights, output=[4, 4, 4]))

    assert (cost.params, cost.macs) == (4 * 9 + 4, 4 * 9 * 16)


@pytest.mark.parametrize("transposed", [True, False])
def test_a_linear_layer_is_counted_whichever_way_its_weight_lies(transposed):
    values = np.array([[5, 7], [5, 6]], np.uint8)  # (2 outputs, 2 inputs)
    nodes = [
        make_node("GlobalAveragePool", ["x"], ["mean"]),
        make_node("Flatten", ["mean"], ["flat"]),
        make_node("DequantizeLinear", ["w", "s", "z"], ["weight"], axis=0 if transposed else 1),
        make_node("Gemm", ["flat", "weight", "b"], ["y"], transB=int(transposed)),
    ]
    weights = {
        "w": values if transposed else np.ascontiguousarray(values.T),
        "s": np.ones(2, np.float32),
        "z": np.array([5, 6], np.uint8),
        "b": np.zeros(2, np.float32),
    }

    cost = cost_of(handmade(nodes, weights, output=[2]))

    assert (cost.params, cost.nonzero_params, cost.macs) == (6, 4, 4)


def test_a_matrix_product_counts_where_one_side_is_a_weight():
    nodes = [
        make_node("MatMul", ["x", "w"], ["a"]),  # (1, 2, 4, 4) x (4, 3)
        make_node("MatMul", ["pooling", "a"], ["y"]),
    ]
    weights = {"w": np.ones((4, 3), np.float32), "pooling": np.ones((1, 1, 4, 4), np.float32)}

    cost = cost_of(handmade(nodes, weights, output=[2, 4, 3]))

    assert (cost.params, cost.macs) == (12, 12 * 8)


@pytest.mark.parametrize("factory", FACTORIES)
def test_counts_are_those_of_an_imported_network(factory):
    network = imported(factory)
    expected = size_of(network)

    cost = cost_of(onnx_of(network, opset=18, metadata={}))

    assert (cost.params, cost.macs) == (expected.params, expected.macs)


def test_biases_count_as_params():
    weights = {"w": np.ones((3, 2, 1, 1), np.float32), "b": np.zeros(3, np.float32)}
    model = handmade([make_node("Conv", ["x", "w", "b"], ["y"])], weights, output=[3, 4, 4])

    assert (cost_of(model).params, cost_of(model).nonzero_params) == (9, 9)


def test_counting_leaves_the_model_as_it_was():
    model = fp32_model()
    before = model.SerializeToString(deterministic=True)

    cost_of(model)

    assert model.SerializeToString(deterministic=True) == before


def test_strip_removes_comments_and_keeps_the_models_own_metadata():
    model = fp32_model()
    metadata = read_metadata(model)
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "/home/me/x.py"
    model.graph.node[1].metadata_props.add(key="stack_trace", value="/home/me/x.py")
    model.graph.initializer[0].metadata_props.add(key="source", value="/home/me/x.py")

    strip(model)

    assert b"/home/me" not in model.SerializeToString()
    assert read_metadata(model) == metadata != {}


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"wrong\.onnx is no ONNX model; delete it"):
        load_model(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.onnx is missing; run 'dvc repro'"):
        load_model(tmp_path / "none.onnx")

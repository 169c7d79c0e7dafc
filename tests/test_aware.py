"""Quantization-aware fine-tuning: torch computes what the INT8 file says, and it learns to."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stages import quantize
from stages.common.core.cli import InputError
from stages.common.data.dataset import load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.int8.first_layer import first_layer
from stages.common.inference.int8.layers import named
from stages.common.inference.int8.quantizer import (
    chosen_layers,
    largest_integer,
    with_int8_layers,
)
from stages.common.inference.int8.sensitivity import logits_of
from stages.common.inference.onnx_graph import load_model, read_metadata
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.qat import fine_tuning
from stages.common.qat.fine_tuning import fit, with_weights
from stages.common.qat.graph import TorchGraph
from stages.common.qat.operators import OPERATORS
from tests.conftest import make_images
from tests.depthwise import depthwise_model
from tests.networks import PARAMS, RECIPE, call, fp32_bytes, fp32_model, run_context, write_params

IMAGES = make_images(60)
MODELS = {"depthwise": depthwise_model, "chain": fp32_model}
# Percent of the logits. A sum of float32 in another order may round an activation to the next
# integer, above all after the chain's first layer, whose large weights cancel out.
TOLERANCE = {"depthwise": 0.001, "chain": 1.0}
AWARE = {"aware_epochs": 2, "aware_batch_size": 20}


def params_with(**changes: object) -> QuantizeParams:
    return QuantizeParams(**{**PARAMS["quantize"], "calibration_images": 60, **changes})


def int8_of(model: ModelProto, params: QuantizeParams, ranges: Path | None = None) -> ModelProto:
    return with_int8_layers(model, IMAGES, params, chosen_layers(model, params), ranges)


def student_of(model: ModelProto, params: QuantizeParams, ranges: Path | None = None) -> TorchGraph:
    int8 = int8_of(model, params, ranges)
    first = first_layer(model)
    return TorchGraph(model, int8, largest_integer(params), fixed=[first.node.input[1]])


def computed(graph: TorchGraph) -> np.ndarray:
    with torch.no_grad():
        return graph(torch.from_numpy(IMAGES.pixels).float()).numpy()


def trained(model: ModelProto, params: QuantizeParams, folder: Path) -> TorchGraph:
    student = student_of(model, params, folder / "ranges.json")
    fit(student, TorchGraph(model), params, run_context(IMAGES, folder), "test")
    return student


# ------------------------------------------------------------------------------ what is computed


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reduce_range": False, "activation_type": "int8"},
        {"symmetric": True},
        {"calibration_method": "percentile"},
        {"exclude": ["head"]},
    ],
)
def test_torch_computes_what_the_int8_file_says(name, changes):
    model = named(MODELS[name]())
    params = params_with(**changes)
    int8 = int8_of(model, params)
    expected = logits_of(int8, IMAGES)

    found = computed(TorchGraph(model, int8, largest_integer(params)))
    assert (
        logit_error(found, expected)
        < TOLERANCE[name]
        < logit_error(logits_of(model, IMAGES), expected)
    )
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_torch_computes_a_batch_norm_that_is_not_folded_and_is_quantized():
    model = named(depthwise_model())
    nodes = {node.name: node for node in model.graph.node}
    nodes["node_expand1"].input[0] = "normalized"
    statistics = {"scale": random(32), "shift": random(32), "means": random(32), "variances": 1}
    for name, value in statistics.items():
        value = np.broadcast_to(np.abs(value).astype(np.float32), 32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    norm = helper.make_node(
        "BatchNormalization", ["stem_relu", *statistics], ["normalized"], "node_norm"
    )
    position = list(model.graph.node).index(nodes["node_expand1"])
    model.graph.node.insert(position, norm)
    int8 = int8_of(model, params_with())

    found = computed(TorchGraph(model, int8, largest_integer(params_with())))
    assert logit_error(found, logits_of(int8, IMAGES)) < 0.2


@pytest.mark.parametrize("name", MODELS)
def test_weights_start_at_the_integers_of_the_file_and_near_the_fp32_ones(name):
    model = named(MODELS[name]())
    params = params_with()
    int8 = int8_of(model, params)
    again = with_weights(model, TorchGraph(model, int8, largest_integer(params)).trained())

    integers = {tensor.name: tensor for tensor in int8.graph.initializer}
    for tensor in int8_of(again, params).graph.initializer:
        if tensor.data_type == TensorProto.INT8:
            np.testing.assert_array_equal(
                numpy_helper.to_array(tensor), numpy_helper.to_array(integers[tensor.name])
            )


@pytest.mark.parametrize("name", MODELS)
def test_after_training_the_quantizer_finds_what_torch_computes(name, tmp_path):
    model = named(MODELS[name]())
    params = params_with(**AWARE)
    student = trained(model, params, tmp_path)
    int8 = int8_of(with_weights(model, student.trained()), params, tmp_path / "ranges.json")

    assert logit_error(computed(student), logits_of(int8, IMAGES)) < TOLERANCE[name]


def one_operator(
    name: str, shape: tuple[int, ...], constants: list[np.ndarray | None], **attributes: object
) -> ModelProto:
    """A model of one operator, which reads (N, *shape) and then the constants."""
    names = ["" if each is None else f"constant{index}" for index, each in enumerate(constants)]
    tensors = [
        numpy_helper.from_array(value, name)
        for name, value in zip(names, constants, strict=True)
        if value is not None
    ]
    graph = helper.make_graph(
        [helper.make_node(name, ["pixels", *names], ["logits"], "node", **attributes)],
        name,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        tensors,
    )
    opset = 20 if name == "Gelu" else 18
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


MAP = (4, 7, 6)  # channels, rows, columns
CASES: list[tuple[str, tuple[int, ...], list, dict]] = [
    ("Add", MAP, [random(4, 1, 1)], {}),
    ("AveragePool", MAP, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", MAP, [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    (
        "AveragePool",
        MAP,
        [],
        {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1},
    ),
    ("BatchNormalization", MAP, [random(4), random(4), random(4), random(4) ** 2], {}),
    ("Clip", MAP, [scalar(-0.5), scalar(0.5)], {}),
    ("Clip", MAP, [None, scalar(0.5)], {}),
    ("Concat", MAP, [random(2, 1, 7, 6)], {"axis": 1}),
    ("Conv", MAP, [random(4, 1, 3, 3), random(4)], {"group": 4, "pads": [1, 1, 1, 1]}),
    ("Conv", MAP, [random(5, 4, 3, 2)], {"strides": [2, 1], "pads": [0, 1, 1, 0]}),
    ("Conv", MAP, [random(6, 2, 2, 2), random(6)], {"group": 2, "dilations": [2, 2]}),
    ("Div", MAP, [scalar(3)], {}),
    ("Dropout", MAP, [], {}),
    ("Erf", MAP, [], {}),
    ("Flatten", MAP, [], {}),
    ("Flatten", MAP, [], {"axis": 2}),
    ("Gelu", MAP, [], {}),
    ("Gemm", (4,), [random(5, 4), random(5)], {"transB": 1}),
    ("Gemm", (4,), [random(4, 5), random(5)], {"alpha": 2.0, "beta": 0.5}),
    ("GlobalAveragePool", MAP, [], {}),
    ("GlobalMaxPool", MAP, [], {}),
    ("HardSigmoid", MAP, [], {}),
    ("HardSwish", MAP, [], {}),
    ("Identity", MAP, [], {}),
    ("LayerNormalization", MAP, [random(6), random(6)], {"epsilon": 1e-3}),
    ("LeakyRelu", MAP, [], {}),
    ("MatMul", (4,), [random(4, 5)], {}),
    ("MaxPool", MAP, [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", MAP, [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", MAP, [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("Mul", MAP, [random(4, 1, 1)], {}),
    ("Pad", MAP, [whole(0, 0, 1, 2, 0, 0, 3, 0), scalar(2)], {}),
    ("Pad", MAP, [whole(1, 2), None, whole(3)], {"mode": "reflect"}),
    ("ReduceMean", MAP, [whole(2, 3)], {"keepdims": 0}),
    ("ReduceMean", MAP, [whole(-1)], {}),
    ("Relu", MAP, [], {}),
    ("Reshape", MAP, [whole(0, 2, -1)], {}),
    ("Sigmoid", MAP, [], {}),
    ("Softmax", MAP, [], {"axis": 1}),
    ("Squeeze", (4, 1, 1), [whole(2, 3)], {}),
    ("Sub", MAP, [scalar(1.5)], {}),
    ("Tanh", MAP, [], {}),
    ("Transpose", MAP, [], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", (4,), [whole(-1, 2)], {}),
]


@pytest.mark.parametrize(("name", "shape", "constants", "attributes"), CASES)
def test_every_operator_computes_what_onnx_runtime_does(
    name, shape, constants, attributes, tmp_path
):
    model = one_operator(name, shape, constants, **attributes)
    pixels = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {"pixels": pixels})[0]

    with torch.no_grad():
        found = TorchGraph(model)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_operator_has_a_case():
    assert {name for name, *_ in CASES} == OPERATORS.keys()


def test_an_operator_that_cannot_be_trained_is_named():
    model = one_operator("Celu", MAP, [])
    with pytest.raises(InputError, match=r"operator Celu, which .* set quantize\.aware_epochs: 0$"):
        TorchGraph(model)

    model = one_operator("Conv", MAP, [random(4, 4, 3, 3)], auto_pad="SAME_UPPER")
    with pytest.raises(InputError, match=r"operator Conv with auto_pad, which cannot be trained"):
        TorchGraph(model)


def test_weights_that_two_operators_share_are_refused():
    model = named(depthwise_model())
    nodes = {node.name: node for node in model.graph.node}
    nodes["node_expand2"].input[1] = "expand1.weight"

    with pytest.raises(InputError, match=r"share 'expand1\.weight'"):
        TorchGraph(model)


# --------------------------------------------------------------------------------- what it learns


@pytest.mark.parametrize("name", MODELS)
def test_fine_tuning_brings_int8_nearer_to_the_fp32_logits(name, tmp_path):
    model = named(MODELS[name]())
    params = params_with(**{**AWARE, "aware_epochs": 5}, aware_distillation=1.0)
    expected = logits_of(model, IMAGES)
    before = computed(student_of(model, params))
    after = computed(trained(model, params, tmp_path))

    assert logit_error(after, expected) < 0.95 * logit_error(before, expected)


def test_weights_that_pruning_set_to_zero_stay_zero(tmp_path):
    model = named(depthwise_model())
    weights = TorchGraph(model).trained()
    weights["project.weight"][::2, 3:] = 0
    weights["expand1.weight"][5] = 0
    after = trained(with_weights(model, weights), params_with(**AWARE), tmp_path).trained()

    assert (after["project.weight"][::2, 3:] == 0).all()
    assert (after["expand1.weight"][5] == 0).all()
    assert (after["project.weight"] != weights["project.weight"]).any()


def test_excluded_layers_learn_in_fp32(tmp_path):
    model = named(depthwise_model())
    start = TorchGraph(model).trained()["expand2.weight"]
    params = params_with(**AWARE, exclude=["expand2"])
    after = trained(model, params, tmp_path).trained()["expand2.weight"]

    assert (after != start).mean() > 0.5
    scale = np.abs(after).max(axis=(1, 2, 3), keepdims=True) / largest_integer(params)
    assert np.abs(after / scale - np.round(after / scale)).max() > 0.3


def test_the_same_seed_gives_the_same_bits_and_another_one_others(tmp_path):
    model = named(depthwise_model())
    runs = [
        trained(model, params_with(**AWARE, aware_seed=seed), tmp_path / folder).trained()
        for seed, folder in ((0, "a"), (0, "b"), (1, "c"))
    ]

    first, same, other = (run["expand1.weight"].tobytes() for run in runs)
    assert first == same != other


def test_a_killed_fine_tuning_ends_in_the_same_bits(tmp_path, monkeypatch):
    model = named(depthwise_model())
    expected = trained(model, params_with(**AWARE), tmp_path / "whole").trained()
    train_epoch = fine_tuning.train_epoch

    def killed(*arguments):
        if arguments[4] == 1:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(fine_tuning, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(model, params_with(**AWARE), tmp_path / "killed")
    epochs = []
    monkeypatch.setattr(
        fine_tuning,
        "train_epoch",
        lambda *arguments: epochs.append(arguments[4]) or train_epoch(*arguments),
    )
    found = trained(model, params_with(**AWARE), tmp_path / "killed").trained()

    assert epochs == [1]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_loss_that_diverges_names_the_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(
        fine_tuning, "distillation", lambda *_: lambda logits, *_: logits.sum() * float("inf")
    )

    with pytest.raises(InputError, match=r"loss became .*lower quantize\.aware_learning_rate"):
        trained(named(depthwise_model()), params_with(**AWARE), tmp_path)


# -------------------------------------------------------------------------------------- the stage


@pytest.fixture
def arguments(tmp_path, data_directory) -> dict[str, Path]:
    path = tmp_path / "model.onnx"
    path.write_bytes(fp32_bytes())
    return {
        "params": tmp_path / "params.yaml",
        "data": data_directory,
        "resume": tmp_path / "resume",
        "onnx": path,
        "int8": tmp_path / "model_int8.onnx",
        "metrics": tmp_path / "metrics.json",
    }


def write_aware_params(arguments: dict[str, Path], **changes: object) -> None:
    recipe = dataclasses.asdict(RECIPE)
    write_params(arguments["params"], quantize={**AWARE, **changes}, recipe=recipe)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_stage_fine_tunes_and_says_what_that_and_its_control_bring(
    arguments, monkeypatch, capsys, symmetric
):
    write_aware_params(arguments, symmetric=symmetric)
    call(quantize, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    aware = metrics["aware"]
    assert list(aware) == ["epochs", "before", "after", "control"]
    assert aware["epochs"] == 2
    assert all(aware[key] > 50 for key in ("before", "after", "control"))
    # ONNX Runtime itself rounds the biases of a symmetric file, which are FP32 there.
    runtime = metrics["opencv_new" if symmetric else "onnxruntime"]
    assert abs(aware["after"] - runtime["int8_accuracy"]) <= 1
    stated = json.loads(read_metadata(load_model(arguments["int8"]))["quantize"])
    assert stated["aware_epochs"] == 2
    assert not list(arguments["resume"].iterdir())
    said, _ = capsys.readouterr().out.splitlines()
    assert said.startswith(f"fine-tuning for INT8: {aware['before']:g} % -> {aware['after']:g} %")


def test_the_file_has_the_activations_ranges_that_the_weights_were_tuned_for(
    arguments, monkeypatch
):
    write_aware_params(arguments, aware_epochs=0)
    call(quantize, monkeypatch, **arguments)
    plain = scales_of_activations(arguments["int8"])
    write_aware_params(arguments)
    call(quantize, monkeypatch, **arguments)

    assert scales_of_activations(arguments["int8"]) == plain


def scales_of_activations(path: Path) -> list[float]:
    model = load_model(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return [float(constants[node.input[1]]) for node in nodes]


def test_a_runtimes_error_is_measured_against_the_rounding_of_the_tuned_weights(
    arguments, monkeypatch
):
    """Fine-tuning moves the logits too, and an engine must not be allowed as much."""
    seen = []
    right_logits = quantize.right_logits

    def spied(path, images, engines, tolerance, fp32):
        seen.append(fp32)
        return right_logits(path, images, engines, tolerance, fp32)

    monkeypatch.setattr(quantize, "right_logits", spied)
    write_aware_params(arguments, aware_learning_rate=0.01)
    call(quantize, monkeypatch, **arguments)

    _, validation = load_training_images(arguments["data"], DataParams(**PARAMS["data"]))
    int8, fp32 = (logits_of(load_model(arguments[name]), validation) for name in ("int8", "onnx"))
    assert logit_error(int8, seen[0]) < logit_error(int8, fp32) / 2


def test_without_epochs_nothing_is_tuned_or_recorded(arguments, monkeypatch):
    write_params(arguments["params"])
    call(quantize, monkeypatch, **arguments)

    assert "aware" not in json.loads(arguments["metrics"].read_text())
    stated = json.loads(read_metadata(load_model(arguments["int8"]))["quantize"])
    assert not [key for key in stated if key.startswith("aware")]


def test_what_fine_tuning_leaves_is_repaired(arguments, monkeypatch, capsys):
    """At a rate of 0 it leaves everything."""
    write_aware_params(arguments, aware_learning_rate=0, repair="greedy", max_accuracy_drop=0)
    call(quantize, monkeypatch, **arguments)

    tuned, repaired, *_ = capsys.readouterr().out.splitlines()
    assert tuned.startswith("fine-tuning for INT8")
    assert repaired.startswith("repair: ")
    metrics = json.loads(arguments["metrics"].read_text())
    assert metrics["aware"]["before"] == metrics["aware"]["after"]
    assert metrics["excluded"]

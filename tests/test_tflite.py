"""stages.tflite: the same network in integers only, or no file."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from stages import tflite
from stages.common.core.cli import InputError
from stages.common.data.cifar10 import CLASSES
from stages.common.data.dataset import load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.int8.quantizer import quantized
from stages.common.inference.layer_graph.graph import quantization_between, with_output
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.litert import KERNELS, LiteRTSession
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import predict
from stages.common.inference.tflite.file import ALIGNMENT, load_tflite, packed, why_none
from stages.common.inference.tflite.writer import tflite_bytes
from tests.conftest import DATA, make_images
from tests.networks import PARAMS, call, fp32_model, int8_tflite, write_models, write_params
from tests.small_graphs import inverted_residual, residual, write_int8

IMAGES = make_images(100, seed=7)


@pytest.fixture
def arguments(tmp_path, data_directory) -> dict[str, Path]:
    return {
        "params": write_params(tmp_path / "params.yaml"),
        "data": data_directory,
        "onnx": write_models(tmp_path)[1],
        "tflite": tmp_path / "int8.tflite",
        "metrics": tmp_path / "metrics.json",
    }


def write_quantized(path: Path, activation_type: str) -> Path:
    params = QuantizeParams(**PARAMS["quantize"] | {"activation_type": activation_type})
    model = quantized(fp32_model(), make_images(100), params)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", ["whitening", "block2_conv1", "head"])
def test_a_network_with_a_layer_in_fp32_has_no_file_and_the_reason(
    arguments, monkeypatch, name, capsys
):
    params = QuantizeParams(**PARAMS["quantize"] | {"exclude": [name]})
    model = quantized(fp32_model(), make_images(100), params)
    arguments["onnx"].write_bytes(model.SerializeToString())

    call(tflite, monkeypatch, **arguments)

    assert_has_no_file(arguments, r"1 of 8 layers are FP32 .*quantize\.exclude")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_network_with_another_operator_has_no_file_and_the_reason(arguments, monkeypatch, capsys):
    arguments["tflite"].write_bytes(b"of an earlier run")
    write_graph(arguments["onnx"], helper.make_node("Tanh", ["pixels"], ["logits"]))

    call(tflite, monkeypatch, **arguments)

    assert_has_no_file(arguments, "Tanh .it makes 'logits'. cannot be converted")
    assert len(capsys.readouterr().out.splitlines()) == 1


def assert_has_no_file(arguments: dict[str, Path], reason: str) -> None:
    """But the reason in its place, which nothing takes for a model."""
    metrics = json.loads(arguments["metrics"].read_text())
    assert list(metrics) == ["unsupported"]
    assert re.search(reason, metrics["unsupported"])
    assert why_none(arguments["tflite"]) == metrics["unsupported"]
    with pytest.raises(InputError, match=r"int8\.tflite is no TFLite model"):
        load_tflite(arguments["tflite"])
    with pytest.raises(InputError, match=r"int8\.tflite: LiteRT refuses this model"):
        LiteRTSession(arguments["tflite"], 1, "xnnpack")


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_integers_are_those_of_onnx_runtime_rounded_to_the_outputs_scale(tmp_path, activation_type):
    """XNNPACK may be off by one; fixed-point numbers round twice, which adds up over layers."""
    path = write_quantized(tmp_path / "int8.onnx", activation_type)
    expected = predict(OnnxRuntimeSession(path, threads=1), IMAGES, 50)
    output = quantization_between(expected.min(), expected.max())
    (tmp_path / "int8.tflite").write_bytes(tflite_bytes(with_output(read_graph(path), output)))

    rounded = np.rint(expected / output.scale[0]) * output.scale[0]
    assert rounded.std() > 20 * output.scale[0]
    for kernels, largest, mean, agreement in (
        ("xnnpack", 1, 0.1, 0.99),
        ("fixed_point", 20, 4, 0.95),
    ):
        found = predict(LiteRTSession(tmp_path / "int8.tflite", 1, kernels), IMAGES, 50)
        steps = np.abs(found - rounded) / output.scale[0]
        assert steps.max() <= largest + 0.01, kernels
        assert steps.mean() <= mean, kernels
        assert (found.argmax(1) == rounded.argmax(1)).mean() >= agreement, kernels


def test_fp32_is_the_same_function(tmp_path):
    fp32, _ = write_models(tmp_path)
    (tmp_path / "fp32.tflite").write_bytes(tflite_bytes(read_graph(fp32)))
    session = LiteRTSession(tmp_path / "fp32.tflite", 1, "xnnpack")
    assert session.shape == IMAGES.shape
    found = predict(session, IMAGES, 30)
    expected = predict(OnnxRuntimeSession(fp32, threads=1), IMAGES, 30)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_input_and_output_are_int8_of_one_image_and_described_in_the_metadata(tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes(int8_tflite())
    model = load_tflite(path)
    graph = model.subgraphs[0]
    (first,), (last,) = graph.inputs, graph.outputs
    assert graph.tensors[first].shape.tolist() == [1, 32, 32, 3]
    assert graph.tensors[last].shape.tolist() == [1, 10]
    floats = {tensor.name for tensor in graph.tensors if tensor.type == schema.TensorType.FLOAT32}
    assert floats == set()

    (metadata,) = model.metadata
    said = json.loads(model.buffers[metadata.buffer].data)
    scale = graph.tensors[first].quantization.scale[0]
    assert said["classes"] == list(CLASSES)
    assert (said["input"]["layout"], said["input"]["type"]) == ("NHWC", "int8")
    assert said["input"]["scale"] == pytest.approx(scale)
    assert said["input"]["zero_point"] == -128  # a pixel of 0 is the smallest integer


def test_every_buffer_is_aligned_for_microcontrollers():
    model = schema.Model.GetRootAsModel(int8_tflite(), 0)
    starts = []
    for index in range(model.BuffersLength()):
        table = model.Buffers(index)._tab
        offset = table.Offset(4)  # of the first field, data
        starts += [table.Vector(offset)] if offset else []
    assert len(starts) > 10
    assert {start % ALIGNMENT for start in starts} == {0}


def test_a_file_that_is_read_and_written_again_has_the_same_bytes(tmp_path):
    (tmp_path / "int8.tflite").write_bytes(int8_tflite())
    assert packed(load_tflite(tmp_path / "int8.tflite")) == int8_tflite()


def test_main_writes_the_file_and_the_agreement_of_both_kinds_of_kernels(
    arguments, monkeypatch, capsys
):
    call(tflite, monkeypatch, **arguments)
    metrics = json.loads(arguments["metrics"].read_text())
    before = arguments["tflite"].read_bytes()
    assert metrics["size_bytes"] == len(before)
    assert metrics["images"] == 50
    for kernels in KERNELS:
        assert metrics[kernels]["agreement"] >= 90
        assert abs(metrics[kernels]["accuracy"] - metrics["onnxruntime_accuracy"]) <= 10
    assert len(capsys.readouterr().out.splitlines()) == 1
    call(tflite, monkeypatch, **arguments)
    assert arguments["tflite"].read_bytes() == before


@pytest.mark.parametrize("make", [residual, inverted_residual])
def test_main_writes_a_network_with_branches(arguments, monkeypatch, data_directory, make):
    images, _ = load_training_images(data_directory, DataParams(**DATA))
    write_int8(arguments["onnx"], make(), images[:100])
    write_params(arguments["params"], tflite={"min_agreement": 70})
    call(tflite, monkeypatch, **arguments)
    metrics = json.loads(arguments["metrics"].read_text())
    assert metrics["xnnpack"]["agreement"] >= 94
    assert metrics["size_bytes"] == len(arguments["tflite"].read_bytes())


def test_a_file_that_disagrees_is_not_written(arguments, monkeypatch):
    right = LiteRTSession.logits
    monkeypatch.setattr(LiteRTSession, "logits", lambda self, blob: -right(self, blob))
    with pytest.raises(
        InputError, match=r"xnnpack agrees .*fixed_point agrees .* tflite\.min_agreement: 90"
    ):
        call(tflite, monkeypatch, **arguments)
    assert not list(arguments["tflite"].parent.glob("*tflite*"))
    assert not arguments["metrics"].exists()


def test_kernels_that_disagree_are_named_and_the_others_go_on(arguments, monkeypatch, capsys):
    right = tflite.compare_kernels

    def compare(*args) -> dict[str, dict]:
        results = right(*args)
        results["fixed_point"]["agreement"] = 89.0
        return results

    monkeypatch.setattr(tflite, "compare_kernels", compare)
    call(tflite, monkeypatch, **arguments)
    metrics = json.loads(arguments["metrics"].read_text())
    assert list(metrics["wrong_here"]) == ["fixed_point"]
    assert "agrees with ONNX Runtime on 89 %" in metrics["wrong_here"]["fixed_point"]
    assert "fixed_point kernels agrees" in capsys.readouterr().out
    assert load_tflite(arguments["tflite"])


@pytest.mark.parametrize(("key", "limit"), [("calibration_images", 400), ("check_images", 100)])
def test_more_images_than_there_are_is_refused(arguments, monkeypatch, key, limit):
    write_params(arguments["params"], tflite={key: limit + 1})
    message = rf"tflite\.{key} is {limit + 1}; allowed: at most {limit}"
    with pytest.raises(InputError, match=message):
        call(tflite, monkeypatch, **arguments)


def write_graph(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Pixels to logits of the same shape, through ``nodes``."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 32, 32])
        for name in ("pixels", "logits")
    ]
    filters = helper.make_tensor("filters", TensorProto.FLOAT, [3, 3, 1, 1], [1.0] * 9)
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [filters])
    onnx.save(helper.make_model(graph), path)
    return path


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            [helper.make_node("Tanh", ["pixels"], ["logits"])],
            "Tanh .it makes 'logits'.*knows",
        ),
        ([helper.make_node("Relu", ["pixels"], ["logits"])], "Relu .*must follow Conv, Gemm, Add"),
        (
            [helper.make_node("Identity", ["pixels"], ["logits"])],
            "its last layer does not make 'logits'",
        ),
        (
            [helper.make_node("Conv", ["pixels", "filters"], ["logits"], dilations=[2, 2])],
            "Conv .*no dilation",
        ),
        (
            [helper.make_node("Add", ["pixels", "filters"], ["logits"])],
            "Add .*'filters', which it reads, is no activation",
        ),
    ],
)
def test_an_operator_that_cannot_be_converted_is_named_with_its_file(tmp_path, nodes, said):
    path = write_graph(tmp_path / "odd.onnx", *nodes)
    with pytest.raises(InputError, match=rf"odd\.onnx: {said}"):
        read_graph(path)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(int8_tflite()[:3000])
    with pytest.raises(InputError, match=r"damaged\.tflite: LiteRT refuses this model") as caught:
        LiteRTSession(damaged, threads=1, kernels="xnnpack")
    assert "\n" not in str(caught.value)
    damaged.write_bytes(b"no model at all")
    with pytest.raises(InputError, match=r"damaged\.tflite is no TFLite model; delete it"):
        load_tflite(damaged)
    with pytest.raises(InputError, match=r"none\.tflite is missing; run 'dvc repro'"):
        load_tflite(tmp_path / "none.tflite")

"""make jetson: INT8 as TensorRT takes it, FP16, and the table of both."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from deploy.classify import Classifier
from stages import export, quantize
from stages.common.core.cli import InputError
from stages.common.core.params import load_params, read_params
from stages.common.inference.export.check import precisions
from stages.common.inference.export.fp16 import in_fp16, in_fp32, with_rounded_activations
from stages.common.inference.int8.first_layer import centred
from stages.common.inference.int8.layers import named
from stages.common.inference.int8.quantizer import quantized
from stages.common.inference.int8.sensitivity import logits_of
from stages.common.inference.int8.tensorrt import refuse_what_tensorrt_refuses
from stages.common.inference.onnx_graph import cost_of, load_model, read_metadata
from stages.common.inference.params import ExportParams, QuantizeParams
from stages.common.inference.runtimes.agreement import logit_error, right_logits
from stages.jetson import table
from stages.validate_params import check
from tests import small_graphs
from tests.conftest import make_images
from tests.depthwise import depthwise_model
from tests.networks import (
    PARAMS,
    call,
    fp32_bytes,
    fp32_model,
    int8_model,
    write_checkpoint,
    write_params,
)

ROOT = Path(__file__).parent.parent
PRECISION = ROOT / "stages" / "jetson" / "precision.yaml"
MODELS = {"chain": fp32_model, "residual": small_graphs.residual, "depthwise": depthwise_model}
IMAGES = make_images(60)
OTHERS = make_images(100, seed=5)


def symmetric(model: ModelProto, **changes) -> ModelProto:
    params = {**PARAMS["quantize"], "symmetric": True, "reduce_range": False, **changes}
    return quantized(model, IMAGES, QuantizeParams(**params))


@pytest.fixture(scope="module", params=MODELS)
def fp32(request) -> ModelProto:
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def int8(fp32) -> ModelProto:
    return symmetric(fp32)


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def makers(model: ModelProto) -> dict[str, str]:
    """The operator that makes each tensor."""
    return {name: node.op_type for node in model.graph.node for name in node.output}


# --------------------------------------------------------------------------------- symmetric INT8


def test_every_integer_is_int8_around_zero_and_biases_stay_fp32(int8):
    values = constants(int8)
    for node in int8.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_points = values[node.input[2]]
            assert zero_points.dtype == np.int8
            assert not zero_points.any()
    layers = [node for node in int8.graph.node if node.op_type in ("Conv", "Gemm")]
    biases = [values[node.input[2]] for node in layers if len(node.input) > 2]
    assert len(biases) > 3
    assert all(bias.dtype == np.float32 for bias in biases)


def test_weights_are_int8_with_a_scale_for_each_output_channel(int8):
    values = constants(int8)
    dequantized = {
        node.output[0]: node for node in int8.graph.node if node.op_type == "DequantizeLinear"
    }
    for node in int8.graph.node:
        if node.op_type == "Conv":
            weight, scales, _ = (values[name] for name in dequantized[node.input[1]].input)
            assert weight.dtype == np.int8
            assert weight.min() >= -127
            assert scales.shape == weight.shape[:1]


def test_operators_read_integers_and_write_reals_so_that_a_relu_is_fused(int8):
    """Both inputs of an Add are quantized, also that of the branch without a convolution."""
    made_by = makers(int8)
    for node in int8.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [made_by[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
        if node.op_type == "Add":
            assert {made_by[name] for name in node.input} == {"DequantizeLinear"}
        if node.op_type == "Relu":
            assert made_by[node.input[0]] in ("Conv", "Add")
    assert made_by["logits"] == "Gemm"


def test_symmetric_int8_is_as_near_to_fp32_as_int8(fp32, int8):
    expected = logits_of(fp32, OTHERS)
    usual = quantized(fp32, IMAGES, QuantizeParams(**PARAMS["quantize"]))

    found = logit_error(logits_of(int8, OTHERS), expected)

    assert found < 2 * logit_error(logits_of(usual, OTHERS), expected)


def test_the_runtimes_here_compute_the_symmetric_file(fp32, int8, tmp_path):
    path = tmp_path / "int8.onnx"
    path.write_bytes(int8.SerializeToString())

    logits, wrong = right_logits(path, OTHERS, ["classic", "new"], 10, logits_of(fp32, OTHERS))

    assert "onnxruntime" in logits
    assert {name for name in logits if name.startswith("opencv")}, wrong


def test_pixels_less_128_are_the_first_layers_integers():
    """Scale 1 and zero point 0, whatever the images: nothing is rounded or clipped."""
    int8 = symmetric(fp32_model())
    values = constants(int8)

    [difference] = [node for node in int8.graph.node if node.op_type == "Sub"]
    [quantize_pixels] = [node for node in int8.graph.node if difference.output[0] in node.input]

    assert values[difference.input[1]] == 128
    assert [values[name].item() for name in quantize_pixels.input[1:]] == [1, 0]


def test_centring_changes_no_logit_and_is_done_once():
    model = named(fp32_model())

    once = centred(model)
    twice = centred(once)

    assert once.graph.node[0].op_type == "Sub"
    np.testing.assert_allclose(logits_of(once, OTHERS), logits_of(model, OTHERS), atol=1e-3)
    assert twice.SerializeToString() == once.SerializeToString()


def test_a_padded_first_layer_is_not_centred_anew():
    model = named(small_graphs.residual())  # its border is the mean, 121

    assert centred(model).SerializeToString() == model.SerializeToString()


def test_another_mean_is_replaced_with_its_constant():
    net = small_graphs.Nodes()
    model = named(net.model(net.head(net.mean(net.first(8)), 8)))

    found = centred(model)

    assert [node.op_type for node in found.graph.node].count("Sub") == 1
    assert not any((value == small_graphs.MEAN).all() for value in constants(found).values())
    np.testing.assert_allclose(logits_of(found, OTHERS), logits_of(model, OTHERS), atol=1e-3)


def test_what_tensorrt_refuses_is_named_in_one_line():
    with pytest.raises(InputError, match=r"as u?int\d+ with the zero point .*TensorRT") as error:
        refuse_what_tensorrt_refuses(int8_model())
    assert "\n" not in str(error.value)


def test_the_file_states_that_it_is_symmetric_and_the_usual_one_does_not():
    stated = json.loads(read_metadata(symmetric(fp32_model()))["quantize"])

    assert (stated["symmetric"], stated["activation_type"]) == (True, "int8")
    assert "symmetric" not in json.loads(read_metadata(int8_model())["quantize"])


def test_equal_inputs_give_equal_symmetric_bytes(fp32, int8):
    assert symmetric(fp32).SerializeToString(deterministic=True) == int8.SerializeToString(
        deterministic=True
    )


# ------------------------------------------------------------------------------------------- FP16


def test_fp16_has_half_the_bytes_and_fp32_inputs_and_outputs(fp32):
    found = in_fp16(fp32)

    weights = cost_of(fp32).params
    assert found.ByteSize() - 2 * weights < 8_000
    types = [
        value.type.tensor_type.elem_type for value in [*found.graph.input, *found.graph.output]
    ]
    assert types == [TensorProto.FLOAT] * 2
    assert {value.dtype for value in constants(found).values()} <= {
        np.dtype(np.float16),
        np.dtype(np.int64),
    }
    assert cost_of(found).macs == cost_of(fp32).macs
    assert read_metadata(found) == read_metadata(fp32)


def test_fp16_computes_the_logits_of_fp32(fp32):
    expected = logits_of(fp32, OTHERS)
    found = in_fp16(fp32)

    assert logit_error(logits_of(found, OTHERS), expected) < 1
    assert logit_error(logits_of(in_fp32(found), OTHERS), expected) < 1


def test_what_fp16_arithmetic_costs_is_computed_where_no_runtime_has_it(fp32):
    found = in_fp16(fp32)
    stored = logits_of(in_fp32(found), OTHERS)

    error = logit_error(logits_of(with_rounded_activations(found), OTHERS), stored)

    assert 0.001 < error < 1


def test_a_runtime_that_computes_in_fp16_is_told_from_one_that_stores_it(tmp_path, monkeypatch):
    path = tmp_path / "fp16.onnx"
    path.write_bytes(in_fp16(fp32_model()).SerializeToString())
    rounded = logits_of(with_rounded_activations(load_model(path)), OTHERS)

    def logits_by_runtime(file, images, engines):
        stored = logits_of(load_model(file), images)
        return {"pc": stored, "gpu": rounded if file == path else stored}, {}

    monkeypatch.setattr("stages.common.inference.export.check.logits_by_runtime", logits_by_runtime)

    assert precisions(path, OTHERS) == {"pc": "fp32", "gpu": "fp16"}


def test_equal_models_give_equal_fp16_bytes(fp32):
    first, second = (in_fp16(fp32).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


# ------------------------------------------------------------------------------- stages and params


@pytest.fixture(scope="module")
def written(tmp_path_factory, data_directory) -> Path:
    """The folder of the chain's files as the stages write them, and of the JSON of each."""
    folder = tmp_path_factory.mktemp("jetson")
    (folder / "fp32.onnx").write_bytes(fp32_bytes())
    write_params(folder / "params.yaml")
    params = folder / "precision.yaml"
    params.write_text(PRECISION.read_text().replace("../../params.yaml", "params.yaml"))
    common = {"params": params, "data": data_directory}
    with pytest.MonkeyPatch.context() as patch:
        call(
            export,
            patch,
            **common,
            checkpoint=write_checkpoint(folder / "base.pt"),
            onnx=folder / "base_fp16.onnx",
            metrics=folder / "base_fp16.json",
        )
        call(
            quantize,
            patch,
            **common,
            resume=folder / "resume",
            onnx=folder / "fp32.onnx",
            int8=folder / "base_int8_symmetric.onnx",
            metrics=folder / "base_int8_symmetric.json",
        )
    return folder


def test_the_stages_write_what_the_changes_say_and_what_computes_it(written):
    fp16 = json.loads((written / "base_fp16.json").read_text())
    symmetric_int8 = json.loads((written / "base_int8_symmetric.json").read_text())

    right = [each for each in fp16.values() if isinstance(each, dict) and "computes_in" in each]
    assert right
    assert {each["computes_in"] for each in right} <= {"fp32", "fp16"}
    assert fp16["computed_in_fp16"]["max_logit_difference"] < 0.5
    assert fp16["size_bytes"] < 0.6 * len(fp32_bytes())
    refuse_what_tensorrt_refuses(load_model(written / "base_int8_symmetric.onnx"))
    assert symmetric_int8["onnxruntime"]["accuracy_drop"] <= 10


@pytest.mark.parametrize("name", ["base_fp16", "base_int8_symmetric"])
def test_a_device_classifies_with_these_files_as_they_say(written, name):
    pictures = [np.ascontiguousarray(each.transpose(1, 2, 0)[..., ::-1]) for each in OTHERS.pixels]
    cv2.imwrite(str(written / "one.png"), pictures[0])

    expected = logits_of(load_model(written / f"{name}.onnx"), OTHERS).argmax(1)
    found = Classifier(written / f"{name}.onnx").predict(pictures).argmax(1)
    program = [sys.executable, "-I", str(ROOT / "deploy" / "classify.py")]
    run = subprocess.run(
        [*program, str(written / f"{name}.onnx"), str(written / "one.png")],
        capture_output=True,
        text=True,
    )

    assert (found == expected).mean() >= 0.95
    assert run.returncode == 0, run.stderr
    left_out = [line for line in run.stderr.splitlines() if "left out" in line]
    assert all(re.match(r"engine left out: \w+: refuses the model \([^>]", it) for it in left_out)


def test_the_committed_params_are_accepted():
    export_params = load_params(ExportParams, PRECISION, "export")
    quantize_params = load_params(QuantizeParams, PRECISION, "quantize")

    assert export_params.precision == "fp16"
    assert quantize_params.symmetric
    assert quantize_params.activations == "int8"


@pytest.mark.parametrize(
    ("section", "key", "value"), [("export", "precision", "fp16"), ("quantize", "symmetric", True)]
)
def test_the_pipeline_itself_goes_on_with_fp32_and_usual_int8(section, key, value):
    content = read_params(ROOT / "params.yaml")
    content[section][key] = value

    with pytest.raises(InputError, match=rf"^{section}\.{key} is {value!r}, .*make jetson"):
        check(content, path="params.yaml")


# ------------------------------------------------------------------------------------------ table


def write_predictions(path: Path, predicted: str) -> None:
    """Of images that are all a."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["actual", "predicted"], *(["a", each] for each in predicted)])


def write_metrics(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def results(tmp_path) -> Path:
    predictions = {
        "plots/base": "aaaab",
        "plots/base_int8": "aaabb",
        "data/base_fp16": "aaaab",
        "data/base_int8_symmetric": "aabab",
    }
    for name, predicted in predictions.items():
        write_predictions(tmp_path / f"{name}.csv", predicted)
        own = name.startswith("data")
        folder = "metrics/jetson/test" if own else "metrics/evaluate"
        share = 100 * predicted.count("a") / len(predicted)
        block = {"accuracy": share, "size_bytes": 1234 if own else 5678}
        write_metrics(tmp_path / folder / f"{Path(name).name}.json", block)
    found = {"fp32_accuracy": 94.36, "int8_accuracy": 94.32}
    write_metrics(tmp_path / "metrics/quantize/base.json", {"onnxruntime": found, "size_bytes": 1})
    found = {"fp32_accuracy": 94.36, "int8_accuracy": 94.2}
    wrong = {"opencv_new": "refuses the file"}
    write_metrics(
        tmp_path / "metrics/jetson/base_int8_symmetric.json",
        {"onnxruntime": found, "wrong_here": wrong},
    )
    runtime = {"max_logit_difference": 0.02, "flipped_predictions": 1, "computes_in": "fp32"}
    rounded = {"max_logit_difference": 0.03, "flipped_predictions": 2}
    write_metrics(
        tmp_path / "metrics/jetson/base_fp16.json",
        {"onnxruntime": runtime, "computed_in_fp16": rounded, "images": 500},
    )
    return tmp_path


def write_table(folder: Path, monkeypatch) -> str:
    arguments = {
        "metrics": folder / "metrics",
        "predictions": folder / "plots",
        "jetson-predictions": folder / "data",
        "network": "base",
        "table": folder / "jetson.md",
    }
    call(table, monkeypatch, **arguments)
    return (folder / "jetson.md").read_text()


def test_the_table_has_each_file_beside_what_it_was_made_of(results, monkeypatch):
    lines = write_table(results, monkeypatch).splitlines()

    assert lines[2:6] == [
        "| base | 5,678 | 94.36 % | 80.00 % | 0 of 5 |",
        "| base_fp16 | 1,234 |  | 80.00 % | 0 of 5 |",
        "| base_int8 | 5,678 | 94.32 % | 60.00 % | 1 of 5 |",
        "| base_int8_symmetric | 1,234 | 94.20 % | 60.00 % | 1 of 5 |",
    ]


def test_the_table_says_what_symmetry_costs_and_what_computes_fp16(results, monkeypatch):
    text = write_table(results, monkeypatch)

    assert "+0.00 points on the test images; 1 are right in INT8 alone, 1 in the symmetric" in text
    assert "at most 0.02, 1 of 500 predictions" in text
    assert "with activations rounded to FP16: 0.03 and 2." in text
    assert "Here it is computed in FP32 by onnxruntime." in text
    assert "base_int8_symmetric: opencv_new refuses the file, and is left out." in text


def test_a_missing_file_is_named_with_its_remedy(results, monkeypatch):
    (results / "metrics/jetson/base_fp16.json").unlink()

    with pytest.raises(InputError, match=r"base_fp16\.json is missing; run 'make jetson'"):
        write_table(results, monkeypatch)

"""stages.quantize: INT8 that keeps the accuracy in every runtime, calibrated on training images."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from stages import quantize
from stages.common.core.cli import InputError
from stages.common.data.cifar10 import RECORD_BYTES, TEST_FILE, TRAIN_FILES
from stages.common.inference.int8.layers import layers_of
from stages.common.inference.int8.quantizer import ACTIVATION_TYPES, METHODS, quantized
from stages.common.inference.int8.sensitivity import logits_of, sensitivities, worst_first
from stages.common.inference.onnx_graph import cost_of, load_model, read_metadata
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes import agreement
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.expected import expected_metadata, sample_pictures
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.inference.sessions import BATCH_SIZE, predict
from tests.conftest import make_images
from tests.depthwise import depthwise_model
from tests.networks import PARAMS, call, fp32_bytes, fp32_model, int8_model, write_params

DEQUANTIZE = "DequantizeLinear"
RUNTIMES = ("onnxruntime", "opencv_classic", "opencv_new")


@pytest.fixture
def arguments(tmp_path, data_directory) -> dict[str, Path]:
    path = tmp_path / "model.onnx"
    path.write_bytes(fp32_bytes())
    return {
        "params": write_params(tmp_path / "params.yaml"),
        "data": data_directory,
        "resume": tmp_path / "resume",
        "onnx": path,
        "int8": tmp_path / "models" / "model_int8.onnx",
        "metrics": tmp_path / "metrics.json",
    }


def int8_with(**changes) -> onnx.ModelProto:
    params = QuantizeParams(**{**PARAMS["quantize"], **changes})
    return quantized(fp32_model(), make_images(100), params)


def test_main_writes_the_file_and_the_accuracy_that_it_costs(arguments, monkeypatch, capfd):
    call(quantize, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    for runtime in RUNTIMES:
        result = metrics[runtime]
        assert result["fp32_accuracy"] > 65
        assert abs(result["accuracy_drop"]) <= 10
        drop = result["fp32_accuracy"] - result["int8_accuracy"]
        assert result["accuracy_drop"] == pytest.approx(drop)
        assert result["flipped_predictions"] >= abs(result["accuracy_drop"])
    assert metrics["runtime_agreement"] >= 97
    assert metrics["calibration_images"] == 100
    sizes = [arguments[name].stat().st_size for name in ("int8", "onnx")]
    assert metrics["size_bytes"] == sizes[0]
    assert metrics["size_ratio_to_fp32"] == pytest.approx(sizes[0] / sizes[1], abs=1e-4)
    output = capfd.readouterr()
    assert len(output.out.splitlines()) == 1
    assert output.err == ""


def test_the_int8_file_holds_its_own_logits_where_the_fp32_file_does(arguments, monkeypatch):
    model = depthwise_model()
    pictures = sample_pictures(32, 32)
    unrounded = logits_of(model, pictures)
    onnx.helper.set_model_props(model, expected_metadata(unrounded, 0.01))
    arguments["onnx"].write_bytes(model.SerializeToString())
    write_params(arguments["params"], quantize={"max_accuracy_drop": 100.0, "logit_tolerance": 2})

    call(quantize, monkeypatch, **arguments)

    result = load_model(arguments["int8"])
    metadata = read_metadata(result)
    assert metadata.keys() == {"expected", "quantize"}
    expected = json.loads(metadata["expected"])
    found = logits_of(result, pictures)
    np.testing.assert_allclose(expected["logits"], found, rtol=1e-5, atol=1e-6)
    assert expected["tolerance"] == pytest.approx(logit_error(found, unrounded), rel=0.01)


def test_the_int8_file_of_a_chain_holds_none(arguments, monkeypatch):
    call(quantize, monkeypatch, **arguments)

    assert "expected" not in read_metadata(load_model(arguments["int8"]))


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_calibration_images_need_not_be_round(method):
    params = QuantizeParams(**{**PARAMS["quantize"], "calibration_method": method})
    images = make_images(BATCH_SIZE + 1)
    assert quantized(fp32_model(), images, params).graph.node


def test_equal_inputs_give_equal_bytes(arguments, monkeypatch):
    call(quantize, monkeypatch, **arguments)
    first = arguments["int8"].read_bytes()
    call(quantize, monkeypatch, **arguments)

    assert arguments["int8"].read_bytes() == first


def test_calibration_sees_neither_validation_nor_test_images(arguments, tmp_path, monkeypatch):
    call(quantize, monkeypatch, **arguments)
    expected = arguments["int8"].read_bytes()
    changed = shutil.copytree(arguments["data"], tmp_path / "changed")
    (changed / TEST_FILE).unlink()
    records = np.fromfile(changed / TRAIN_FILES[-1], np.uint8).reshape(-1, RECORD_BYTES)
    records[:, 1:] = 255  # these 100 images are the validation split
    records.tofile(changed / TRAIN_FILES[-1])
    write_params(arguments["params"], quantize={"calibration_images": 400})
    call(quantize, monkeypatch, **arguments)
    all_training_images = arguments["int8"].read_bytes()

    write_params(arguments["params"], quantize={"max_accuracy_drop": 100.0})
    call(quantize, monkeypatch, **{**arguments, "data": changed})
    assert weights_and_ranges(arguments["int8"]) == weights_and_ranges(expected)

    write_params(
        arguments["params"], quantize={"calibration_images": 400, "max_accuracy_drop": 100.0}
    )
    call(quantize, monkeypatch, **{**arguments, "data": changed})
    assert weights_and_ranges(arguments["int8"]) == weights_and_ranges(all_training_images)


def weights_and_ranges(model: Path | bytes) -> bytes:
    """The model without its metadata, which states the params."""
    content = model if isinstance(model, bytes) else model.read_bytes()
    return onnx.ModelProto.FromString(content).graph.SerializeToString(deterministic=True)


def test_more_calibration_images_than_training_images_are_refused(arguments, monkeypatch):
    write_params(arguments["params"], quantize={"calibration_images": 401})

    with pytest.raises(
        InputError, match=r"quantize\.calibration_images is 401; allowed: at most 400"
    ):
        call(quantize, monkeypatch, **arguments)


def distort(monkeypatch, names: tuple[str, ...]) -> None:
    """Sessions that negate the logits of the INT8 file in the named runtimes."""
    logits_by_runtime = agreement.logits_by_runtime

    def distorted(path, images, engines):
        logits, refused = logits_by_runtime(path, images, engines)
        return logits | {name: -logits[name] for name in names}, refused

    monkeypatch.setattr(agreement, "logits_by_runtime", distorted)


@pytest.mark.parametrize("wrong", RUNTIMES)
def test_a_runtime_that_computes_wrongly_is_recorded_and_the_others_go_on(
    arguments, monkeypatch, wrong, capsys
):
    distort(monkeypatch, (wrong,))

    call(quantize, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    assert list(metrics["wrong_here"]) == [wrong]
    assert metrics["wrong_here"][wrong].startswith("computes logits that are 2e+02 % off")
    assert {name for name in RUNTIMES if name in metrics} == set(RUNTIMES) - {wrong}
    assert arguments["int8"].exists()
    assert f"{wrong} is wrong here and left out: it computes" in capsys.readouterr().out


def test_no_runtime_that_is_right_is_refused_in_one_line_and_no_file_stays(arguments, monkeypatch):
    distort(monkeypatch, RUNTIMES)

    with pytest.raises(
        InputError, match=r"^no runtime is right here: onnxruntime computes"
    ) as error:
        call(quantize, monkeypatch, **arguments)

    assert "\n" not in str(error.value)
    assert list(arguments["int8"].parent.iterdir()) == []
    assert not arguments["metrics"].exists()


def test_nothing_new_is_said_where_all_runtimes_are_right(arguments, monkeypatch):
    call(quantize, monkeypatch, **arguments)

    assert list(json.loads(arguments["metrics"].read_text())) == [
        *RUNTIMES,
        "runtime_agreement",
        "calibration_images",
        "size_bytes",
        "size_ratio_to_fp32",
    ]


def test_int8_that_loses_too_much_is_refused_and_no_file_stays(arguments, monkeypatch):
    monkeypatch.setattr(quantize, "quantized", lambda *_: with_negated_head(int8_model()))

    with pytest.raises(
        InputError, match=r"loses \S+ points of accuracy in \S+; .*max_accuracy_drop: 10; try"
    ):
        call(quantize, monkeypatch, **arguments)

    assert list(arguments["int8"].parent.iterdir()) == []
    assert not arguments["metrics"].exists()


def with_negated_head(model: onnx.ModelProto) -> onnx.ModelProto:
    [alpha] = [each for each in model.graph.node[-1].attribute if each.name == "alpha"]
    alpha.f = -1.0
    return model


def test_a_runtime_that_is_wrong_for_the_fp32_file_is_no_measure_of_int8(
    arguments, tmp_path, monkeypatch
):
    check = tmp_path / "check.json"
    check.write_text(json.dumps({"wrong_here": {"opencv_new": "differs"}}))
    logits_by_runtime = quantize.logits_by_runtime

    def distorted(path, images, engines):
        logits, refused = logits_by_runtime(path, images, engines)
        return logits | {"opencv_new": -logits["opencv_new"]}, refused

    monkeypatch.setattr(quantize, "logits_by_runtime", distorted)

    call(quantize, monkeypatch, **arguments, check=check)

    metrics = json.loads(arguments["metrics"].read_text())
    assert metrics["opencv_new"]["fp32_accuracy"] == metrics["onnxruntime"]["fp32_accuracy"]


def with_outlier(name: str) -> onnx.ModelProto:
    """The FP32 model with one huge weight in each filter of a layer, that meets only zeros: INT8
    leaves nothing of that layer's other weights.
    """
    model = fp32_model()
    spoil_input_channel(model, name)
    return model


def spoil_input_channel(model: onnx.ModelProto, name: str) -> None:
    """Channel 0 of the layer's input becomes 0, and the weights that read it huge."""
    nodes = {node.input[1]: node for node in model.graph.node if node.op_type == "Conv"}
    convolutions = list(nodes)
    before = nodes[convolutions[convolutions.index(f"{name}.weight") - 1]]
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        if tensor.name in before.input[1:]:
            value[0] = 0
        elif tensor.name == f"{name}.weight":
            value[:, 0] = 1000
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def test_sensitivity_finds_the_layer_that_int8_destroys():
    params = QuantizeParams(**PARAMS["quantize"])
    model = with_outlier("block2_conv2")

    found = sensitivities(model, make_images(50), make_images(100, seed=5), params)

    assert [each.layer for each in found] == [layer.name for layer in layers_of(model)]
    assert worst_first(found)[0] == "block2_conv2"
    by_layer = {each.layer: each for each in found}
    assert by_layer["block2_conv2"].accuracy_drop > 30
    assert by_layer["block2_conv2"].logit_error > 50
    assert by_layer["block2_conv2"].operator == "Conv"
    assert by_layer["head"].operator == "Gemm"
    others = [each.logit_error for each in found if each.layer != "block2_conv2"]
    assert max(others) < by_layer["block2_conv2"].logit_error / 2


def test_sensitivity_leaves_out_what_is_excluded():
    params = QuantizeParams(**{**PARAMS["quantize"], "exclude": ["whitening", "head"]})

    found = sensitivities(fp32_model(), make_images(50), make_images(50), params)

    assert [each.layer for each in found][0] == "block1_conv1"
    assert len(found) == 6


def test_repair_excludes_the_layer_that_costs_most_and_says_so(arguments, monkeypatch, capsys):
    arguments["onnx"].write_bytes(with_outlier("block2_conv2").SerializeToString())
    with pytest.raises(InputError, match=r"loses .* or quantize\.repair: greedy"):
        call(quantize, monkeypatch, **arguments)
    write_params(arguments["params"], quantize={"repair": "greedy"})
    capsys.readouterr()

    call(quantize, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    assert metrics["excluded"] == ["block2_conv2"]
    assert all(metrics[name]["accuracy_drop"] <= 10 for name in RUNTIMES if name in metrics)
    metadata = read_metadata(load_model(arguments["int8"]))
    assert json.loads(metadata["quantize"])["exclude"] == ["block2_conv2"]
    repair = capsys.readouterr().out.splitlines()[0]
    assert repair.startswith("repair: block2_conv2 stays FP32, which costs time (see benchmark)")


def test_repair_changes_nothing_where_the_drop_is_met(arguments, monkeypatch):
    call(quantize, monkeypatch, **arguments)
    expected = arguments["int8"].read_bytes()
    write_params(arguments["params"], quantize={"repair": "greedy"})
    call(quantize, monkeypatch, **arguments)

    assert arguments["int8"].read_bytes() == expected
    assert "excluded" not in json.loads(arguments["metrics"].read_text())


def test_repair_that_does_not_help_is_refused_and_no_file_stays(arguments, monkeypatch):
    write_params(arguments["params"], quantize={"repair": "greedy", "max_accuracy_drop": 0})
    monkeypatch.setattr(
        quantize,
        "losses",
        lambda fp32, int8, labels: {name: {"accuracy_drop": 3.0} for name in int8},
    )

    with pytest.raises(InputError, match="loses 3 points of accuracy in onnxruntime"):
        call(quantize, monkeypatch, **arguments)

    assert list(arguments["int8"].parent.iterdir()) == []


def test_each_engine_is_used_for_a_depthwise_network_just_where_it_is_right(
    arguments, tmp_path, monkeypatch
):
    """Where this processor's kernel is wrong, OpenCV's new engine is left out."""
    arguments["onnx"].write_bytes(depthwise_model().SerializeToString())
    write_params(arguments["params"], quantize={"max_accuracy_drop": 100.0})

    call(quantize, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    wrong = metrics.get("wrong_here", {})
    assert "onnxruntime" not in wrong
    images = make_images(50, seed=3)
    expected = predict(OnnxRuntimeSession(arguments["int8"], 1, optimized=False), images, 50)
    for engine in ("classic", "new"):
        session = OpenCVSession(arguments["int8"], engine=engine, threads=1)
        is_right = logit_error(predict(session, images, 50), expected) <= 10
        assert is_right == (f"opencv_{engine}" not in wrong)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation_type", ACTIVATION_TYPES)
def test_every_way_to_quantize_keeps_the_accuracy_in_both_runtimes(
    tmp_path, method, activation_type, capfd
):
    path = tmp_path / "int8.onnx"
    model = int8_with(calibration_method=method, activation_type=activation_type)
    path.write_bytes(model.SerializeToString())
    images = make_images(100, seed=5)

    for session in (
        OnnxRuntimeSession(path, threads=1),
        OpenCVSession(path, engine="new", threads=1),
    ):
        assert (predict(session, images, 50).argmax(1) == images.labels).mean() > 0.65
    assert capfd.readouterr() == ("", "")


def test_onnx_runtime_fuses_the_graph_into_int8_operators(tmp_path):
    path, optimized = tmp_path / "int8.onnx", tmp_path / "optimized.onnx"
    path.write_bytes(int8_model().SerializeToString())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    operators = [node.op_type for node in onnx.load(optimized).graph.node]

    assert operators.count("QLinearConv") == 7
    assert operators.count("QGemm") == 1
    assert operators.count("QuantizeLinear") == 1  # the pixels
    assert not {"Conv", "Gemm", "DequantizeLinear"} & set(operators)


@pytest.mark.parametrize(("reduce_range", "largest"), [(True, 64), (False, 127)])
def test_reduce_range_keeps_weights_to_7_bits(reduce_range, largest):
    model = int8_with(reduce_range=reduce_range)
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
    ]

    assert len(weights) == 8
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == largest


def test_weights_have_one_scale_for_each_output_channel():
    initializers = {tensor.name: tensor for tensor in int8_model().graph.initializer}
    pairs = [
        (initializers[node.input[0]].dims[0], list(initializers[node.input[1]].dims))
        for node in int8_model().graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in initializers
    ]

    assert len(pairs) == 8 + 7  # weights and biases
    assert all(scales == [channels] for channels, scales in pairs)


def test_the_file_is_at_most_8_kb_larger_than_its_weights():
    overhead = int8_model().ByteSize() - cost_of(int8_model()).params

    assert overhead < 8_000


def test_the_int8_file_keeps_the_metadata_of_the_fp32_file():
    metadata = read_metadata(int8_model())

    unsaid = ("exclude", "logit_tolerance", "repair", "symmetric", "aware_")
    values = {key: value for key, value in PARAMS["quantize"].items() if not key.startswith(unsaid)}
    assert json.loads(metadata.pop("quantize")) == values
    assert metadata == read_metadata(fp32_model())


@pytest.mark.parametrize("name", ["block2_conv1", "node_conv2d_3", "conv2d_3"])
def test_an_excluded_layer_stays_fp32_by_any_of_its_names(name):
    model = int8_with(exclude=[name])

    dequantized = {node.output[0] for node in model.graph.node if node.op_type == DEQUANTIZE}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [node.input[1] in dequantized for node in convolutions] == [True] * 3 + [False] + [
        True
    ] * 3
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    original = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in fp32_model().graph.initializer
    }
    weight = constants[convolutions[3].input[1]]
    np.testing.assert_array_equal(weight, original["block2_conv1.weight"])


def test_the_first_layer_is_not_rounded_where_it_stays_fp32(tmp_path):
    model = int8_with(exclude=["whitening"])

    first = next(node for node in model.graph.node if node.op_type == "Conv")
    assert first.input[0] == "pixels"
    [weight] = [
        numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name == first.input[1]
    ]
    [original] = [
        numpy_helper.to_array(tensor)
        for tensor in fp32_model().graph.initializer
        if tensor.name == "whitening.weight"
    ]
    np.testing.assert_array_equal(weight, original)


def test_a_padded_first_layer_is_rounded_too():
    model = depthwise_model()
    first = model.graph.node[0]
    [pads] = [each for each in first.attribute if each.name == "pads"]
    pads.ints[:] = [1, 1, 1, 1]
    weight = numpy_helper.to_array(model.graph.initializer[0])

    params = QuantizeParams(**PARAMS["quantize"])
    result = quantized(model, make_images(20), params)

    [found] = [
        numpy_helper.to_array(tensor)
        for tensor in result.graph.initializer
        if list(tensor.dims) == list(weight.shape)
    ]
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 64
    assert np.abs(found - np.round(weight / scale)).max() <= 1


def test_the_file_says_which_layers_stay_fp32():
    metadata = read_metadata(int8_with(exclude=["head"]))

    assert json.loads(metadata["quantize"])["exclude"] == ["head"]


def test_an_unknown_layer_is_refused_with_the_nearest_name():
    with pytest.raises(
        InputError,
        match=r"^quantize\.exclude: the network has no layer 'block2_con'; nearest: 'blo",
    ):
        int8_with(exclude=["block2_con"])


def test_excluding_every_layer_is_refused():
    names = [layer.name for layer in layers_of(fp32_model())]

    assert names[0] == "whitening"
    assert names[-1] == "head"
    with pytest.raises(InputError, match=r"^quantize\.exclude names every layer"):
        int8_with(exclude=names)


def test_channels_of_zeros_quantize_to_zeros(tmp_path):
    model = fp32_model()
    for tensor in model.graph.initializer:
        if tensor.name == "block2_conv1.weight":
            weight = numpy_helper.to_array(tensor).copy()
            weight[:5] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    fp32, int8 = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    fp32.write_bytes(model.SerializeToString())
    params = QuantizeParams(**PARAMS["quantize"])
    int8.write_bytes(quantized(model, make_images(100), params).SerializeToString())

    before, after = cost_of(load_model(fp32)), cost_of(load_model(int8))
    assert after.nonzero_params <= before.nonzero_params == before.params - 5 * 8 * 9
    logits = [predict(OnnxRuntimeSession(path, 1), make_images(50), 50) for path in (fp32, int8)]
    assert np.abs(logits[0] - logits[1]).max() < 0.2 * np.abs(logits[0]).max()


def test_a_missing_model_is_named(arguments, monkeypatch):
    arguments["onnx"].unlink()

    with pytest.raises(InputError, match=r"model\.onnx is missing; run 'dvc repro'"):
        call(quantize, monkeypatch, **arguments)


def test_without_opencvs_classic_engine_the_others_are_compared(arguments, monkeypatch, capsys):
    """OpenCV has removed it after 5.0.0."""
    monkeypatch.delattr(cv2.dnn, "ENGINE_CLASSIC", raising=False)
    call(quantize, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    assert {"onnxruntime", "opencv_new"} <= metrics.keys()
    assert "opencv_classic" not in metrics
    left_out, done = capsys.readouterr().out.splitlines()
    assert left_out.endswith("has no engine 'classic'; it is left out")

"""stages.export: the ONNX file is the network, on every runtime and in every clone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stages import export
from stages.common.building.checkpoint import save_checkpoint
from stages.common.core.cli import InputError
from stages.common.data.cifar10 import CLASSES
from stages.common.inference.export import check
from stages.common.inference.export.folding import folded
from stages.common.inference.onnx_graph import load_model, read_metadata
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.expected import sample_pictures
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.inference.sessions import predict
from stages.common.network.chain import Chain
from tests.conftest import make_images
from tests.networks import (
    CONFIG,
    PROVENANCE,
    call,
    fp32_bytes,
    fp32_model,
    random_network,
    write_checkpoint,
    write_params,
)
from tests.own_networks import FACTORIES, imported


@pytest.fixture
def arguments(tmp_path, data_directory) -> dict[str, Path]:
    return {
        "params": write_params(tmp_path / "params.yaml"),
        "data": data_directory,
        "checkpoint": write_checkpoint(tmp_path / "base.pt"),
        "onnx": tmp_path / "models" / "model.onnx",
        "metrics": tmp_path / "metrics.json",
    }


@pytest.mark.parametrize("widths", [CONFIG["widths"], [[4], [4, 8], [8], [8, 8, 8]], [[8]]])
def test_folding_changes_nothing(widths):
    torch.manual_seed(1)
    network = Chain({"widths": widths, "classes": 10})
    torch.nn.init.normal_(network.whitening.weight, std=0.3)
    torch.nn.init.normal_(network.whitening.bias)
    torch.nn.init.normal_(network.head.weight)
    pixels = torch.from_numpy(make_images(20).pixels).float()
    with torch.inference_mode():
        for block in network.blocks:
            for norm in block.norms:
                torch.nn.init.normal_(norm.bias)
        for _ in range(3):
            network.train()(pixels)
        expected = network.eval()(pixels)

        torch.testing.assert_close(folded(network, size=32)(pixels), expected, atol=1e-4, rtol=0)


def test_folding_leaves_the_network_as_it_was():
    network = random_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    folded(network, size=32)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert next(network.parameters()).dtype == torch.float32


def test_the_graph_is_a_chain_of_operators_that_every_compiler_knows():
    operators = [node.op_type for node in fp32_model().graph.node]

    convolutions = ["Conv", "Relu", "MaxPool", "Conv", "Relu"]
    assert operators == ["Conv", "Relu", *3 * convolutions, "MaxPool", "Flatten", "Gemm"]


def test_the_batch_is_dynamic_and_input_and_output_are_named():
    graph = fp32_model().graph
    (pixels,), (logits,) = graph.input, graph.output

    assert (pixels.name, logits.name) == ("pixels", "logits")
    assert [dim.dim_value for dim in pixels.type.tensor_type.shape.dim] == [0, 3, 32, 32]
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [0, 10]


def test_main_writes_the_file_and_the_difference_of_each_runtime(arguments, monkeypatch, capsys):
    call(export, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    for runtime in ("onnxruntime", "opencv_classic", "opencv_new"):
        assert metrics[runtime]["max_logit_difference"] < 1e-3
        assert metrics[runtime]["flipped_predictions"] == 0
    assert metrics["images"] == 50
    assert metrics["size_bytes"] == arguments["onnx"].stat().st_size
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_file_has_classes_widths_input_and_provenance_as_metadata(arguments, monkeypatch):
    call(export, monkeypatch, **arguments)

    metadata = {
        key: json.loads(value)
        for key, value in read_metadata(load_model(arguments["onnx"])).items()
    }
    assert metadata["classes"] == list(CLASSES)
    assert metadata["widths"] == CONFIG["widths"]
    assert metadata["provenance"] == PROVENANCE
    assert metadata["input"] == {
        "name": "pixels",
        "layout": "NCHW",
        "channels": "RGB",
        "size": [32, 32],
        "type": "float32",
        "range": [0, 255],
    }


def test_equal_checkpoints_give_equal_bytes_without_paths_or_source(arguments, monkeypatch):
    call(export, monkeypatch, **arguments)

    assert arguments["onnx"].read_bytes() == fp32_bytes()
    for text in (b"/", b".py", b"forward", b"pkg.torch", b"+cu", b"+cpu"):
        assert text not in strings_of(arguments["onnx"]), text


def strings_of(path: Path) -> bytes:
    """The file without its weights, whose bytes may be any."""
    model = load_model(path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model.SerializeToString()


def test_runtimes_all_beyond_the_tolerance_are_named_and_no_file_stays(arguments, monkeypatch):
    write_params(arguments["params"], export={"logit_tolerance": 0})

    with pytest.raises(
        InputError, match=r"differs from PyTorch by \S+ in a logit; allowed .*logit_tolerance: 0;"
    ):
        call(export, monkeypatch, **arguments)

    assert list(arguments["onnx"].parent.iterdir()) == []
    assert not arguments["metrics"].exists()


@pytest.mark.parametrize("how", ["wrong", "refused"])
def test_one_runtime_that_is_wrong_is_recorded_and_the_others_go_on(
    arguments, monkeypatch, capsys, how
):
    logits_by_runtime = check.logits_by_runtime

    def distorted(path, images, engines):
        logits, refused = logits_by_runtime(path, images, engines)
        if how == "wrong":
            logits["opencv_new"] = np.full_like(logits["opencv_new"], np.nan)
        else:
            del logits["opencv_new"]
            refused = {"opencv_new": "refuses the file"}
        return logits, refused

    monkeypatch.setattr(check, "logits_by_runtime", distorted)
    call(export, monkeypatch, **arguments)

    why = {"wrong": "differs from PyTorch by nan in a logit", "refused": "refuses the file"}[how]
    assert json.loads(arguments["metrics"].read_text())["wrong_here"] == {"opencv_new": why}
    wrong, done = capsys.readouterr().out.splitlines()
    assert wrong == f"opencv_new is wrong here and left out: it {why}"
    assert "nan" not in done


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_network_of_a_factory_is_exported_with_its_own_names(
    arguments, monkeypatch, capsys, factory
):
    name = f"tests.own_networks:{factory}"
    network = imported(factory)
    save_checkpoint(arguments["checkpoint"], network, PROVENANCE)
    write_params(arguments["params"], network={"factory": name})

    call(export, monkeypatch, **arguments)

    model = load_model(arguments["onnx"])
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"0.weight", f"{len(network.body) - 1}.weight"} <= names
    assert not [each for each in names if each.startswith("body.")]
    metadata = read_metadata(model)
    assert json.loads(metadata["network"]) == {"factory": name, "arguments": {}}
    assert "widths" not in metadata
    metrics = json.loads(arguments["metrics"].read_text())
    assert "wrong_here" not in metrics
    assert metrics["onnxruntime"]["max_logit_difference"] < 1e-3


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_file_holds_the_logits_of_synthetic_pictures_and_each_runtime_meets_them(
    arguments, monkeypatch, factory
):
    save_checkpoint(arguments["checkpoint"], imported(factory), PROVENANCE)
    write_params(arguments["params"], network={"factory": f"tests.own_networks:{factory}"})

    call(export, monkeypatch, **arguments)

    expected = json.loads(read_metadata(load_model(arguments["onnx"]))["expected"])
    logits = np.array(expected["logits"])
    assert logits.shape == (4, 10)
    assert 0 < expected["tolerance"] < 1
    for session in (
        OnnxRuntimeSession(arguments["onnx"], 1, optimized=False),
        OnnxRuntimeSession(arguments["onnx"], 1),
        OpenCVSession(arguments["onnx"], "classic", 1),
        OpenCVSession(arguments["onnx"], "new", 1),
    ):
        found = predict(session, sample_pictures(32, 32), 4)
        assert logit_error(found, logits) <= expected["tolerance"] / 5


def test_the_files_tolerance_is_that_of_the_check_in_percent():
    model = imported("residual")
    [value] = check.answers(model, tolerance=0.1).values()
    logits = check.pytorch_logits(model, sample_pictures(32, 32))
    allowed = check.allowed(0.1, logits)
    signs = np.where(np.arange(10) % 2, 1, -1)  # without a mean, which decides nothing

    error = logit_error(logits + allowed * signs, logits)

    assert json.loads(value)["tolerance"] == pytest.approx(error, rel=0.01)


def test_a_network_whose_logits_are_all_equal_holds_none():
    model = imported("residual")
    torch.nn.init.zeros_(model.output_layer().weight)
    torch.nn.init.zeros_(model.output_layer().bias)

    assert check.answers(model, tolerance=0.1) == {}


def test_the_chains_file_holds_none():
    assert "expected" not in read_metadata(fp32_model())
    assert check.answers(random_network(), tolerance=0.1) == {}


@pytest.mark.parametrize(("largest", "is_wrong"), [(9.0, True), (40.0, False)])
def test_a_larger_logit_may_differ_by_more(largest, is_wrong):
    expected = np.array([[largest, 0.0]])
    results = {"opencv_new": check.differences(expected + 0.003, expected)}

    wrong = check.wrong_runtimes(results, check.allowed(0.001, expected))

    assert bool(wrong) == is_wrong


def test_differences_are_the_largest_logit_and_the_changed_predictions():
    expected = np.array([[1.0, 2.0], [3.0, 0.0]])

    found = check.differences(np.array([[1.0, 2.5], [3.0, 3.1]]), expected)

    assert found == {"max_logit_difference": 3.1, "flipped_predictions": 1}


def test_more_check_images_than_validation_images_are_refused(arguments, monkeypatch):
    write_params(arguments["params"], export={"check_images": 101})

    with pytest.raises(InputError, match=r"export\.check_images is 101; allowed: at most 100"):
        call(export, monkeypatch, **arguments)


def test_without_opencvs_classic_engine_the_others_are_compared(arguments, monkeypatch, capsys):
    """OpenCV has removed it after 5.0.0."""
    monkeypatch.delattr(cv2.dnn, "ENGINE_CLASSIC", raising=False)
    call(export, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    assert {"onnxruntime", "opencv_new"} <= metrics.keys()
    assert "opencv_classic" not in metrics
    left_out, done = capsys.readouterr().out.splitlines()
    assert left_out.endswith("has no engine 'classic'; it is left out")

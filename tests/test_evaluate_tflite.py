"""stages.evaluate_tflite: accuracy in LiteRT, and its agreement with the other runtimes."""

import json
from pathlib import Path

import numpy as np
import pytest

from stages import evaluate_tflite
from stages.common.core.cli import InputError
from stages.common.core.files import write_csv
from stages.common.data.cifar10 import CLASSES
from stages.common.data.dataset import load_test_images
from stages.common.inference.runtimes.litert import LiteRTSession
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import predict
from stages.common.inference.tflite.file import write_none
from tests.conftest import make_images
from tests.networks import call, int8_tflite, write_models


def write_predictions(path: Path, labels: np.ndarray, predictions: np.ndarray) -> None:
    rows = [
        {"actual": CLASSES[label], "predicted": CLASSES[prediction]}
        for label, prediction in zip(labels, predictions, strict=True)
    ]
    write_csv(path, rows, header=["actual", "predicted"])


@pytest.fixture
def arguments(tmp_path, data_directory) -> dict[str, Path]:
    found = {
        "data": data_directory,
        "tflite": tmp_path / "int8.tflite",
        "onnx": write_models(tmp_path)[1],
        "predictions": tmp_path / "predictions.csv",
        "metrics": tmp_path / "metrics.json",
    }
    found["tflite"].write_bytes(int8_tflite())
    return found


def test_main_writes_accuracy_and_agreement_on_the_test_images(arguments, monkeypatch, capsys):
    images = load_test_images(arguments["data"])
    found = predict(LiteRTSession(arguments["tflite"], 1, "xnnpack"), images, 50).argmax(1)
    other = predict(OnnxRuntimeSession(arguments["onnx"], 1), images, 50).argmax(1)
    opencv = found.copy()
    opencv[:3] = (opencv[:3] + 1) % 10  # three that differ
    write_predictions(arguments["predictions"], images.labels, opencv)

    call(evaluate_tflite, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    assert metrics["accuracy"] == (found == images.labels).sum() > 65  # of 100 images
    assert metrics["agreement_opencv"] == 97
    assert metrics["agreement_onnxruntime"] == (found == other).sum() >= 98
    assert metrics["size_bytes"] == len(int8_tflite())
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_tie_is_counted_and_its_first_class_is_the_prediction():
    litert = np.array([[0.5, 0.5, 0.1], [0.2, 0.3, 0.4], [0.1, 0.6, 0.6]])
    images = make_images(3)  # of the classes 0, 1 and 2
    metrics = evaluate_tflite.metrics_of(litert, litert, np.array([0, 2, 2]), images)
    assert metrics["tied_predictions"] == 2
    assert metrics["accuracy"] == 33.0  # of three images
    assert metrics["accuracy_low"] < 33 < metrics["accuracy_high"]
    assert metrics["agreement_opencv"] == 67.0


def test_predictions_of_other_images_are_refused(arguments, monkeypatch):
    labels = load_test_images(arguments["data"]).labels
    write_predictions(arguments["predictions"], labels[1:], labels[1:])
    with pytest.raises(InputError, match=r"predictions\.csv is of other images"):
        call(evaluate_tflite, monkeypatch, **arguments)
    arguments["predictions"].unlink()
    with pytest.raises(InputError, match=r"predictions\.csv is missing; run 'dvc repro evaluate'"):
        call(evaluate_tflite, monkeypatch, **arguments)
    assert not arguments["metrics"].exists()


def test_a_network_without_a_tflite_file_is_passed_over_with_the_reason(
    arguments, monkeypatch, capsys
):
    write_none(arguments["tflite"], "Sigmoid cannot be converted")
    call(evaluate_tflite, monkeypatch, **arguments)
    assert json.loads(arguments["metrics"].read_text()) == {
        "unsupported": "Sigmoid cannot be converted"
    }
    assert "not there: Sigmoid cannot be converted" in capsys.readouterr().out

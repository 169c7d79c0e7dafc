"""stages.evaluate: accuracy and counts, with the same keys for every model."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages import evaluate
from stages.common.core.cli import InputError
from stages.common.data.cifar10 import CLASSES
from stages.common.data.dataset import load_test_images
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.inference.sessions import predict
from tests.conftest import make_images
from tests.networks import call, fp32_model, write_models, write_params


@pytest.fixture
def arguments(tmp_path, data_directory) -> dict[str, Path]:
    return {
        "params": write_params(tmp_path / "params.yaml"),
        "data": data_directory,
        "onnx": write_models(tmp_path)[0],
        "metrics": tmp_path / "metrics.json",
        "predictions": tmp_path / "predictions.csv",
    }


def test_accuracy_is_that_of_the_predictions_by_hand():
    images = make_images(30)
    images.labels.sort()
    predictions = images.labels.copy()
    predictions[[0, 1, 5]] = 9  # two of the airplanes, one of the automobiles

    metrics = evaluate.prediction_metrics(predictions, images)

    assert metrics["accuracy"] == 90.0
    assert metrics["images"] == 30
    expected = dict.fromkeys(CLASSES, 100.0) | {"airplane": 33.0, "automobile": 67.0}
    assert metrics["class_accuracy"] == expected
    assert "balanced_accuracy" not in metrics  # three of each class


def test_uneven_classes_have_a_balanced_accuracy_and_the_number_of_their_images():
    images = make_images(100)
    kept = images[np.flatnonzero((images.labels != 3) | (np.arange(100) < 20))]  # 2 of 10 cats
    predictions = np.where(kept.labels == 3, 0, kept.labels)

    metrics = evaluate.prediction_metrics(predictions, kept)

    assert metrics["accuracy"] == 98.0  # 90 of 92
    assert metrics["balanced_accuracy"] == 90.0
    assert metrics["balanced_accuracy_low"] < 90 < metrics["balanced_accuracy_high"]
    assert metrics["class_images"] == dict.fromkeys(CLASSES, 10) | {"cat": 2}


def test_main_writes_predictions_in_test_order_and_their_accuracy(arguments, monkeypatch, capsys):
    images = load_test_images(arguments["data"])
    session = OpenCVSession(arguments["onnx"], engine="new", threads=1)
    expected = predict(session, images, batch_size=64).argmax(1)

    call(evaluate, monkeypatch, **arguments)

    with open(arguments["predictions"]) as file:
        rows = list(csv.DictReader(file))
    assert [row["actual"] for row in rows] == [CLASSES[label] for label in images.labels]
    assert [row["predicted"] for row in rows] == [CLASSES[index] for index in expected]
    right = sum(row["actual"] == row["predicted"] for row in rows)
    metrics = json.loads(arguments["metrics"].read_text())
    assert metrics["accuracy"] == right > 65  # of 100 images
    assert metrics["size_bytes"] == arguments["onnx"].stat().st_size
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_fp32_and_int8_have_the_same_keys(arguments, monkeypatch):
    fp32 = evaluated(arguments, monkeypatch, "fp32.onnx")
    int8 = evaluated(arguments, monkeypatch, "int8.onnx")

    assert list(fp32) == list(int8)
    assert list(fp32["class_accuracy"]) == list(int8["class_accuracy"]) == list(CLASSES)
    assert set(fp32) == {
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "class_accuracy",
        "class_accuracy_low",
        "class_accuracy_high",
        "images",
        "size_bytes",
        "params",
        "nonzero_params",
        "macs",
        "peak_activation_bytes",
    }


def evaluated(arguments, monkeypatch, name: str) -> dict:
    call(evaluate, monkeypatch, **{**arguments, "onnx": arguments["onnx"].with_name(name)})
    return json.loads(arguments["metrics"].read_text())


def test_a_missing_model_is_named(arguments, monkeypatch):
    arguments["onnx"].unlink()

    with pytest.raises(InputError, match=r"fp32\.onnx is missing; run 'dvc repro'"):
        call(evaluate, monkeypatch, **arguments)


def test_an_engine_that_refuses_the_model_is_named_and_nothing_is_written(arguments, monkeypatch):
    model = fp32_model()
    model.graph.node[1].op_type = "Fancy"
    arguments["onnx"].write_bytes(model.SerializeToString())
    write_params(arguments["params"], evaluate={"engine": "new"})

    with pytest.raises(InputError, match=r"the engine 'new' of OpenCV .*evaluate\.engine"):
        call(evaluate, monkeypatch, **arguments)

    assert not arguments["metrics"].exists()
    assert not arguments["predictions"].exists()


def test_where_the_engine_is_wrong_another_one_evaluates_and_is_named(
    arguments, tmp_path, monkeypatch, capsys
):
    check = tmp_path / "check.json"
    check.write_text(json.dumps({"wrong_here": {"opencv_new": "differs"}}))
    call(evaluate, monkeypatch, **arguments, check=check)

    assert json.loads(arguments["metrics"].read_text())["evaluated_in"] == "opencv_classic"
    assert "engine 'new' is wrong here: evaluated in opencv_classic" in capsys.readouterr().out
    check.write_text("{}")
    call(evaluate, monkeypatch, **arguments, check=check)
    assert "evaluated_in" not in json.loads(arguments["metrics"].read_text())


@pytest.mark.parametrize(("key", "value"), [("engine", "fast"), ("batch_size", 0)])
def test_a_wrong_param_is_named(arguments, monkeypatch, key, value):
    write_params(arguments["params"], evaluate={key: value})

    with pytest.raises(InputError, match=rf"evaluate\.{key} is .*; allowed: "):
        call(evaluate, monkeypatch, **arguments)


def test_opencvs_classic_engine_is_needed_only_where_it_is_asked_for(arguments, monkeypatch):
    """OpenCV has removed it after 5.0.0."""
    monkeypatch.delattr(cv2.dnn, "ENGINE_CLASSIC", raising=False)
    for engine in ("new", "auto"):
        write_params(arguments["params"], evaluate={"engine": engine})
        call(evaluate, monkeypatch, **arguments)
        assert json.loads(arguments["metrics"].read_text())["accuracy"] > 65

    write_params(arguments["params"], evaluate={"engine": "classic"})
    with pytest.raises(InputError, match="has no engine 'classic'; choose another"):
        call(evaluate, monkeypatch, **arguments)

"""What goes onto the device: deploy/classify.py, alone, on files that the tests make."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from deploy import compare_outputs
from deploy.classify import Classifier, Drawer, InputError, Picture, read_image
from stages.common.data.cifar10 import CLASSES
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.inference.sessions import to_blob
from tests.conftest import make_images
from tests.networks import fp32_model, write_models

DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def bgr_images(count: int) -> np.ndarray:
    """(N, 32, 32, 3) uint8, the layout of cv2.imread."""
    return np.ascontiguousarray(make_images(count).pixels.transpose(0, 2, 3, 1)[..., ::-1])


def classify(*words: object) -> subprocess.CompletedProcess:
    """Run the file from its own folder, in which nothing of the repository can be imported."""
    command = [sys.executable, "-I", str(DEPLOY / "classify.py"), *map(str, words)]
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}
    return subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=environment, timeout=120
    )


def json_lines(process: subprocess.CompletedProcess) -> list[dict]:
    return [json.loads(line) for line in process.stdout.splitlines()]


def write_video(path: Path, frames: int) -> Path:
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), codec, 10, (64, 48))
    for image in bgr_images(frames):
        writer.write(cv2.resize(image, (64, 48)))
    writer.release()
    return path


@pytest.mark.parametrize("name", ["classify.py", "compare_outputs.py"])
def test_the_device_needs_nothing_but_numpy_opencv_and_python(name):
    tree = ast.parse((DEPLOY / name).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    foreign = {module.split(".")[0] for module in modules} - sys.stdlib_module_names
    assert foreign <= {"cv2", "numpy"}


def test_the_device_gets_the_versions_that_the_pipeline_was_measured_with():
    def pins(path: Path) -> set[str]:
        return {line.split(";")[0].split()[0] for line in path.read_text().splitlines() if line}

    pipeline, device = pins(DEPLOY.parent / "requirements.txt"), pins(DEPLOY / "requirements.txt")
    assert {pin.replace("-headless", "") for pin in device} & pipeline == {
        pin for pin in pipeline if pin.startswith(("numpy==", "opencv-python=="))
    }


@pytest.mark.parametrize("engine", ["classic", "new"])
@pytest.mark.parametrize("index", [0, 1], ids=["fp32", "int8"])
def test_an_image_of_the_data_gives_the_very_logits_that_the_pipeline_evaluates(
    models, engine, index
):
    pixels = make_images(8).pixels
    expected = OpenCVSession(models[index], engine, threads=1).logits(to_blob(pixels))
    model = Classifier(models[index], engine)
    found = model.logits(model.blob(bgr_images(8)))
    assert np.array_equal(found, expected)
    confidences = model.predict(bgr_images(8))
    assert np.array_equal(confidences.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(confidences.sum(1), 1, rtol=1e-6)
    ratio = np.log(confidences[:, 1] / confidences[:, 0])  # softmax: exp of a difference of logits
    np.testing.assert_allclose(ratio, expected[:, 1] - expected[:, 0], atol=1e-4)


def test_names_and_size_come_from_the_model_file(models, tmp_path):
    assert Classifier(models[1]).classes == CLASSES
    other = fp32_model()
    for entry in other.metadata_props:
        if entry.key == "classes":
            entry.value = json.dumps([f"thing {number}" for number in range(10)])
    path = tmp_path / "other.onnx"
    path.write_bytes(other.SerializeToString())
    model = Classifier(path)
    assert (model.classes[3], model.size) == ("thing 3", (32, 32))


def test_auto_keeps_the_engine_that_was_faster(models):
    model = Classifier(models[0])
    assert set(model.engine_ms) == {"new", "classic"}
    assert model.engine == min(model.engine_ms, key=model.engine_ms.get)


def test_auto_does_without_an_engine_that_refuses_the_model(models, monkeypatch):
    monkeypatch.setattr(cv2.dnn, "ENGINE_NEW", 999)
    model = Classifier(models[0])
    assert list(model.engine_ms) == ["classic"]
    with pytest.raises(InputError, match="OpenCV .* refuses it"):
        Classifier(models[0], engine="new")


def without(key: str) -> bytes:
    model = fp32_model()
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
    onnx.helper.set_model_props(model, kept)
    return model.SerializeToString()


def with_input(**changes: object) -> bytes:
    model = fp32_model()
    for entry in model.metadata_props:
        if entry.key == "input":
            entry.value = json.dumps({**json.loads(entry.value), **changes})
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (lambda: without("classes"), "has no metadata 'classes'"),
        (lambda: without("input"), "has no metadata 'input'"),
        (lambda: with_input(channels="BGR"), "'channels': 'BGR'"),
        (lambda: with_input(size=32), "'size' is 32"),
        (lambda: fp32_model().SerializeToString()[:-40], "damaged, or no ONNX"),
        (lambda: fp32_model().SerializeToString()[:5000], "damaged, or no ONNX"),
        (lambda: b"PK\x03\x04 a checkpoint of PyTorch", "damaged, or no ONNX"),
        (lambda: b"\xff" * 100, "damaged, or no ONNX"),
        (lambda: b"", "has no metadata 'classes'"),
    ],
)
def test_a_file_that_is_no_model_of_ours_is_one_clear_error(tmp_path, content, named):
    path = tmp_path / "model.onnx"
    path.write_bytes(content())
    with pytest.raises(InputError, match="is not a model of this pipeline") as error:
        Classifier(path)
    assert named in str(error.value)
    assert "model.onnx" in str(error.value)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (np.zeros((32, 32, 3), np.uint8), "expected \\(N, H, W, 3\\)"),
        (np.zeros((2, 3, 32, 32), np.uint8), "shape \\(3, 32, 32\\)"),
        (np.zeros((2, 32, 32, 3), np.float32), "float32; expected uint8"),
        ([np.zeros((0, 32, 3), np.uint8)], "shape \\(0, 32, 3\\)"),
        ([None], "NoneType.*expected uint8"),
        ([], "no images"),
    ],
)
def test_images_of_other_types_and_shapes_are_refused(models, images, named):
    with pytest.raises(ValueError, match=named):
        Classifier(models[0], "classic").predict(images)


def test_an_image_is_cut_to_its_centre_square_or_stretched(models):
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 32:96] = 200  # the centre square; INTER_AREA averages, so nothing of the rest shows
    assert (Classifier(models[0], "classic").blob([image]) == 200).all()
    stretched = Classifier(models[0], "classic", stretch=True).blob([image])
    assert stretched.shape == (1, 3, 32, 32)
    assert np.array_equal(stretched[0, 0, 0], np.repeat([0.0, 200.0, 0.0], [8, 16, 8]))


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (1000, 3), (33, 31)])
def test_images_of_any_size_fit(models, shape):
    blob = Classifier(models[0], "classic").blob([np.full((*shape, 3), 90, np.uint8)])
    assert blob.shape == (1, 3, 32, 32)
    assert (blob == 90).all()


def test_shrinking_averages_over_the_whole_of_a_pixel(models):
    fine = np.zeros((128, 128), np.uint8)
    fine[::4, ::4] = 160  # one in sixteen, which interpolating between neighbours would miss
    blob = Classifier(models[0], "classic").blob([fine])
    assert (blob == 10).all()


def test_grey_alpha_and_16_bits_are_the_same_image(tmp_path):
    image = bgr_images(1)[0]
    grey = image[..., 1]
    opaque = np.dstack([image, np.full((32, 32), 255, np.uint8)])
    files = {
        "plain.png": (image, image),
        "deep.png": (image.astype(np.uint16) * 257, image),
        "deep.tiff": (image.astype(np.uint16) * 257, image),
        "grey.png": (grey, np.dstack([grey] * 3)),
        "opaque.png": (opaque, image),
        "deep_opaque.png": (opaque.astype(np.uint16) * 257, image),
    }
    for name, (written, expected) in files.items():
        assert cv2.imwrite(str(tmp_path / name), written)
        assert np.array_equal(read_image(tmp_path / name), expected), name
    clear = np.dstack([image, np.zeros((32, 32), np.uint8)])
    cv2.imwrite(str(tmp_path / "clear.png"), clear)
    assert (read_image(tmp_path / "clear.png") == 255).all()


def test_a_folder_is_classified_image_by_image_and_one_bad_file_stops_nothing(models, tmp_path):
    (tmp_path / "below").mkdir()
    for number, image in enumerate(bgr_images(3)):
        cv2.imwrite(str(tmp_path / "below" / f"{number}.png"), image)
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "notes.txt").write_text("left alone")
    run = classify(models[0], tmp_path, "--json", "--engine", "classic", "--batch", 2, "--top", 2)
    results = json_lines(run)
    assert run.returncode == 2
    assert [Path(result["source"]).name for result in results] == ["0.png", "1.png", "2.png"]
    assert run.stderr.count("error:") == 1
    assert "bad.jpg is damaged or no image" in run.stderr
    expected = Classifier(models[0], "classic").predict(bgr_images(3))
    for result, confidences in zip(results, expected, strict=True):
        assert result["class"] == CLASSES[confidences.argmax()]
        assert result["confidence"] == pytest.approx(confidences.max(), abs=1e-6)
        assert [best["confidence"] for best in result["top"]] == pytest.approx(
            sorted(confidences)[:-3:-1], abs=1e-6
        )
        assert 0 < result["network_ms"] < result["total_ms"]


def test_text_names_the_file_the_classes_and_the_milliseconds(models, tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), bgr_images(1)[0])
    run = classify(models[1], tmp_path / "one.png", "--top", 1)
    best = Classifier(models[1]).predict(bgr_images(1))[0]
    assert run.returncode == 0
    assert f"one.png: {CLASSES[best.argmax()]} " in run.stdout
    assert " ms, " in run.stdout
    assert "OpenCV's engine" in run.stderr


def test_a_video_is_classified_frame_by_frame_and_drawn(models, tmp_path):
    video = write_video(tmp_path / "clip.avi", frames=4)
    run = classify(models[0], video, "--json", "--draw", tmp_path / "drawn")
    assert run.returncode == 0, run.stderr
    assert f"what was drawn is in {tmp_path / 'drawn'}" in run.stderr
    assert [result["frame"] for result in json_lines(run)] == [1, 2, 3, 4]
    capture = cv2.VideoCapture(str(tmp_path / "drawn" / "clip_classified.avi"))
    frames = [frame for found, frame in iter(capture.read, (False, None)) if found]
    assert len(frames) == 4
    assert capture.get(cv2.CAP_PROP_FPS) == 10
    assert os.listdir(tmp_path / "drawn") == ["clip_classified.avi"]


def test_drawn_pictures_carry_text_and_never_overwrite_one_another(tmp_path):
    image = np.full((300, 300, 3), 128, np.uint8)
    result = {"top": [{"class": "cat", "confidence": 0.9}]}
    drawer = Drawer(tmp_path)
    for folder in ("a", "b"):
        drawer(Picture(f"{folder}/cat.jpg", image, read_ms=1.0), result)
    names = ["cat_classified.png", "cat_classified_2.png"]
    assert sorted(os.listdir(tmp_path)) == names
    drawn = cv2.imread(str(tmp_path / names[0]))
    assert drawn.max() == 255  # the letters
    assert (drawn[-100:] == 128).all()  # the picture below them


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["missing.png"], "missing.png is missing"),
        (["--camera", 99], "camera 99 is absent"),
        ([DEPLOY / "requirements.txt"], "neither an image nor a video"),
        ([DEPLOY], "holds no images"),
        ([DEPLOY / "classify.py", "--show"], "--show needs"),
        ([], "give images, folders or videos, or --camera"),
        (["one.png", "--top", 0], "not a whole number of at least 1"),
    ],
)
def test_what_cannot_be_read_or_used_is_one_error_without_traceback(models, words, named):
    run = classify(models[0], *words)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("error:") == 1
    assert named in run.stderr
    assert "Traceback" not in run.stderr


def test_without_opencv_the_command_says_how_to_get_it():
    bare = [sys.executable, "-I", "-S", str(DEPLOY / "classify.py"), "model.onnx", "cat.jpg"]
    run = subprocess.run(bare, capture_output=True, text=True)  # -S: without site-packages
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "No module named 'cv2'; run: python3 -m pip install -r requirements.txt" in run.stderr


def test_a_tflite_file_is_named_as_what_it_is(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(InputError, match="TFLite files are for microcontrollers"):
        Classifier(tmp_path / "model.tflite")


def test_ctrl_c_ends_cleanly_and_keeps_what_was_drawn(models, tmp_path):
    video = write_video(tmp_path / "long.avi", frames=2000)
    command = [sys.executable, str(DEPLOY / "classify.py"), str(models[0]), str(video)]
    with subprocess.Popen(
        [*command, "--draw", str(tmp_path / "drawn")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored in background
    ) as process:
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert os.listdir(tmp_path / "drawn") == ["long_classified.avi"]
    assert cv2.VideoCapture(str(tmp_path / "drawn" / "long_classified.avi")).read()[0]


def write_results(path: Path, logits: list[list[float]], folder: str = "a") -> Path:
    """What `classify.py --json` prints, as far as it is compared."""
    lines = [
        json.dumps({"source": f"{folder}/{i}.png", "class": int(np.argmax(row)), "logits": row})
        for i, row in enumerate(logits)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("other", "status", "told"),
    [
        ([[1.0, 0.0], [0.0, 0.5]], 0, "2 of 2 classes the same; .*bit-identical"),
        ([[1.0, 0.0], [0.0, 0.25]], 0, "logit: 0.25; closest decision: 0.5"),
        ([[1.0, 0.0], [0.5, 0.0]], 1, "1 of 2 classes the same \\(a/1.png\\)"),
        ([[1.0, 0.0]], 2, ""),
        ([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]], 2, ""),
    ],
)
def test_two_machines_agree_only_if_every_class_does(
    tmp_path, monkeypatch, capsys, other, status, told
):
    first = write_results(tmp_path / "first.jsonl", [[1.0, 0.0], [0.0, 0.5]])
    second = write_results(tmp_path / "second.jsonl", other, folder="elsewhere")
    monkeypatch.setattr(sys, "argv", ["compare_outputs.py", str(first), str(second)])
    assert compare_outputs.main() == status
    output = capsys.readouterr()
    if status == 2:
        assert output.err.startswith("error: the files ")
    else:
        assert re.search(told, output.out)


@pytest.mark.parametrize("content", ["", "cat.png: cat 90%\n", "[1]\n", '{"source": "a.png"}\n'])
def test_files_that_classify_did_not_write_are_not_compared(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(compare_outputs.InputError, match="results.jsonl"):
        compare_outputs.read_results(path)

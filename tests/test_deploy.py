"""The program for a device, deploy/classify.py, alone, on files that the tests make."""

import ast
import http.server
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from deploy import classify as deployed
from deploy import compare_outputs
from deploy.classify import (
    SAMPLES,
    Classifier,
    Drawer,
    InputError,
    Picture,
    annotated,
    is_stream,
    main,
    missing_bytes,
    read_image,
    sample,
)
from stages import export
from stages.common.building.checkpoint import Checkpoint
from stages.common.data.cifar10 import CLASSES
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.expected import expected_metadata, sample_pictures
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.inference.sessions import predict, to_blob
from tests.conftest import make_images
from tests.depthwise import write_depthwise_int8
from tests.networks import PARAMS, PROVENANCE, fp32_model, int8_model, random_network, write_models

DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def bgr_images(count: int) -> np.ndarray:
    """(N, 32, 32, 3) uint8, the layout of cv2.imread."""
    return np.ascontiguousarray(make_images(count).pixels.transpose(0, 2, 3, 1)[..., ::-1])


def classify(*words: object, encoding: str = "utf-8", cwd: str | Path = "/"):
    """Run the file alone: nothing of the repository can be imported."""
    command = [sys.executable, "-I", str(DEPLOY / "classify.py"), *map(str, words)]
    environment = {key: value for key, value in os.environ.items() if "DISPLAY" not in key}
    if encoding != "utf-8":  # of stdout; -I ignores PYTHONIOENCODING
        command.remove("-I")
        environment["PYTHONIOENCODING"] = encoding
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


def json_lines(process: subprocess.CompletedProcess) -> list[dict]:
    return [json.loads(line) for line in process.stdout.splitlines()]


def write_video(path: Path, frames: int) -> Path:
    codec = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
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
    with pytest.raises(InputError, match="no engine of OpenCV .* is right"):
        Classifier(models[0], engine="new")


def with_expected(path: Path, value: str) -> Path:
    """A model with that value of the metadata "expected"."""
    model = fp32_model()
    model.metadata_props.add(key="expected", value=value)
    path.write_bytes(model.SerializeToString())
    return path


def expected_of(model: Path, sign: int = 1) -> str:
    """The entry of the file's logits, or of the opposite ones."""
    session = OnnxRuntimeSession(model, 1, optimized=False)
    [value] = expected_metadata(sign * predict(session, sample_pictures(32, 32), 4), 1).values()
    return value


@pytest.mark.parametrize("size", [(32, 32), (224, 160), (1, 1), (7, 300)])
def test_a_device_makes_the_same_pictures_as_the_pipeline(size):
    pictures = np.concatenate([sample(number, *size) for number in range(SAMPLES)])

    assert np.array_equal(pictures, to_blob(sample_pictures(*size)))
    assert pictures.dtype == np.float32


def test_the_pictures_go_from_smooth_to_fine_and_have_the_contrast_of_photos():
    pictures = sample_pictures(96, 96).astype(float)
    steps = np.abs(np.diff(pictures)).mean(axis=(1, 2, 3))

    assert list(steps) == sorted(steps)
    assert steps[-1] > 10 * steps[0]
    assert 40 < pictures.std() < 70
    assert 110 < pictures.mean() < 140


def test_an_engine_is_used_for_a_depthwise_network_just_where_it_is_right(tmp_path):
    """OpenCV's new engine is not, on many processors."""
    path = write_depthwise_int8(tmp_path / "int8.onnx", QuantizeParams(**PARAMS["quantize"]))
    images = make_images(50)
    right = predict(OnnxRuntimeSession(path, 1, optimized=False), images, 50)
    found = {
        name: logit_error(predict(OpenCVSession(path, name, 1), images, 50), right)
        for name in ("classic", "new")
    }

    model = Classifier(path)

    assert set(model.engine_ms) == {name for name, error in found.items() if error <= 10}
    assert len(model.left_out) == 2 - len(model.engine_ms)
    assert all(re.search(": computes logits that are .* % off$", line) for line in model.left_out)


def test_both_engines_are_used_where_both_are_right(models, tmp_path):
    path = with_expected(tmp_path / "model.onnx", expected_of(models[0]))

    assert set(Classifier(path).engine_ms) == {"new", "classic"}


def test_an_engine_that_is_wrong_is_neither_used_nor_timed(models, tmp_path, monkeypatch, capsys):
    path = with_expected(tmp_path / "model.onnx", expected_of(models[0]))
    checked = []

    def off(net, probe, expected):
        checked.append(net)
        return 54.3 if len(checked) == 1 else 0.1

    monkeypatch.setattr(deployed, "percent_off", off)
    cv2.imwrite(str(tmp_path / "one.png"), bgr_images(1)[0])
    monkeypatch.setattr(sys, "argv", ["classify.py", str(path), str(tmp_path / "one.png")])

    assert main() == 0

    said = capsys.readouterr().err
    assert said.startswith("engine left out: new: computes logits that are 54 % off\n")
    assert "engine classic (timed: classic " in said
    assert len(checked) == 2


@pytest.mark.parametrize("engine", ["auto", "new"])
def test_no_engine_that_is_right_is_one_error(models, tmp_path, engine):
    path = with_expected(tmp_path / "model.onnx", expected_of(models[0], sign=-1))

    with pytest.raises(
        InputError, match=r"no engine of OpenCV \S+ is right \(new: .* 2e\+02 % off"
    ):
        Classifier(path, engine)


ROW = [0.5] * 10


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        "7",
        '"logits"',
        json.dumps([[ROW] * 4, 10]),
        json.dumps({"logits": [ROW] * 4}),
        json.dumps({"tolerance": 10}),
        json.dumps({"logits": [ROW] * 3, "tolerance": 10}),
        json.dumps({"logits": [ROW[:9]] * 4, "tolerance": 10}),
        json.dumps({"logits": [ROW, ROW, ROW, ROW[:9]], "tolerance": 10}),
        json.dumps({"logits": [[ROW] * 4], "tolerance": 10}),
        json.dumps({"logits": {"0": ROW}, "tolerance": 10}),
        json.dumps({"logits": [["a"] * 10] * 4, "tolerance": 10}),
        json.dumps({"logits": [[None] * 10] * 4, "tolerance": 10}),
        json.dumps({"logits": [[float("nan")] * 10] * 4, "tolerance": 10}),
        json.dumps({"logits": [[10**400] * 10] * 4, "tolerance": 10}),
        json.dumps({"logits": [ROW] * 4, "tolerance": "much"}),
        json.dumps({"logits": [ROW] * 4, "tolerance": None}),
        json.dumps({"logits": [ROW] * 4, "tolerance": -1}),
        json.dumps({"logits": [ROW] * 4, "tolerance": 10**400}),
        json.dumps({"logits": [ROW] * 4, "tolerance": float("nan")}),
        json.dumps({"logits": [ROW] * 4, "tolerance": float("inf")}),
    ],
)
def test_damaged_answers_are_one_clear_error(tmp_path, value):
    path = with_expected(tmp_path / "model.onnx", value)

    with pytest.raises(InputError, match="is not a model of this pipeline: its metadata 'exp"):
        Classifier(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("logit", [0, 1e-300, 1e300, -1.7e308])
def test_answers_beyond_what_a_float_holds_are_told_as_wrong(tmp_path, logit):
    value = json.dumps({"logits": [[logit, *ROW[1:]]] * 4, "tolerance": 10})

    with pytest.raises(InputError, match="no engine of OpenCV .* is right"):
        Classifier(with_expected(tmp_path / "model.onnx", value))


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
        (lambda: b"", "damaged, or no ONNX"),
        (
            lambda: with_input(size=[33, 32]),
            "[33, 32], but the network takes [3, 32, 32]",
        ),
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


@pytest.mark.parametrize(("resize", "stretch"), [("crop", False), ("stretch", True)])
def test_an_image_is_brought_to_size_as_the_model_was_trained(tmp_path, resize, stretch):
    path = with_resize(tmp_path / "model.onnx", resize)
    assert Classifier(path, "classic").stretch is stretch
    assert Classifier(path, "classic", stretch=True).stretch is True


def test_another_way_of_resizing_is_refused(tmp_path):
    with pytest.raises(InputError, match="'resize' is 'pad', neither crop nor stretch"):
        Classifier(with_resize(tmp_path / "model.onnx", "pad"), "classic")


def with_resize(path: Path, resize: str) -> Path:
    """A model for photos that were resized so in training."""
    images = make_images(1)
    images = replace(images, info=replace(images.info, resize=resize))
    model = fp32_model()
    checkpoint = Checkpoint(random_network(), PROVENANCE)
    onnx.helper.set_model_props(model, export.metadata_of(checkpoint, images))
    path.write_bytes(model.SerializeToString())
    return path


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
        (["one.png", "--top", 0], "0 is not a whole number of 1 to"),
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


def stop_while_drawing(model: Path, folder: Path, number: int, status: int) -> None:
    video = write_video(folder / "long.avi", frames=2000)
    command = [sys.executable, str(DEPLOY / "classify.py"), str(model), str(video)]
    with subprocess.Popen(
        [*command, "--draw", str(folder / "drawn")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored in background
    ) as process:
        for _ in range(2):  # when the second answer is there, the first frame has been drawn
            process.stdout.readline()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert b"Traceback" not in stderr
    assert os.listdir(folder / "drawn") == ["long_classified.avi"]
    assert cv2.VideoCapture(str(folder / "drawn" / "long_classified.avi")).read()[0]


def test_ctrl_c_ends_cleanly_and_keeps_what_was_drawn(models, tmp_path):
    stop_while_drawing(models[0], tmp_path, signal.SIGINT, status=130)


def make_bmp(bgrx: np.ndarray, header: int, alpha_mask: int) -> bytes:
    """A 32-bit BMP whose masks say where the colours are: the header has 40 or 108 bytes."""
    height, width, _ = bgrx.shape
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, alpha_mask)
    start = 14 + max(header, 56)
    info = struct.pack("<IiiHHIIiiII", header, width, -height, 1, 32, 3, bgrx.size, 0, 0, 0, 0)
    info = (info + masks).ljust(start - 14, b"\0")
    return struct.pack("<2sIHHI", b"BM", start + bgrx.size, 0, 0, start) + info + bgrx.tobytes()


def make_tiff(bands: np.ndarray, extra_samples: int | None) -> bytes:
    """An uncompressed TIFF of four bands, uint8 or uint16, RGB first."""
    height, width, count = bands.shape
    bits, start = 8 * bands.itemsize, 8 + 2 + 12 * 11 + 4
    tags = [(256, width), (257, height), (258, start), (259, 1), (262, 2), (273, start + 8)]
    tags += [(277, count), (278, height), (279, bands.nbytes), (284, 1)]
    tags += [] if extra_samples is None else [(338, extra_samples)]
    entries = b"".join(
        struct.pack("<HHII", tag, 3, count if tag == 258 else 1, value) for tag, value in tags
    )
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries
    return head.ljust(start, b"\0") + struct.pack("<4H", *[bits] * 4) + bands.tobytes()


@pytest.mark.parametrize(("header", "alpha_mask", "is_alpha"), [
    (40, 0, False), (108, 0, False), (108, 0xFF000000, True),
])  # fmt: skip
def test_the_fourth_byte_of_a_bmp_is_alpha_only_with_a_mask(tmp_path, header, alpha_mask, is_alpha):
    image = bgr_images(1)[0]
    path = tmp_path / "a.bmp"
    path.write_bytes(make_bmp(np.dstack([image, image[..., 0] * 0]), header, alpha_mask))
    expected = np.full_like(image, 255) if is_alpha else image
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra_samples", [None, 0, 1, 2])
def test_the_fourth_band_of_a_tiff_is_alpha_only_where_it_says_so(tmp_path, depth, extra_samples):
    rgb = bgr_images(1)[0][..., ::-1].astype(int)
    fourth = np.arange(32 * 32).reshape(32, 32, 1) % 256
    is_premultiplied = extra_samples == 1
    stored = (rgb * fourth + 127) // 255 if is_premultiplied else rgb
    scale = np.iinfo(depth).max // 255
    path = tmp_path / "a.tiff"
    path.write_bytes(make_tiff((np.dstack([stored, fourth]) * scale).astype(depth), extra_samples))
    expected = rgb * fourth / 255 + 255 - fourth if extra_samples else rgb
    difference = np.abs(read_image(path)[..., ::-1] - expected).max()
    assert difference <= (1 if extra_samples else 0)


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_numbers_without_a_known_white_are_refused(tmp_path, kind):
    path = tmp_path / "a.tiff"
    cv2.imwrite(str(path), bgr_images(1)[0].astype(kind))
    with pytest.raises(InputError, match="a.tiff is damaged or "):
        read_image(path)


def test_a_png_whose_chunk_ends_behind_the_file_is_never_decoded(tmp_path, monkeypatch):
    content = bytearray(cv2.imencode(".png", bgr_images(1)[0])[1].tobytes())
    content[33:37] = b"\x7f\xff\xff\xff"  # bytes of the first IDAT
    (tmp_path / "a.png").write_bytes(content)
    monkeypatch.setattr(cv2, "imdecode", None)  # it would reserve 2 GB
    with pytest.raises(InputError, match="a.png is damaged"):
        read_image(tmp_path / "a.png")


def test_drawing_enlarges_a_tall_picture_no_more_than_fits_in_memory():
    drawn = annotated(np.full((30_000, 1, 3), 128, np.uint8), "cat 90.0%")
    assert drawn.shape == (30_000, 1, 3)
    assert annotated(np.full((32, 32, 3), 128, np.uint8), "cat").shape == (256, 256, 3)


def raw_name(folder: Path, name: bytes) -> Path:
    return folder / os.fsdecode(name)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_names_that_are_not_utf8_or_not_encodable_stop_nothing(models, tmp_path, encoding):
    image = cv2.imencode(".png", bgr_images(1)[0])[1].tobytes()
    video = write_video(tmp_path / "clip.avi", frames=2).read_bytes()
    files = {
        b"caf\xe9.png": image,
        b"caf\xe9.avi": video,
        b"caf\xe9": image,
        b"a\n\x1b[2J.png": image,
    }
    for name, content in files.items():
        raw_name(tmp_path, name).write_bytes(content)
    names = [raw_name(tmp_path, name) for name in files]
    run = classify(models[0], *names, "--engine", "new", encoding=encoding)
    assert run.returncode == 2
    [first, second] = run.stdout.splitlines()
    assert "/caf\\udce9.png: " in first
    assert "/a\\n\\x1b[2J.png: " in second
    assert run.stderr.count("error:") == 2
    assert run.stderr.count("the name is not UTF-8; rename it") == 2


def test_a_model_whose_name_is_not_utf8_is_one_error(models, tmp_path):
    path = raw_name(tmp_path, b"caf\xe9.onnx")
    path.write_bytes(models[0].read_bytes())
    with pytest.raises(InputError, match="the name is not UTF-8; rename it"):
        Classifier(path)


def test_options_may_stand_between_the_model_and_the_images(models, tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), bgr_images(1)[0])
    cv2.imwrite(str(tmp_path / "-1.png"), bgr_images(1)[0])
    one = tmp_path / "one.png"
    run = classify(models[0], "--json", one, "--top", 1, one, "--", "-1.png", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [len(result["top"]) for result in json_lines(run)] == [1, 1, 1]


def test_a_video_cut_in_the_middle_gives_its_frames_and_an_error(models, tmp_path):
    video = write_video(tmp_path / "clip.avi", frames=20)
    content = video.read_bytes()
    whole = classify(models[0], video, "--engine", "new", "--json")
    assert (whole.returncode, len(json_lines(whole))) == (0, 20)
    video.write_bytes(content[: len(content) // 2])
    run = classify(models[0], video, "--engine", "new", "--json")
    assert run.returncode == 2
    assert 5 <= len(json_lines(run)) <= 15
    missing = len(content) - len(content) // 2
    assert f"clip.avi is cut short: {missing} bytes of its end are missing\n" in run.stderr
    assert run.stderr.count("error:") == 1


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"RIFF" + struct.pack("<I", 20) + bytes(12), 8),
        (b"RIFF" + struct.pack("<I", 12) + bytes(12), 0),
        (b"RIFF" + bytes(16), 0),  # never finished: no length
        (b"RIFF\xff\xff\xff\xff" + bytes(16), 0),
        (struct.pack(">I4s", 12, b"ftyp") + bytes(4) + struct.pack(">I4s", 30, b"mdat"), 22),
        (struct.pack(">I4s", 12, b"ftyp") + bytes(4) + struct.pack(">I4sQ", 1, b"mdat", 99), 83),
        (struct.pack(">I4s", 12, b"ftyp") + bytes(4) + struct.pack(">I4s", 0, b"mdat"), 0),
        (struct.pack(">I4s", 12, b"ftyp") + bytes(4) + b"what follows", 0),
        (b"\x1aE\xdf\xa3\x82ab" + b"\x18S\x80g\x40\x10", 16),
        (b"\x1aE\xdf\xa3\x82ab" + b"\x18S\x80g\xff", 0),  # a stream: length unknown
        (b"FLV\x01" + bytes(20), 0),
        (b"", 0),
    ],
)
def test_the_length_of_a_video_is_that_of_its_headers(tmp_path, content, missing):
    (tmp_path / "video").write_bytes(content)
    assert missing_bytes(tmp_path / "video") == missing


@pytest.mark.parametrize(
    "words",
    [
        ["--camera", "-1"], ["--camera", "-2"], ["--camera", 2147483648], ["--camera", 100],
        ["a.png", "--threads", 99999999999], ["a.png", "--threads", 0],
        ["a.png", "--batch", 10**30],
    ],
)  # fmt: skip
def test_numbers_that_would_end_the_process_in_opencv_are_refused(models, words):
    run = classify(models[0], *words)
    assert (run.returncode, run.stdout) == (2, "")
    assert re.search(r"error: argument --\w+: .* is not a whole number of \d+ to \d+", run.stderr)


def test_a_folder_of_a_mac_with_links_and_a_folder_named_as_an_image(models, tmp_path):
    image = cv2.imencode(".png", bgr_images(1)[0])[1].tobytes()
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for name in ("IMG.png", "._IMG.png", "sub.png/below.PNG", ".thumbnails/IMG.png", "x.HEIC"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(image)
    elsewhere.mkdir()
    (elsewhere / "linked.png").write_bytes(image)
    (photos / "link").symlink_to(elsewhere)
    (photos / "again").symlink_to(elsewhere)
    (photos / "sub.png" / "loop").symlink_to(photos)
    run = classify(models[0], photos, "--json", "--engine", "new")
    assert run.returncode == 0, run.stderr
    names = [Path(result["source"]).name for result in json_lines(run)]
    assert sorted(names) == ["IMG.png", "below.PNG", "linked.png"]
    assert "photos: left out, no images by name: 1 .heic" in run.stderr


def test_a_folder_without_images_or_an_empty_name_stops_nothing(models, tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), bgr_images(1)[0])
    (tmp_path / "empty").mkdir()
    run = classify(models[0], tmp_path / "empty", "", tmp_path / "one.png", "--json")
    assert (run.returncode, len(json_lines(run))) == (2, 1)
    assert "empty holds no images" in run.stderr
    assert "an input is empty" in run.stderr


def test_an_address_is_opened_as_a_stream(models, tmp_path):
    write_video(tmp_path / "clip.avi", frames=3)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = classify(models[0], f"{address}/clip.avi", "--json", "--draw", tmp_path / "drawn")
        missing = classify(models[0], f"{address}/missing.avi")
        server.shutdown()
    assert found.returncode == 0, found.stderr
    assert [result["frame"] for result in json_lines(found)] == [1, 2, 3]
    assert json_lines(found)[0]["source"] == f"{address}/clip.avi"
    assert os.listdir(tmp_path / "drawn") == ["clip_classified.avi"]
    assert missing.returncode == 2
    assert f"error: {address}/missing.avi does not answer" in missing.stderr


@pytest.mark.parametrize("source", ["rtsp://127.0.0.1:9/stream", "http://127.0.0.1:9/clip.mp4"])
def test_a_stream_that_nobody_sends_is_one_error(models, source):
    run = classify(models[0], source)
    assert run.returncode == 2
    assert run.stderr.count("error:") == 1
    assert f"error: {source} does not answer" in run.stderr


def test_a_device_is_a_stream_and_a_folder_is_none():
    assert is_stream("/dev/null")
    assert is_stream("rtsp://host/stream")
    assert not is_stream("C:/photos")
    assert not is_stream("C://photos")
    assert not is_stream(str(DEPLOY))


def damaged_model(
    change: Callable[[onnx.ModelProto], object], model: onnx.ModelProto | None = None
) -> bytes:
    model = model or fp32_model()
    change(model)
    return model.SerializeToString()


def int8_scales_as_bytes(model: onnx.ModelProto) -> None:
    """The numbers of the scales stay where those of FLOAT are."""
    for tensor in model.graph.initializer:
        if tensor.float_data:
            tensor.data_type = onnx.TensorProto.UINT8


@pytest.mark.parametrize(
    "content",
    [
        lambda: fp32_model().SerializeToString().replace(b"Relu", b"R\xd2\xe3u"),
        lambda: damaged_model(lambda model: model.graph.initializer[0].dims.append(-1)),
        lambda: damaged_model(lambda model: model.graph.initializer[0].dims.append(2)),
        lambda: damaged_model(lambda model: setattr(model.graph.initializer[0], "name", "other")),
        lambda: damaged_model(lambda model: model.graph.node[0].input.__setitem__(1, "nothing")),
        lambda: damaged_model(lambda model: model.graph.node[0].input.pop(1)),
        lambda: damaged_model(lambda model: setattr(model.graph.output[0], "name", "nothing")),
        lambda: damaged_model(lambda model: setattr(model.graph.node[0], "name", "xyz")).replace(
            b"xyz", b"x\xff\xfe"
        ),
        lambda: damaged_model(int8_scales_as_bytes, int8_model()),
        lambda: damaged_model(
            lambda model: model.graph.node[0].input.__setitem__(1, ""), int8_model()
        ),
    ],
)
def test_a_model_that_would_end_the_process_in_opencv_is_refused_before(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content())
    with pytest.raises(InputError, match="it is damaged, or no ONNX file"):
        Classifier(tmp_path / "model.onnx")


def test_a_model_that_returns_no_numbers_is_one_error(tmp_path):
    model = fp32_model()
    [head] = [node for node in model.graph.node if node.op_type == "Gemm"]
    weights = next(each for each in model.graph.initializer if each.name == head.input[1])
    weights.raw_data = np.full(weights.dims, np.nan, np.float32).tobytes()
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="numbers that are not finite"):
        Classifier(tmp_path / "model.onnx", "classic").predict(bgr_images(2))


def test_without_opencvs_classic_engine_the_new_one_is_used(models, monkeypatch, capsys):
    monkeypatch.delattr(cv2.dnn, "ENGINE_CLASSIC")
    model = Classifier(models[0])
    assert list(model.engine_ms) == ["new"]
    assert model.left_out == ["classic: this OpenCV does not have it"]
    with pytest.raises(InputError, match="classic: this OpenCV does not have it"):
        Classifier(models[0], engine="classic")


def test_an_engine_that_is_left_out_is_one_line(models, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(cv2.dnn, "ENGINE_CLASSIC")
    cv2.imwrite(str(tmp_path / "one.png"), bgr_images(1)[0])
    monkeypatch.setattr(sys, "argv", ["classify.py", str(models[0]), str(tmp_path / "one.png")])
    assert main() == 0
    assert "engine left out: classic: this OpenCV does not have it\n" in capsys.readouterr().err


def test_a_service_that_is_stopped_keeps_the_video_that_it_draws(models, tmp_path):
    stop_while_drawing(models[0], tmp_path, signal.SIGTERM, status=143)


def test_a_video_that_does_not_fit_on_the_disk_is_an_error_and_not_kept(models, tmp_path):
    video = write_video(tmp_path / "clip.avi", frames=100)
    command = [sys.executable, str(DEPLOY / "classify.py"), str(models[0]), str(video)]
    run = subprocess.run(
        [*command, "--draw", str(tmp_path / "drawn")],
        capture_output=True,
        text=True,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert run.returncode == 2
    assert "clip_classified.avi could not be written whole; is the disk full?" in run.stderr
    assert os.listdir(tmp_path / "drawn") == []


def test_without_stderr_stdout_has_the_answers_alone(models, tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), bgr_images(1)[0])
    files = [models[0], tmp_path / "one.png", tmp_path / "missing.png"]
    run = subprocess.run(
        [sys.executable, DEPLOY / "classify.py", *files, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(os.close, 2),
    )
    assert run.returncode == 2
    assert len(json_lines(run)) == 1


def write_results(path: Path, logits: list[list[float]], folder: str = "a") -> Path:
    """The output of `classify.py --json`, as far as it is compared."""
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


def result_line(source: str, logits: list[float], **more: object) -> str:
    return json.dumps(
        {"source": source, "class": f"c{np.argmax(logits)}", "logits": logits, **more}
    )


def compared(tmp_path: Path, first: bytes, second: bytes) -> dict:
    (tmp_path / "first.jsonl").write_bytes(first)
    (tmp_path / "second.jsonl").write_bytes(second)
    read = compare_outputs.read_results
    return compare_outputs.compare(read(tmp_path / "first.jsonl"), read(tmp_path / "second.jsonl"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_powershell_writes_is_compared(tmp_path, encoding):
    text = "\r\n".join([result_line("a.png", [1.0, 0.5]), result_line("b.png", [0.0, 1.0]), ""])
    result = compared(tmp_path, text.encode(), text.encode(encoding))
    assert (result["pictures"], result["differing"]) == (2, [])
    assert result["max_logit_difference"] == 0


def test_lines_in_another_order_and_from_windows_are_paired_by_folder_and_frame(tmp_path):
    """The same names in two folders: only the right pairing has no difference."""
    names = ["x/1.png", "y/1.png", "x/2.png"]
    logits = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]
    first = [
        result_line(f"/home/pi/photos/{name}", row) for name, row in zip(names, logits, strict=True)
    ]
    second = [
        result_line("C:\\photos\\" + name.replace("/", "\\"), row)
        for name, row in zip(names, logits, strict=True)
    ]
    first += [result_line("clip.avi", [0.0, float(frame)], frame=frame) for frame in (9, 10, 11)]
    second += [result_line("clip.avi", [0.0, float(frame)], frame=frame) for frame in (10, 11, 9)]
    second = [second[index] for index in (4, 2, 1, 5, 0, 3)]
    result = compared(tmp_path, "\n".join(first).encode(), "\n".join(second).encode())
    assert result == {
        "pictures": 6, "differing": [], "max_logit_difference": 0, "smallest_margin": 1.0,
    }  # fmt: skip


def test_files_of_two_models_one_after_the_other_are_no_pair(tmp_path):
    short, long = result_line("a.png", [1.0, 0.0]), result_line("a.png", [1.0, 0.0, 0.5])
    with pytest.raises(compare_outputs.InputError, match="different numbers of classes"):
        compared(tmp_path, f"{short}\n{long}".encode(), f"{long}\n{short}".encode())


def test_a_name_that_cannot_be_printed_is_told_all_the_same(tmp_path):
    for name, logits in (("first", [1.0, 0.0]), ("second", [0.0, 1.0])):
        (tmp_path / name).write_text(result_line("caf\udce9.png", logits))
    command = [sys.executable, DEPLOY / "compare_outputs.py", tmp_path / "first"]
    run = subprocess.run([*command, tmp_path / "second"], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout.startswith("0 of 1 classes the same (caf\\udce9.png); ")


def test_a_picture_that_only_one_machine_has_is_named(tmp_path):
    first, second = (result_line(f"a/{name}.png", [1.0, 0.0]).encode() for name in ("cat", "dog"))
    with pytest.raises(
        compare_outputs.InputError, match=r"different pictures \(1 and 1, e.g. 'cat"
    ):
        compared(tmp_path, first, second)


@pytest.mark.parametrize(
    "content",
    [
        "", "\n\n", "cat.png: cat 90%\n", "[1]\n", '{"source": "a.png"}\n', "[" * 100_000,
        result_line("a.png", [1.0, float("nan")]), result_line("a.png", [1.0]),
        result_line("a.png", [1.0, 2.0], frame="1"), result_line("a.png", "12"),
        result_line("a.png", [1.0, 2.0]).replace("2.0", "1" * 400),
    ],
)  # fmt: skip
def test_files_that_classify_did_not_write_are_not_compared(tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_text(content)
    with pytest.raises(compare_outputs.InputError, match="results.jsonl"):
        compare_outputs.read_results(path)

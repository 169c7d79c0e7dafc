"""The page in deploy/web, in a real browser: it reads pictures and models as classify.py does."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deploy import classify
from deploy.classify import fitted, read_description, read_image
from stages.common.inference.export.fp16 import in_fp16
from tests.browser import CHROMIUM, Tab
from tests.networks import fp32_model, write_models
from tests.pipelines import ROOT

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to open the page")

RESIZE = """(await import('./resize.js')).resized(
    new Uint8Array(await (await fetch(file)).arrayBuffer()), ...sizes).join()"""
FIT = """(async () => {
  const { decoded, fitted } = await import('./picture.js');
  const source = await decoded(new File([await (await fetch(file)).blob()], file));
  return fitted({ source, width: source.width, height: source.height }, model).join();
})()"""
DESCRIBE = """(await import('./model_file.js')).describe(
    new Uint8Array(await (await fetch(file)).arrayBuffer()))"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page alone, without ONNX Runtime Web and without models."""
    folder = tmp_path_factory.mktemp("web") / "page"
    shutil.copytree(ROOT / "deploy" / "web", folder)
    return folder


@pytest.fixture(scope="module")
def tab(browser, address) -> Iterator[Tab]:
    tab = Tab(browser, address)
    yield tab
    tab.close()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, channels) uint8: smooth shapes with noise, as photos have."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, channels), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    rough = smooth.reshape(height, width, channels) + rng.normal(0, 20, (height, width, channels))
    return np.clip(rough, 0, 255).astype(np.uint8)


def integers(text: str) -> np.ndarray:
    return np.array(text.split(","), np.int64)


# Pixels


@pytest.mark.parametrize(
    ("size", "to_size"),
    [
        ((64, 64), (32, 32)),  # blocks of 2 x 2 are rounded otherwise
        ((96, 160), (32, 32)),
        ((96, 64), (32, 32)),
        ((777, 777), (32, 32)),
        ((1001, 613), (224, 224)),
        ((32, 100), (32, 32)),
        ((20, 20), (32, 32)),
        ((20, 90), (32, 32)),  # one side grows
        ((1, 1), (32, 32)),
        ((150, 223), (224, 224)),
    ],
    ids=str,
)
def test_a_picture_is_resized_as_by_opencv(tab, folder, size, to_size):
    pixels = noise(*size)
    (folder / "pixels.bin").write_bytes(pixels.tobytes())
    sizes = [size[1], size[0], to_size[1], to_size[0]]
    found = integers(tab.evaluate(RESIZE, file="pixels.bin", sizes=sizes))
    assert_same(found, fitted(pixels, to_size, stretch=True).ravel())


def assert_same(found: np.ndarray, expected: np.ndarray, share: float = 0.001) -> None:
    """At most one level apart in a share of the values: another processor's OpenCV may round a
    sum of floats otherwise.
    """
    difference = np.abs(found - expected.astype(np.int64))
    assert difference.max() <= 1
    assert np.mean(difference > 0) <= share


def write_pictures(folder: Path) -> None:
    photo = Image.fromarray(noise(1200, 1900))
    photo.save(folder / "photo.png")
    photo.save(folder / "photo.webp", lossless=True)
    photo.convert("L").save(folder / "grey.png")
    photo.convert("P").save(folder / "palette.png")
    Image.fromarray(noise(300, 200, channels=4, seed=1)).save(folder / "alpha.png")
    Image.fromarray(noise(9, 700)).save(folder / "wide.png")
    Image.fromarray(noise(32, 32)).save(folder / "small.png")
    photo.save(folder / "photo.jpg", quality=92, subsampling=0)
    photo.convert("L").save(folder / "grey.jpg")
    for orientation in (3, 5, 6, 8):
        exif = Image.Exif()
        exif[274] = orientation
        photo.save(folder / f"turned_{orientation}.jpg", exif=exif, subsampling=0)


PICTURES = [
    *(f"{name}.png" for name in ("photo", "grey", "palette", "alpha", "wide", "small")),
    *("photo.webp", "photo.jpg", "grey.jpg"),
    *(f"turned_{orientation}.jpg" for orientation in (3, 5, 6, 8)),
]


@pytest.fixture(scope="module")
def pictures(folder) -> Path:
    write_pictures(folder)
    return folder


@pytest.mark.parametrize("stretch", [False, True], ids=["crop", "stretch"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_becomes_the_input_that_classify_makes_of_it(tab, pictures, name, stretch):
    size = (32, 48)
    model = {"height": size[0], "width": size[1], "stretch": stretch}
    found = integers(tab.evaluate(FIT, file=name, model=model))
    bgr = fitted(read_image(pictures / name), size, stretch)
    assert_same(found, bgr[..., ::-1].ravel())


def test_a_picture_that_needs_several_strips_is_whole(tab, pictures):
    """A canvas is limited in size: a large picture is drawn in parts."""
    pixels = noise(3000, 2900)
    cv2.imwrite(str(pictures / "large.png"), pixels)
    model = {"height": 32, "width": 32, "stretch": True}
    found = integers(tab.evaluate(FIT, file="large.png", model=model))
    assert_same(found, fitted(pixels, (32, 32), True)[..., ::-1].ravel())


def test_a_file_that_is_no_picture_is_refused(tab, pictures):
    (pictures / "notes.png").write_text("no picture")
    model = {"height": 32, "width": 32, "stretch": False}
    said = refusal(tab, FIT, file="notes.png", model=model)
    assert said.startswith("notes.png is no picture that this browser can read; expected a JPEG")


def test_pictures_that_are_too_large_are_refused(tab):
    bytes_ = "(await import('./picture.js')).decoded({ name: 'scan.tif', size: 100000001 })"
    assert refusal(tab, bytes_) == "scan.tif has 100,000,001 bytes; at most 100,000,000"
    pixels = "(await import('./picture.js')).refuseTooMany(20000, 6000, 'map.png')"
    refused = "map.png has 20,000 x 6,000 pixels; at most 100,000,000 in all"
    assert refusal(tab, pixels) == refused


def refusal(tab: Tab, script: str, **values: object) -> str:
    """The message of the error that a script throws."""
    caught = f"(async () => {script})().then(() => '', (error) => error.message)"
    return tab.evaluate(caught, **values)


# Models


def test_a_model_says_the_same_of_itself_as_to_classify(tab, folder):
    half = folder / "fp16.onnx"
    half.write_bytes(in_fp16(fp32_model()).SerializeToString())
    paths = {"FP32": folder / "fp32.onnx", "INT8": folder / "int8.onnx", "FP16": half}
    write_models(folder)
    for precision, path in paths.items():
        found = tab.evaluate(DESCRIBE, file=path.name)
        classes, size, stretch, expected = read_description(path)
        assert found["classes"] == list(classes)
        assert (found["height"], found["width"], found["stretch"]) == (*size, stretch)
        assert (found["expected"], found["precision"]) == (expected, precision)


def write_changed(path: Path, **changes: object) -> None:
    """The FP32 model with other metadata; None: without it."""
    model = fp32_model()
    kept = {each.key: each.value for each in model.metadata_props} | {
        key: json.dumps(value) for key, value in changes.items()
    }
    del model.metadata_props[:]
    for key, value in kept.items():
        if value != "null":
            model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


INPUT = {"layout": "NCHW", "channels": "RGB", "type": "float32", "range": [0, 255]}


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": None},
        {"classes": [1, 2]},
        {"input": {**INPUT, "size": [32, 32], "channels": "BGR"}},
        {"input": {**INPUT, "size": [64, 64]}},
        {"input": {**INPUT, "size": [32, 32], "resize": "pad"}},
        {"expected": {"logits": [[1, 2]], "tolerance": 10}},
    ],
    ids=str,
)
def test_a_foreign_model_is_refused_for_the_reason_that_classify_gives(tab, folder, changes):
    write_changed(folder / "foreign.onnx", **changes)
    said = refusal(tab, DESCRIBE, file="foreign.onnx")
    with pytest.raises(classify.InputError) as refused:
        read_description(folder / "foreign.onnx")
    begin = "is not a model of this pipeline: it"
    assert said.startswith(begin)
    assert said[: len(begin) + 9] in str(refused.value)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_model_is_refused(tab, folder, damage):
    whole = fp32_model().SerializeToString()
    content = {"cut": whole[: len(whole) // 2], "text": b"no protobuf", "empty": b""}[damage]
    (folder / "damaged.onnx").write_bytes(content)
    said = refusal(tab, DESCRIBE, file="damaged.onnx")
    assert said.startswith("is not a model of this pipeline: it is damaged, or no ONNX file")


# Figures


def test_percentiles_are_those_of_the_last_fifty_samples(tab):
    values = np.random.default_rng(0).exponential(size=70).tolist()
    script = """(async () => {
      const samples = new (await import('./timing.js')).Samples();
      values.forEach((value) => samples.add(value));
      return [samples.count, ...[5, 50, 95].map((percent) => samples.percentile(percent))];
    })()"""
    count, *found = tab.evaluate(script, values=values)
    assert count == 50
    np.testing.assert_allclose(found, np.percentile(values[-50:], [5, 50, 95]), rtol=1e-12)


@pytest.mark.parametrize(
    ("ms", "step", "calls"), [(5.0, 0.1, 1), (0.5, 0.1, 4), (0.5, 1, 40), (0.5, 100, 500)]
)
def test_a_sample_is_of_so_many_calls_that_a_coarse_clock_can_tell(tab, ms, step, calls):
    script = "(await import('./timing.js')).callsOfSample(ms, step)"
    assert tab.evaluate(script, ms=ms, step=step) == calls


# What is missing


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("delete window.WebAssembly;", "This browser has no WebAssembly, which runs the network"),
        ("", "ONNX Runtime cannot be loaded ("),
    ],
    ids=["no WebAssembly", "no ONNX Runtime"],
)
def test_the_page_says_what_is_missing(browser, address, before, said):
    tab = Tab(browser, address, before)
    tab.wait_for("document.getElementById('main').ariaBusy === 'false'")
    assert tab.text("#problem").startswith(said)
    assert tab.evaluate("document.getElementById('file').disabled")
    tab.close()

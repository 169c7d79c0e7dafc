"""The folder that make web writes: in a real browser its models answer as elsewhere."""

import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from deploy.classify import Classifier, read_image
from stages.common.core.cli import InputError
from stages.common.inference.export.fp16 import in_fp16
from stages.common.inference.runtimes.expected import expected_metadata
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.tools.web import figures as figures_page
from stages.tools.web import runtime
from stages.tools.web.bundle import write_web_bundle
from stages.tools.web.runtime import RUNTIME, fetch_runtime, is_here
from tests.browser import CHROMIUM, Tab, served
from tests.conftest import make_images
from tests.networks import fp32_model, write_models
from tests.pipelines import ROOT
from tests.test_web_page import PICTURES, write_pictures

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to open the page")
needs_runtime = pytest.mark.skipif(
    not is_here(ROOT / RUNTIME), reason="needs ONNX Runtime Web: make test-web fetches it"
)

# The folder


@pytest.fixture
def fake_runtime(tmp_path, monkeypatch) -> Path:
    """A folder whose files count as ONNX Runtime Web."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in runtime.DIGESTS:
        (folder / name).write_text(name)
    monkeypatch.setattr(
        runtime, "DIGESTS", {path.name: runtime.digest(path, "sha256") for path in folder.iterdir()}
    )
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


def test_a_folder_has_the_page_the_runtime_the_models_and_the_licences(
    models, fake_runtime, tmp_path
):
    folder = tmp_path / "site"
    write_web_bundle(list(models), folder, fake_runtime)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    page = {path.name for path in (ROOT / "deploy" / "web").iterdir()}
    assert names == page | {
        "LICENSE",
        "models.json",
        "models/fp32.onnx",
        "models/int8.onnx",
        "onnxruntime/ort.wasm.bundle.min.js",
        "onnxruntime/ort-wasm-simd-threaded.wasm",
        "onnxruntime/LICENSE",
        "onnxruntime/ThirdPartyNotices.txt",
    }
    listed = json.loads((folder / "models.json").read_text())
    assert listed == {"models": ["models/fp32.onnx", "models/int8.onnx"]}


def test_a_folder_that_is_renewed_keeps_no_older_model(models, fake_runtime, tmp_path):
    write_web_bundle(list(models), tmp_path / "site", fake_runtime)
    write_web_bundle([models[1]], tmp_path / "site", fake_runtime)
    assert [path.name for path in (tmp_path / "site" / "models").iterdir()] == ["int8.onnx"]


def test_models_that_cannot_be_used_are_refused_before_anything_is_written(
    models, fake_runtime, tmp_path
):
    foreign, other = tmp_path / "foreign.onnx", tmp_path / "other" / "fp32.onnx"
    foreign.write_text("no model")
    other.parent.mkdir()
    other.write_bytes(models[0].read_bytes())
    for refused, said in (
        ([], "there is no model; run 'dvc pull"),
        ([tmp_path / "absent.onnx"], "absent.onnx is missing"),
        ([foreign], "foreign.onnx is not a model of this pipeline"),
        ([models[0], other], "two models are called fp32.onnx; rename one"),
    ):
        with pytest.raises(InputError, match=said):
            write_web_bundle(refused, tmp_path / "site", fake_runtime)
    assert not (tmp_path / "site").exists()


def test_the_runtime_is_taken_from_npm_once_and_only_as_it_was_tested(
    fake_runtime, tmp_path, monkeypatch
):
    archive = tmp_path / "package.tgz"

    def pack(*_: object) -> Path:
        with tarfile.open(archive, "w:gz") as file:
            for name in runtime.DIGESTS:
                file.add(fake_runtime / name, f"package/dist/{name}")
        return archive

    monkeypatch.setattr(runtime, "pack", pack)
    fetch_runtime(tmp_path / "first")
    assert is_here(tmp_path / "first")
    archive.unlink()
    fetch_runtime(tmp_path / "first")
    assert not archive.exists()
    altered = next(iter(runtime.DIGESTS))
    (fake_runtime / altered).write_text("other code")
    with pytest.raises(InputError, match=f"holds another {altered} than the tested one"):
        fetch_runtime(tmp_path / "second")
    assert not is_here(tmp_path / "second")


# In the browser


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_web_bundle(list(models), folder, ROOT / RUNTIME)
    write_pictures(folder)
    for number, pixels in enumerate(make_images(10).pixels):
        bgr = np.ascontiguousarray(pixels.transpose(1, 2, 0)[..., ::-1])
        cv2.imwrite(str(folder / f"cifar_{number}.png"), bgr)
    return folder


@pytest.fixture(scope="module")
def tab(browser, address) -> Iterator[Tab]:
    """One for most tests: loading ONNX Runtime is what takes long."""
    tab = Tab(browser, address)
    wait(tab)
    yield tab
    tab.close()


def wait(tab: Tab) -> None:
    tab.wait_for("document.getElementById('main').ariaBusy === 'false'")


def wait_for_source(tab: Tab, name: str) -> None:
    """Until the picture that is shown has this name."""
    tab.wait_for(f"document.getElementById('source').innerText.startsWith('{name}')")


def choose_picture(tab: Tab, path: Path) -> None:
    tab.choose_file("#file", path)
    wait_for_source(tab, path.name)
    wait(tab)


LOGITS = """(async () => {
  const { Network } = await import('./network.js');
  const { decoded, fitted, planes } = await import('./picture.js');
  const bytes = async (file) => (await fetch(file)).arrayBuffer();
  const network = await Network.load(model, new Uint8Array(await bytes(model)));
  const rows = [];
  for (const file of files) {
    const source = await decoded(new File([await bytes(file)], file));
    const picture = { source, width: source.width, height: source.height };
    rows.push([...(await network.logits(planes(fitted(picture, network))))]);
  }
  return rows;
})()"""


@needs_chromium
@needs_runtime
@pytest.mark.parametrize("name", ["fp32", "int8", "fp16"])
def test_pictures_get_the_logits_of_onnx_runtime_and_the_classes_of_classify(tab, folder, name):
    files = [*(f"cifar_{number}.png" for number in range(10)), *PICTURES]
    path = folder / "models" / f"{name}.onnx"
    if name == "fp16":  # beside the models that the page lists
        path.write_bytes(in_fp16(fp32_model()).SerializeToString())
    found = np.array(tab.evaluate(LOGITS, model=f"models/{path.name}", files=files))
    classifier = Classifier(path)
    images = [read_image(folder / file) for file in files]
    expected = OnnxRuntimeSession(path, threads=1).logits(classifier.blob(images))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.array_equal(found.argmax(1), classifier.predict(images).argmax(1))


def answer(tab: Tab) -> list[str]:
    """The classes that are shown, the most probable first."""
    names = "[...document.querySelectorAll('#classes .name')]"
    return tab.evaluate(f"{names}.map((name) => name.innerText)")


def rows(tab: Tab) -> list[list[str]]:
    script = "[...document.querySelectorAll('#rows tr')].map((row) => row.innerText)"
    return [[cell.strip() for cell in row.split("\t")] for row in tab.evaluate(script)]


@needs_chromium
@needs_runtime
def test_a_person_chooses_a_picture_switches_models_and_saves_the_times(
    browser, address, folder, models, tmp_path
):
    tab = Tab(browser, address)
    wait(tab)
    picture = folder / "photo.jpg"
    choose_picture(tab, picture)
    for model, precision in zip(models, ("FP32", "INT8"), strict=True):
        classifier = Classifier(model, "new")
        confidences = classifier.predict([read_image(picture)])[0]
        order = np.argsort(-confidences, kind="stable")[:5]
        assert answer(tab) == [classifier.classes[index] for index in order]
        assert tab.text("#classes li .share") == f"{100 * confidences[order[0]]:.1f} %"
        assert f"{precision}: " in tab.text("#time")
        if precision == "FP32":  # a person without a mouse
            tab.evaluate("document.getElementById('model-1').focus()")
            tab.press("ArrowDown")
            tab.wait_for("document.getElementById('time').innerText.startsWith('int8')")
    assert [row[3].split()[1:] for row in rows(tab)] == [["ms", "n", "=", "1"]] * 2
    tab.evaluate("document.getElementById('measure').click()")
    wait(tab)
    assert tab.text("#time").endswith(" ms (median of 50 runs)")
    tab.downloads(tmp_path)
    tab.evaluate("document.getElementById('save').click()")
    figures = saved_figures(tmp_path)
    assert figures["runtime"]["version"] == runtime.PACKAGE.partition("@")[2]
    assert figures["machine"]["cores"] >= 1
    assert "Chrom" in figures["machine"]["user_agent"]
    for model, precision, found in zip(models, ("FP32", "INT8"), figures["models"], strict=True):
        expected = {"model": model.stem, "size_bytes": model.stat().st_size, "samples": 50}
        assert found.items() >= {**expected, "precision": precision}.items()
        low, median, high = (found[f"latency_ms_{name}"] for name in ("p5", "median", "p95"))
        assert 0 < low <= median <= high
    assert f"| int8 | INT8 | {models[1].stat().st_size:,} | " in figures_page.markdown(figures)
    tab.close()


def saved_figures(folder: Path) -> dict:
    path = folder / "browser_figures.json"
    end = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, "the figures are not saved"
        time.sleep(0.05)
    return json.loads(path.read_text())


FIGURES = {
    "date": "2026-11-28T12:00:00.000Z",
    "machine": {"user_agent": "Some Browser", "device": {"model": "Pixel 9"}, "cores": 8},
    "runtime": {"version": "1.30.0"},
    "models": [
        {
            **{"model": "model_int8", "size_bytes": 1995979, "precision": "INT8", "samples": 50},
            **{"latency_ms_median": 6.5, "latency_ms_p5": 6.25, "latency_ms_p95": 7.125},
        }
    ],
}


def test_saved_figures_become_a_table_of_one_machine(tmp_path, monkeypatch, capsys):
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES))
    monkeypatch.setattr("sys.argv", ["figures", str(tmp_path / "figures.json")])
    figures_page.main()
    page = capsys.readouterr().out
    assert "| model_int8 | INT8 | 1,995,979 | 6.50 ms | 6.25 to 7.12 ms | 50 |" in page
    assert "Pixel 9, 8 cores, Some Browser; ONNX Runtime Web 1.30.0" in page


@pytest.mark.parametrize("content", [{}, {**FIGURES, "models": [{}]}, {**FIGURES, "machine": []}])
def test_a_file_that_is_no_figures_of_the_page_is_one_line(tmp_path, monkeypatch, content):
    (tmp_path / "other.json").write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["figures", str(tmp_path / "other.json")])
    with pytest.raises(InputError, match=r"other\.json lacks"):
        figures_page.main()


@needs_chromium
@needs_runtime
def test_nothing_is_asked_of_another_host(tab, address, folder):
    choose_picture(tab, folder / "cifar_0.png")
    asked = [each for each in tab.requests() if not each.startswith(("blob:", "data:"))]
    assert asked
    assert all(each.startswith(f"{address}/") for each in asked)
    blocked = "fetch('https://example.com').then(() => 'sent', () => 'blocked')"
    assert tab.evaluate(blocked) == "blocked"


DROP = """(async () => {
  const dataTransfer = new DataTransfer();
  const content = await (await fetch(file)).arrayBuffer();
  dataTransfer.items.add(new File([content], file.split('/').pop()));
  document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true }));
})()"""


@needs_chromium
@needs_runtime
def test_pictures_and_models_can_be_dropped_and_an_error_goes_with_the_next(tab, folder, models):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    tab.evaluate(DROP, file="broken.jpg")
    wait(tab)
    assert tab.text("#problem").startswith("broken.jpg is no picture that this browser can read")
    assert answer(tab) == []
    tab.evaluate(DROP, file="cifar_1.png")
    wait(tab)
    assert tab.text("#problem") == ""
    assert len(answer(tab)) == 5
    tab.evaluate(DROP, file="models/int8.onnx")
    wait(tab)
    assert [row[0] for row in rows(tab)] == ["fp32", "int8", "int8"]


@needs_chromium
@needs_runtime
def test_the_camera_is_classified_until_it_is_stopped(tab):
    tab.evaluate("document.getElementById('camera').click()")
    wait_for_source(tab, "Camera, ")
    runs = "Number(document.querySelector('#rows small').innerText.slice(4))"  # n = 7
    before = tab.evaluate(runs)
    tab.wait_for(f"{runs} > {before + 1}")
    assert len(answer(tab)) == 5
    tab.evaluate("document.getElementById('camera').click()")
    wait(tab)
    assert tab.text("#camera") == "Use the camera"
    assert tab.text("#problem") == ""


REJECT = """navigator.mediaDevices.getUserMedia = () =>
  Promise.reject(new DOMException('Requested device not found', 'NotFoundError'));"""
INSECURE = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });"


@needs_chromium
@needs_runtime
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (REJECT, "There is no camera: choose a picture instead"),
        (INSECURE, "Browsers give a camera to https and localhost only"),
    ],
    ids=["none", "plain http"],
)
def test_the_page_says_why_there_is_no_camera(tab, change, said):
    tab.evaluate(f"(() => {{ {change} }})()")
    tab.evaluate("document.getElementById('camera').click()")
    tab.wait_for("document.getElementById('problem').innerText")
    assert tab.text("#problem").startswith(said)


@needs_chromium
@needs_runtime
def test_a_model_that_is_computed_wrongly_and_one_that_is_missing_are_left_out(
    browser, models, tmp_path
):
    model = fp32_model()
    logits = np.random.default_rng(0).normal(size=(4, 10))
    for key, value in expected_metadata(logits, 10).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "wrong.onnx")
    paths = [tmp_path / "wrong.onnx", *models]
    write_web_bundle(paths, tmp_path / "site", ROOT / RUNTIME)
    (tmp_path / "site" / "models" / "fp32.onnx").unlink()
    with served(tmp_path / "site") as address:
        tab = Tab(browser, address)
        wait(tab)
        wrong, missing = tab.text("#problem").split("\n\n")
        assert wrong.startswith("wrong is computed wrongly here: its logits are ")
        assert missing == "models/fp32.onnx cannot be loaded (File not found)."
        assert [row[0] for row in rows(tab)] == ["int8"]
        tab.close()


@needs_chromium
@needs_runtime
def test_a_folder_without_models_says_so(browser, models, tmp_path):
    write_web_bundle([models[0]], tmp_path, ROOT / RUNTIME)
    (tmp_path / "models.json").unlink()
    with served(tmp_path) as address:
        tab = Tab(browser, address)
        wait(tab)
        assert tab.text("#problem").startswith("There is no model in this folder")
        tab.choose_file("#model", models[0])
        tab.wait_for("document.querySelectorAll('#rows tr').length")
        tab.close()


@needs_chromium
@needs_runtime
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(tab, folder, width):
    tab.set_window(width)
    choose_picture(tab, folder / "photo.jpg")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width

"""Sessions: every runtime makes the same predictions, and refuses in one line."""

from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.common.core.cli import InputError
from stages.common.inference.params import EvaluateParams
from stages.common.inference.runtimes import onnx_files
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import (
    ENGINES,
    NAMED_ENGINES,
    OpenCVSession,
    engine_code,
    installed_engines,
)
from stages.common.inference.sessions import predict, to_blob
from stages.common.measuring.params import BenchmarkParams
from tests.conftest import make_images
from tests.networks import fp32_model, write_models
from tests.test_benchmark import write_model

OPENERS = {
    "onnxruntime": lambda path: OnnxRuntimeSession(path, threads=1),
    **{
        engine: lambda path, engine=engine: OpenCVSession(path, engine=engine, threads=1)
        for engine in ENGINES
        if engine_code(engine) is not None
    },
}
everywhere = pytest.mark.parametrize("open_session", OPENERS.values(), ids=OPENERS.keys())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


def test_blob_is_what_opencv_makes_of_bgr_images():
    images = make_images(5)
    bgr = [np.ascontiguousarray(image[::-1].transpose(1, 2, 0)) for image in images.pixels]

    expected = cv2.dnn.blobFromImages(bgr, scalefactor=1, swapRB=True)

    np.testing.assert_array_equal(to_blob(images.pixels), expected)
    assert to_blob(images.pixels).dtype == np.float32


@everywhere
def test_a_session_takes_batches_of_any_size_in_any_order(models, open_session):
    session = open_session(models[0])
    blob = to_blob(make_images(7).pixels)
    one_by_one = np.concatenate([session.logits(blob[i : i + 1]) for i in range(7)])

    for count in (7, 2, 5, 1):
        logits = session.logits(blob[:count])
        assert logits.shape == (count, 10)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, one_by_one[:count], atol=1e-3)


@everywhere
@pytest.mark.parametrize("index", [0, 1], ids=["fp32", "int8"])
def test_all_runtimes_predict_the_same(models, open_session, index):
    images = make_images(200, seed=3)
    expected = predict(OPENERS["onnxruntime"](models[index]), images, batch_size=64).argmax(1)

    found = predict(open_session(models[index]), images, batch_size=64).argmax(1)

    assert (found == expected).mean() >= (1.0 if index == 0 else 0.97)
    assert (found == images.labels).mean() > 0.65


@everywhere
def test_a_session_takes_images_of_the_size_that_the_file_says(tmp_path, open_session):
    session = open_session(Path(write_model(tmp_path / "oblong.onnx", width=4, size=(24, 40))))
    assert session.shape == (3, 24, 40)
    assert session.logits(np.zeros((2, 3, 24, 40), np.float32)).shape == (2, 10)


@everywhere
def test_a_file_for_images_of_any_size_is_refused_in_one_line(tmp_path, open_session):
    path = Path(write_model(tmp_path / "any.onnx", width=4, size=("H", "W")))
    with pytest.raises(InputError, match=r"any\.onnx.* (refuses this model|expected images of)"):
        open_session(path)


def test_predict_returns_every_image_in_order_whatever_the_batch_size(models):
    session = OnnxRuntimeSession(models[0], threads=1)
    images = make_images(10)
    whole = predict(session, images, batch_size=10)

    for batch_size in (1, 3, 100):
        found = predict(session, images.pixels, batch_size=batch_size)
        np.testing.assert_allclose(found, whole, atol=1e-3)


def test_large_images_are_run_few_at_a_time():
    class Counting:
        shape = (3, 512, 512)
        calls: list[int] = []

        def logits(self, blob):
            self.calls.append(len(blob))
            return np.zeros((len(blob), 2), np.float32)

    predict(Counting(), np.zeros((9, 3, 512, 512), np.uint8), batch_size=250)
    assert Counting.calls == [4, 4, 1]


def test_opencv_session_sets_the_number_of_threads(models):
    OpenCVSession(models[0], engine="new", threads=1)

    assert cv2.getNumThreads() == 1


@everywhere
def test_a_missing_file_is_named(tmp_path, open_session):
    with pytest.raises(InputError, match=r"none\.onnx is missing; run 'dvc repro'"):
        open_session(tmp_path / "none.onnx")


@everywhere
@pytest.mark.parametrize("content", [b"", b"not a model" * 50, "half"], ids=["0", "text", "half"])
def test_a_damaged_file_is_refused_in_one_line(models, tmp_path, open_session, content, capfd):
    whole = models[0].read_bytes()
    path = tmp_path / "damaged.onnx"
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)

    with pytest.raises(InputError, match=r"damaged\.onnx: .*refuses this model") as caught:
        open_session(path)

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@everywhere
def test_an_operator_that_a_runtime_does_not_know_is_refused_in_one_line(
    tmp_path, open_session, capfd
):
    model = fp32_model()
    model.graph.node[1].op_type = "Fancy"
    path = tmp_path / "fancy.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(InputError, match=r"fancy\.onnx: .*refuses this model") as caught:
        open_session(path)

    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_refusal_names_the_engine_and_the_remedy(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("not a model")

    with pytest.raises(InputError, match=r"the engine 'new' of OpenCV .* choose another engine"):
        OpenCVSession(path, engine="new", threads=1)


def test_opencvs_log_level_is_restored_after_a_load(models):
    level = cv2.utils.logging.getLogLevel()

    OpenCVSession(models[0], engine="new", threads=1)

    assert cv2.utils.logging.getLogLevel() == level


@pytest.fixture
def no_classic_engine(monkeypatch):
    """As in OpenCV after 5.0.0."""
    monkeypatch.delattr(cv2.dnn, "ENGINE_CLASSIC", raising=False)


def test_an_engine_that_this_opencv_lacks_is_named(models, no_classic_engine):
    with pytest.raises(InputError, match=r"^OpenCV 5\S+ has no engine 'classic'; choose another"):
        OpenCVSession(models[0], engine="classic", threads=1)


def test_a_missing_engine_is_left_out_with_one_line(no_classic_engine, capsys):
    assert installed_engines(["classic", "new"], key="benchmark.engines_fp32") == ["new"]

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("benchmark.engines_fp32: OpenCV")
    assert line.endswith("has no engine 'classic'; it is left out")


def test_no_engine_left_is_an_error_that_names_the_param(no_classic_engine):
    with pytest.raises(InputError, match=r"^benchmark\.engines_int8: no engine is left; name one"):
        installed_engines(["classic"], key="benchmark.engines_int8")


def test_a_new_runtime_is_compared_like_the_others(models, monkeypatch):
    class Zeros:
        def __init__(self, path, threads):
            pass

        def logits(self, blob):
            return np.zeros((len(blob), 10), np.float32)

    known = onnx_files.onnx_runtimes
    monkeypatch.setattr(
        onnx_files, "onnx_runtimes", lambda engines: {**known(engines), ("zeros", "cpu"): Zeros}
    )
    logits, refused = onnx_files.logits_by_runtime(models[0], make_images(5), ["new"])
    assert list(logits) == ["onnxruntime", "opencv_new", "zeros"]
    assert not logits["zeros"].any()
    assert refused == {}


def test_a_runtime_that_refuses_the_file_is_named_beside_the_others(models, monkeypatch):
    def refuse(path, threads):
        raise InputError("no")

    known = onnx_files.onnx_runtimes
    monkeypatch.setattr(
        onnx_files, "onnx_runtimes", lambda engines: {**known(engines), ("other", "cpu"): refuse}
    )
    logits, refused = onnx_files.logits_by_runtime(models[0], make_images(5), ["new"])
    assert list(logits) == ["onnxruntime", "opencv_new"]
    assert refused == {"other": "refuses the file"}


@pytest.mark.parametrize(
    ("wanted", "wrong", "expected"),
    [
        ("new", [], "opencv_new"),
        ("new", ["opencv_new"], "opencv_classic"),
        ("classic", ["opencv_new"], "opencv_classic"),
        ("classic", ["opencv_classic"], "opencv_new"),
        ("auto", [], "opencv_auto"),
        ("auto", ["opencv_new"], "opencv_classic"),
        ("new", ["opencv_new", "opencv_classic"], "onnxruntime"),
    ],
)
def test_the_wanted_engine_is_opened_or_the_next_one_that_is_right(models, wanted, wrong, expected):
    name, session = onnx_files.open_right(models[0], wanted, wrong)

    assert name == expected
    assert session.logits(to_blob(make_images(2).pixels)).shape == (2, 10)


def test_no_runtime_that_is_right_is_an_error(models):
    with pytest.raises(InputError, match="no runtime is right here"):
        onnx_files.open_right(models[0], "new", {"opencv_new", "opencv_classic", "onnxruntime"})


def test_a_logit_error_is_a_share_of_the_logits_whatever_is_added_to_all_classes():
    expected = np.array([[3.0, -3.0], [-4.0, 4.0]])
    assert logit_error(expected + 7, expected) == 0
    assert logit_error(1.1 * expected, expected) == pytest.approx(10)
    assert not logit_error(np.full((2, 2), np.nan), expected) <= 5


def test_params_allow_exactly_the_engines_that_sessions_know():
    allowed = {field.name: field.metadata["rule"].allowed for field in fields(EvaluateParams)}
    assert allowed["engine"] == " or ".join(ENGINES)
    timed = {field.name: field.metadata["rule"].accepts for field in fields(BenchmarkParams)}
    for key in ("engines_fp32", "engines_int8"):
        assert timed[key](list(NAMED_ENGINES))
        assert not timed[key](["auto"])

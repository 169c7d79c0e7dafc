"""stages.runtimes: sessions in OpenVINO and ncnn, and the comparison of all runtimes in one run."""

import importlib.util
import json
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stages.common.core.cli import InputError
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import predict
from stages.common.inference.tflite.file import write_none
from stages.runtimes import measure
from stages.runtimes.comparison import catalogue, check
from stages.runtimes.comparison.advice import advice_text, with_advice
from stages.runtimes.comparison.check import FP32_TOLERANCE, share_of_other_threads
from stages.runtimes.comparison.page import markdown_page
from tests.conftest import make_images
from tests.networks import int8_tflite, write_models, write_params
from tests.small_graphs import residual

BENCHMARK = {
    "threads": 1,
    "rounds": 10,
    "calls": 1,
    "warmup": 0,
    "engines_fp32": ["classic", "new"],
    "engines_int8": ["classic", "new"],
    "bootstrap_samples": 100,
    "seed": 0,
}
ALWAYS_THERE = ("onnxruntime", "opencv_classic", "opencv_new", "litert")


def installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


needs_openvino = pytest.mark.skipif(
    not installed("openvino"), reason="needs openvino: make test-all"
)
needs_ncnn = pytest.mark.skipif(
    not installed("ncnn", "pnnx"), reason="needs ncnn and pnnx: make test-all"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def residual_onnx(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("residual") / "residual.onnx"
    onnx.save(residual(), path)
    return path


@pytest.fixture
def unknown_operator(tmp_path) -> Path:
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3, 8, 8]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("NoSuch", ["x"], ["y"])], "g", *([s] for s in shapes)
    )
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "unknown.onnx")
    return tmp_path / "unknown.onnx"


def by_definition(path: Path, pixels: np.ndarray) -> np.ndarray:
    return predict(OnnxRuntimeSession(path, threads=1, optimized=False), pixels, batch_size=8)


# Sessions


@needs_openvino
def test_openvino_computes_fp32_and_int8_as_the_file_says(models, residual_onnx):
    from stages.common.inference.runtimes.openvino import OpenVINOSession

    pixels = make_images(8).pixels
    for path, tolerance in (
        (models[0], FP32_TOLERANCE),
        (residual_onnx, FP32_TOLERANCE),
        (models[1], 1),
    ):
        logits = predict(OpenVINOSession(path, threads=1), pixels, batch_size=3)
        assert logits.shape == (8, 10)
        assert logit_error(logits, by_definition(path, pixels)) < tolerance, path


@needs_openvino
def test_openvino_logits_are_not_overwritten_by_the_next_call(models):
    from stages.common.inference.runtimes.openvino import OpenVINOSession

    session = OpenVINOSession(models[0], threads=1)
    blobs = make_images(2).pixels.astype(np.float32)
    first = session.logits(blobs[:1])
    kept = first.copy()
    session.logits(blobs[1:])
    np.testing.assert_array_equal(first, kept)


@needs_openvino
def test_openvino_refuses_an_unknown_operator_in_one_line(unknown_operator):
    from stages.common.inference.runtimes.openvino import OpenVINOSession

    with pytest.raises(InputError, match=r"unknown\.onnx: OpenVINO .* refuses this model") as error:
        OpenVINOSession(unknown_operator, threads=1)
    assert "\n" not in str(error.value)


@needs_ncnn
def test_ncnn_computes_fp32_as_the_file_says(models, residual_onnx):
    from stages.common.inference.runtimes.ncnn import NcnnSession

    pixels = make_images(8).pixels
    for path in (models[0], residual_onnx):
        logits = predict(NcnnSession(path, threads=1), pixels, batch_size=3)
        assert logits.shape == (8, 10)
        assert logit_error(logits, by_definition(path, pixels)) < FP32_TOLERANCE, path


@needs_ncnn
def test_ncnn_refuses_a_qdq_file_and_an_unknown_operator_in_one_line(models, unknown_operator):
    from stages.common.inference.runtimes.ncnn import NcnnSession

    for path in (models[1], unknown_operator):
        with pytest.raises(InputError, match=f"{path.name}: ") as error:
            NcnnSession(path, threads=1)
        assert "\n" not in str(error.value)


# What is left out


def fake(open_session, **changes) -> catalogue.Runtime:
    return catalogue.Runtime("Fake", lambda model, threads: open_session(model.onnx), **changes)


class Off:
    """ONNX Runtime's logits, off by a share of them."""

    def __init__(self, path: Path, share: float):
        self._session = OnnxRuntimeSession(path, threads=1)
        self.shape = self._session.shape
        self._share = share

    def logits(self, blob: np.ndarray) -> np.ndarray:
        logits = self._session.logits(blob)
        return logits + self._share * logits[:, ::-1]


class Helped(Off):
    """As much work as it does itself is done in another thread."""

    def __init__(self, path: Path):
        super().__init__(path, share=0)

    def logits(self, blob: np.ndarray) -> np.ndarray:
        helper_thread = threading.Thread(target=self._session.logits, args=(blob,))
        helper_thread.start()
        helper_thread.join()
        return super().logits(blob)


def block_of(monkeypatch, path: Path, is_int8: bool, runtime: catalogue.Runtime) -> dict:
    monkeypatch.setitem(catalogue.RUNTIMES, "fake", runtime)
    variant = catalogue.Variant("some", str(path), macs=1, is_int8=is_int8)
    names = ["onnxruntime", "fake"]
    sessions, block = check.right_sessions(catalogue.Model(variant), names, 1, int8_tolerance=10)
    assert list(sessions) == list(block["runtimes"])
    return block


@pytest.mark.parametrize(
    ("precision", "share", "word"),
    [("fp32", 1e-6, None), ("fp32", 1e-3, "wrong"), ("int8", 1e-3, None), ("int8", 0.5, "wrong")],
)
def test_a_runtime_whose_logits_are_off_is_named_and_not_timed(
    models, monkeypatch, capsys, precision, share, word
):
    path = models[precision == "int8"]
    block = block_of(monkeypatch, path, precision == "int8", fake(lambda path: Off(path, share)))
    if word is None:
        assert block["left_out"] == {}
        assert not block["runtimes"]["fake"]["bit_exact"]
    else:
        assert list(block["runtimes"]) == ["onnxruntime"]
        assert block["left_out"]["fake"]["word"] == "wrong"
        assert re.search(
            r"some is not timed in Fake: computes logits that are .* % off", capsys.readouterr().out
        )


def test_equal_logits_are_called_equal_bit_for_bit(models, monkeypatch):
    block = block_of(monkeypatch, models[0], False, fake(lambda path: Off(path, share=0)))
    assert block["runtimes"]["fake"]["bit_exact"]


def test_a_runtime_that_refuses_a_model_is_named_and_not_timed(models, monkeypatch, capsys):
    def refuse(path: Path):
        raise InputError("no such operator")

    block = block_of(monkeypatch, models[0], False, fake(refuse))
    assert block["left_out"] == {"fake": {"word": "refused", "detail": "no such operator"}}
    assert "some is not timed in Fake: no such operator" in capsys.readouterr().out


def test_a_runtime_that_takes_no_qdq_is_not_even_tried(models, monkeypatch):
    block = block_of(monkeypatch, models[1], True, fake(None, takes_qdq=False))
    assert block["left_out"]["fake"]["word"] == "no QDQ"


def test_a_runtime_that_uses_a_second_thread_is_named_and_not_timed(models, monkeypatch):
    block = block_of(monkeypatch, models[0], False, fake(Helped))
    assert block["left_out"]["fake"]["word"] == "threads"


def test_work_in_other_threads_is_seen_and_waiting_is_none():
    def burn() -> None:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass

    def burn_elsewhere() -> None:
        thread = threading.Thread(target=burn)
        thread.start()
        thread.join()

    assert share_of_other_threads(burn) < 0.05
    assert share_of_other_threads(burn_elsewhere) > 0.5


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None)
    missing = measure.missing_runtimes()
    assert list(missing) == ["openvino", "ncnn"]
    assert missing["ncnn"] == (
        "ncnn and pnnx not installed (pip install -r requirements-runtimes.txt)"
    )
    assert capsys.readouterr().out.count("is left out") == 2


def test_an_engine_that_this_opencv_lacks_is_one_line(monkeypatch):
    monkeypatch.setattr(catalogue, "engine_code", lambda engine: {"new": 3}.get(engine))
    assert "no engine 'classic'" in measure.missing_runtimes()["opencv_classic"]


# LiteRT


def litert_model(path: Path, is_int8: bool, tflite: Path | None = None) -> catalogue.Model:
    return catalogue.Model(catalogue.Variant("some", str(path), 1, is_int8), tflite)


@pytest.mark.parametrize("is_int8", [False, True])
def test_without_a_tflite_file_litert_runs_one_made_of_the_onnx_file(models, is_int8):
    path, pixels = models[is_int8], make_images(8).pixels
    session = catalogue.in_litert(litert_model(path, is_int8), threads=1)
    error = logit_error(predict(session, pixels, batch_size=1), by_definition(path, pixels))
    assert error < (10 if is_int8 else FP32_TOLERANCE)


def test_the_pipelines_own_tflite_file_is_run_where_there_is_one(models, tmp_path):
    own = tmp_path / "own.tflite"
    own.write_bytes(int8_tflite())
    session = catalogue.in_litert(litert_model(models[1], True, own), threads=1)
    assert session.logits(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)

    write_none(own, "an operator has no such form")
    with pytest.raises(InputError, match="holds no model: an operator has no such form"):
        catalogue.in_litert(litert_model(models[1], True, own), threads=1)


def test_logits_beyond_the_range_of_a_tflite_file_are_no_fault_of_litert(models, tmp_path):
    own = tmp_path / "own.tflite"
    own.write_bytes(int8_tflite())
    model = litert_model(models[1], True, own)
    reference = check.reference_of(model, threads=1, int8_tolerance=10)
    assert np.abs(reference.expected).max() > 10  # the file's end at 8
    _, found = check.admitted(catalogue.RUNTIMES["litert"], model, reference, threads=1)
    assert found["logit_error"] < 10


def test_litert_is_timed_with_integers_as_its_file_takes_them(models):
    session = catalogue.in_litert(litert_model(models[1], True), threads=1)
    call = catalogue.timed_call(session, np.zeros((1, 3, 32, 32), np.float32))
    assert call.args[0].dtype == np.int8
    assert call.args[0].shape == (1, 32, 32, 3)
    assert call().shape == (1, 10)


# The stage


@pytest.fixture(scope="module")
def result(models, tmp_path_factory) -> dict:
    """The JSON, the page and the advice of the stage, whatever is installed."""
    folder = tmp_path_factory.mktemp("stage")
    params = write_params(folder / "params.yaml", benchmark=BENCHMARK)
    names = {"metrics": "r.json", "table": "r.md", "advice": "a.md"}
    command = ["measure", "--params", str(params)]
    command += ["--variant", f"base={models[0]}", "--variant", f"base_int8={models[1]}"]
    for flag, name in names.items():
        command += [f"--{flag}", str(folder / name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        measure.main()
    return {
        "json": json.loads((folder / "r.json").read_text()),
        "page": (folder / "r.md").read_text(),
        "advice": (folder / "a.md").read_text(),
    }


def test_every_installed_runtime_times_every_model_that_it_takes(result):
    models, missing = result["json"]["models"], result["json"]["environment"]["missing"]
    expected = [name for name in catalogue.RUNTIMES if name not in missing]
    assert set(ALWAYS_THERE) <= set(expected)
    assert list(models["base"]["runtimes"]) == expected
    assert list(models["base_int8"]["runtimes"]) == [each for each in expected if each != "ncnn"]
    blocks = [found for block in models.values() for found in block["runtimes"].values()]
    assert all(block.keys() == blocks[0].keys() for block in blocks)
    assert all(block["latency_ms_median"] > 0 < block["share_of_matmul"] for block in blocks)


def test_ratios_refer_to_the_faster_engine_of_opencv(result):
    for block in result["json"]["models"].values():
        ratios = {name: found["ratio_to_opencv"] for name, found in block["runtimes"].items()}
        assert min(ratios["opencv_classic"], ratios["opencv_new"]) == 1


def test_the_page_has_a_table_for_each_precision_with_one_bold_cell_a_row(result):
    rows = [line for line in result["page"].splitlines() if line.startswith("| base")]
    assert [row.split(" | ")[0] for row in rows] == ["| base", "| base_int8"]
    assert all(row.count("**") == 2 for row in rows)
    assert all(len(cell.strip()) <= 40 for row in rows for cell in row.split("|"))
    assert "| FP32 | MACs | ONNX Runtime | OpenCV classic |" in result["page"]
    assert "| INT8 | MACs | ONNX Runtime | OpenCV classic |" in result["page"]


@needs_ncnn
def test_the_page_says_that_ncnn_takes_no_qdq(result):
    row = next(line for line in result["page"].splitlines() if line.startswith("| base_int8"))
    assert row.endswith(" no QDQ |")
    assert "- base_int8 in ncnn: takes no QDQ file" in result["page"]


def test_a_tflite_file_goes_with_the_variant_of_its_name(models, tmp_path):
    variants = [("base", str(models[0])), ("base_int8", str(models[1]))]
    tflite = tmp_path / "some.tflite"
    tflite.write_bytes(int8_tflite())
    found = measure.read_models(variants, [("base_int8", str(tflite))])
    assert [model.tflite for model in found] == [None, tflite]
    assert [model.variant.is_int8 for model in found] == [False, True]


def test_files_that_are_missing_and_names_that_are_wrong_are_refused(models):
    base = ("base", str(models[0]))
    for variants, tflites, said in (
        ([base], [("other", "x.tflite")], r"--tflite other=... is of no model; expected: base"),
        ([base], [("base", "typo.tflite")], r"typo.tflite is missing"),
        ([base, base], [], r"--variant base=... is given twice"),
    ):
        with pytest.raises(InputError, match=said):
            measure.read_models(variants, tflites)


# The runtime to use


def made_up(**models: dict[str, tuple[float, float | None]]) -> dict:
    """A JSON with these medians and ratios to OpenCV by runtime; INT8 where the name says so."""
    return with_advice(
        {
            "environment": {"cpu": "Some CPU", "threads": 1, "missing": {}},
            "models": {
                name: {
                    "precision": "int8" if name.endswith("int8") else "fp32",
                    "runtimes": {
                        runtime: {"latency_ms_median": ms, "ratio_to_opencv": ratio}
                        for runtime, (ms, ratio) in medians.items()
                    },
                }
                for name, medians in models.items()
            },
        }
    )


def test_the_fastest_right_runtime_is_advised_with_its_ratios_to_opencv():
    text = advice_text(
        made_up(
            base={"onnxruntime": (1.0, 0.5), "openvino": (0.8, 0.4), "opencv_new": (2.0, 1.0)},
            small={"onnxruntime": (0.3, 0.5), "openvino": (0.31, 0.52), "opencv_new": (0.6, 1.0)},
            base_int8={"onnxruntime": (0.3, 0.3), "litert": (0.2, 0.2), "opencv_new": (1.0, 1.0)},
        )
    )
    assert "| FP32 | OpenVINO, 0.40 to 0.52 | OpenVINO, 0.40 to 0.52 |" in text
    assert "| INT8 | LiteRT, 0.20 | ONNX Runtime, 0.30 |" in text
    assert "(Some CPU, 1 thread), ranked by the geometric mean of all networks; " in text
    assert "; times as multiples of that of OpenCV's faster engine." in text


def test_a_runtime_that_is_wrong_for_one_model_is_not_advised():
    text = advice_text(
        made_up(
            base={"onnxruntime": (1.0, 0.5), "openvino": (0.1, 0.1)},
            small={"onnxruntime": (0.3, 0.5)},
        )
    )
    assert "| FP32 | ONNX Runtime, 0.50 | ONNX Runtime, 0.50 |" in text
    assert "INT8" not in text


def test_no_ratio_is_given_where_opencv_is_the_fastest_or_not_right():
    text = advice_text(made_up(base={"opencv_new": (1.0, 1.0)}))
    assert "| FP32 | OpenCV new | OpenCV new |" in text
    assert "multiples" not in text
    unknown = {"base": {"onnxruntime": (1.0, None)}}
    assert "| FP32 | ONNX Runtime |" in advice_text(made_up(**unknown))
    some = {**unknown, "small": {"onnxruntime": (0.5, 0.3)}}
    assert "| FP32 | ONNX Runtime, 0.30 |" in advice_text(made_up(**some))
    assert advice_text(made_up(base={})) == (
        "No runtime is right here for all models of a precision.\n"
    )


def test_models_with_the_same_fault_share_a_line_and_missing_runtimes_have_one():
    fault = {"word": "wrong", "detail": "computes logits that are 12 % off"}
    found = {"logit_error": 0.0, "bit_exact": True, "latency_ms_median": 1.0, "share_of_matmul": 1}
    block = {"precision": "fp32", "macs": 10**6, "runtimes": {"onnxruntime": found}}
    others = [name for name in catalogue.RUNTIMES if name not in ("onnxruntime", "ncnn")]
    block["left_out"] = dict.fromkeys(others, fault)
    environment = {
        **{"cpu": "Some CPU", "threads": 1, "rounds": 10, "calls": 1, "matmul_gflops": 100.0},
        **{"opencv": "5", "onnxruntime": "1", "packages": {"ncnn": "2"}},
        "missing": {"ncnn": "ncnn not installed"},
    }
    page = markdown_page({"environment": environment, "models": {"one": block, "two": block}})
    assert "- one, two in OpenVINO: computes logits that are 12 % off" in page
    assert "- ncnn: ncnn not installed" in page
    assert "| ncnn |" not in page
    assert "| **1.000 ms (100 %)** | wrong |" in page

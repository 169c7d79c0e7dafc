"""Comparing revisions finds real changes and no others."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import CLASSES, IMAGE_SHAPE
from stages.common.measuring import interleaved_timing as timing
from stages.common.revisions import paired_timing
from stages.common.revisions.changes import (
    NO_CHANGE,
    AccuracyChange,
    CompareRevisionsParams,
    Comparison,
    Footprint,
    LatencyChange,
    exceeded,
    judge_accuracy,
    judge_latency,
)
from stages.common.revisions.changes_table import sentence
from stages.common.revisions.paired_timing import compare_latency
from stages.tools import compare_revisions as tool
from tests.conftest import DATA
from tests.test_benchmark import SLOW_WIDTH, write_model
from tests.test_model_files import commit_models, make_repository

PARAMS = {
    "threads": 1,
    "blocks": 8,
    "rounds": 5,
    "calls": 3,
    "warmup": 1,
    "bootstrap_samples": 200,
    "seed": 0,
    "latency_noise": 0.01,
    "max_accuracy_drop": 100,
    "max_latency_ratio": 1.5,
    "max_bytes_ratio": 1000,
}
ENGINES = {"opencv": "new", "onnxruntime": "cpu"}
EVALUATE = {"engine": "new", "batch_size": 100}


def params(**changes) -> CompareRevisionsParams:
    return CompareRevisionsParams(**PARAMS | changes)


# ------------------------------------------------------------------------------------- latency


def loads(rng: np.random.Generator, median: float, spread: float) -> np.ndarray:
    """(12, 25) latencies of a busy machine: each load has its own speed, some calls wait."""
    samples = median * np.exp(rng.normal(scale=spread, size=(12, 1)))
    samples = samples * np.exp(rng.normal(scale=spread, size=(12, 25)))
    return samples * np.where(rng.random((12, 25)) < 0.2, 1 + rng.exponential(2, (12, 25)), 1)


@pytest.mark.parametrize("spread", [0.002, 0.02, 0.08])
def test_loads_of_one_speed_are_called_changed_in_at_most_1_of_20_tries(spread):
    rng = np.random.default_rng(0)
    outcomes = [
        judge_latency(loads(rng, 4, spread), loads(rng, 4, spread), params()).outcome
        for _ in range(100)
    ]
    assert sum(found != NO_CHANGE for found in outcomes) <= 5


@pytest.mark.parametrize(("median", "expected"), [(4.8, "slower"), (3.2, "faster")])
def test_a_change_of_20_percent_is_found_on_a_busy_machine(median, expected):
    rng = np.random.default_rng(0)
    changes = [
        judge_latency(loads(rng, 4, 0.02), loads(rng, median, 0.02), params()) for _ in range(20)
    ]
    assert all(change.outcome == expected for change in changes)
    assert sum(change.ratio_low <= median / 4 <= change.ratio_high for change in changes) >= 16


def test_a_certain_change_below_the_noise_counts_as_none():
    base = np.random.default_rng(0).normal(4, 0.001, size=(12, 25))
    change = judge_latency(base, 1.008 * base, params(latency_noise=0.01))
    assert (change.outcome, change.ratio_low > 1) == (NO_CHANGE, True)
    assert judge_latency(base, 1.008 * base, params(latency_noise=0.005)).outcome == "slower"


def renamed(path: str, target: Path) -> Path:
    """The same network in other bytes."""
    model = onnx.load(path)
    model.doc_string = "the same"
    onnx.save(model, target)
    assert target.read_bytes() != Path(path).read_bytes()
    return target


def test_one_network_twice_has_no_detectable_change_in_19_of_20_tries(tmp_path):
    """With the real clock: on a busy machine too."""
    base = Path(write_model(tmp_path / "base.onnx", width=8))
    head = renamed(base, tmp_path / "head.onnx")
    tries = [
        compare_latency(base, head, IMAGE_SHAPE, ENGINES, params(seed=seed)) for seed in range(20)
    ]
    for runtime in ("opencv", "onnxruntime"):
        changed = [each[runtime] for each in tries if each[runtime].outcome != NO_CHANGE]
        assert len(changed) <= 1, changed


def test_both_files_are_loaded_anew_in_every_block_in_changing_order(tmp_path, monkeypatch):
    loaded = []
    files = tmp_path / "base.onnx", tmp_path / "head.onnx"

    class FakeSession:
        def __init__(self, path, threads, engine="cpu"):
            loaded.append((path.stem, engine))

        def logits(self, blob):
            return blob

    monkeypatch.setattr(paired_timing, "OpenCVSession", FakeSession)
    monkeypatch.setattr(paired_timing, "OnnxRuntimeSession", FakeSession)
    monkeypatch.setattr(timing, "SETTLE_MS", 0)
    samples_ms = paired_timing.time_blocks(*files, IMAGE_SHAPE, ENGINES, params(blocks=20))
    assert samples_ms.shape == (20, 5, 2, 2, 3)
    blocks = [loaded[start : start + 4] for start in range(0, len(loaded), 4)]
    assert len(blocks) == 20
    assert all(len(set(block)) == 4 for block in blocks)
    first = [next(side for side, engine in block if engine == "new") for block in blocks]
    assert 4 < first.count("base") < 16


def test_samples_are_those_of_the_file_and_runtime_whatever_the_order(tmp_path, monkeypatch):
    spent_ms = {"base opencv": 1, "head opencv": 2, "base onnxruntime": 4, "head onnxruntime": 8}
    clock = [0]

    class FakeSession:
        def __init__(self, runtime, path):
            self.name = f"{path.stem} {runtime}"

        def logits(self, blob):
            clock[0] += spent_ms[self.name] * 1_000_000

    monkeypatch.setattr(paired_timing, "load", lambda runtime, path, *_: FakeSession(runtime, path))
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: clock[0])
    files = tmp_path / "base.onnx", tmp_path / "head.onnx"
    samples_ms = paired_timing.time_blocks(*files, IMAGE_SHAPE, ENGINES, params())
    assert (samples_ms == np.array([[1, 2], [4, 8]])[..., None]).all()


# ------------------------------------------------------------------------------------ accuracy


def predictions_with(labels: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    return np.where(wrong, (labels + 1) % len(CLASSES), labels)


def test_a_loss_in_one_class_is_worse_and_names_only_that_class():
    labels = np.arange(10_000) % 10
    base = predictions_with(labels, wrong=np.zeros(10_000, bool))
    cats = labels == CLASSES.index("cat")
    head = predictions_with(labels, wrong=cats & (np.arange(10_000) < 800))  # 80 of 1,000 cats
    change = judge_accuracy(base, head, labels, CLASSES)
    assert (change.outcome, change.base, change.head, change.change) == ("worse", 100, 99.2, -0.8)
    assert change.classes_moved == {"cat": -8.0}
    assert (change.only_base_right, change.only_head_right) == (80, 0)
    assert change.change_low <= change.change <= change.change_high < 0
    assert judge_accuracy(head, base, labels, CLASSES).outcome == "better"


def test_classes_that_moved_are_named_even_where_the_overall_accuracy_did_not():
    labels = np.arange(10_000) % 10
    index = np.arange(10_000)
    cats, dogs = (labels == CLASSES.index(name) for name in ("cat", "dog"))
    base = predictions_with(labels, wrong=cats & (index < 500))
    head = predictions_with(labels, wrong=dogs & (index < 500))
    change = judge_accuracy(base, head, labels, CLASSES)
    assert (change.outcome, change.change) == (NO_CHANGE, 0)
    assert change.classes_moved == {"cat": 5.0, "dog": -5.0}
    compared = Comparison("pruned", "compared", Footprint(1, 1), Footprint(1, 1), {}, change)
    assert "pruned's accuracy moved in cat +5.00, dog -5.00" in sentence([compared], [])


def test_as_many_errors_on_other_images_are_no_change():
    labels = np.arange(10_000) % 10
    index = np.arange(10_000)
    base = predictions_with(labels, wrong=index < 500)
    head = predictions_with(labels, wrong=(index >= 500) & (index < 1010))
    change = judge_accuracy(base, head, labels, CLASSES)
    assert (change.outcome, change.classes_moved) == (NO_CHANGE, {})
    assert change.change_low < 0 < change.change_high
    assert change.change == -0.1


def test_two_different_wrong_answers_are_no_change():
    labels = np.zeros(100, int)
    change = judge_accuracy(np.ones(100, int), np.full(100, 2), labels, CLASSES)
    assert (change.outcome, change.p_value, change.change) == (NO_CHANGE, 1, 0)


# ---------------------------------------------------------------------------------- tolerances


def comparison(latency=("slower", 1.2, 1.1, 1.3), accuracy=("worse", -1.0, -1.4, -0.6), size=100):
    change = LatencyChange(*latency, p_value=0.001, base_ms_median=1, head_ms_median=1)
    points = AccuracyChange(*accuracy[:1], 92, 91, *accuracy[1:], 0.001, 150, 50, 10_000, {})
    return Comparison(
        variant="pruned",
        status="compared",
        base=Footprint(size_bytes=100, macs=1),
        head=Footprint(size_bytes=size, macs=1),
        latency={"opencv": change},
        accuracy=points,
    )


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"max_accuracy_drop": 0.5}, "pruned loses 1.00 points of accuracy [0.60, 1.40], allowed"),
        ({"max_accuracy_drop": 0.7}, None),  # the interval reaches into what is allowed
        ({"max_latency_ratio": 1.05}, "pruned takes 1.20 × [1.10, 1.30] the time in OpenCV DNN"),
        ({"max_latency_ratio": 1.15}, None),
        ({"max_bytes_ratio": 0.99}, "pruned has 1.00 × the bytes, allowed 0.99"),
    ],
)
def test_a_tolerance_is_exceeded_only_when_the_whole_interval_is_beyond_it(changes, phrase):
    found = exceeded(comparison(), params(**changes))
    assert len(found) == (phrase is not None)
    if phrase:
        assert found[0].startswith(phrase)
        assert sentence([comparison()], found) == f"Tolerance exceeded: {found[0]}."


def test_an_undetectable_change_exceeds_no_tolerance():
    unsure = comparison(latency=(NO_CHANGE, 1.2, 1.1, 1.3), accuracy=(NO_CHANGE, -1, -2, 0.1))
    strict = params(max_latency_ratio=1, max_accuracy_drop=0, max_bytes_ratio=1)
    assert exceeded(unsure, strict) == []
    assert sentence([unsure], []) == f"No tolerance exceeded: {NO_CHANGE}."


# ------------------------------------------------------------------------------------ revisions


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """v1 and v2: 'slowed' has a hundred times the work in v2; one variant goes, one comes."""
    folder = tmp_path_factory.mktemp("revisions")
    small, large = (
        Path(write_model(folder / f"{width}.onnx", width)).read_bytes() for width in (4, SLOW_WIDTH)
    )
    root = make_repository(folder / "repository")
    commit_models(root, "v1", {"kept": small, "slowed": small, "gone": small})
    commit_models(root, "v2", {"kept": small, "slowed": large, "added": large})
    return root


def run_tool(root, data, monkeypatch, *revisions: str, **changes) -> dict:
    """Run the tool as a user does, on the CPU's clock; its JSON, and under 'exit' its exit code."""
    (root / "params.yaml").write_text(
        yaml.safe_dump({"compare_revisions": PARAMS | changes, "evaluate": EVALUATE})
    )
    command = ["compare_revisions", *revisions, "--data", data, "--json", "build/v.json"]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--markdown", "build/v.md"])
    monkeypatch.setattr(timing.time, "perf_counter_ns", time.process_time_ns)
    code = 0
    try:
        tool.main()
    except SystemExit as end:
        code = end.code
    return {**json.loads((root / "build" / "v.json").read_text()), "exit": code}


def test_a_slower_model_is_called_slower_and_exceeds_its_tolerance(
    root, data_directory, monkeypatch, capsys
):
    result = run_tool(root, data_directory, monkeypatch, "v1")  # against the working tree: v2

    variants = result["variants"]
    assert {name: block["status"] for name, block in variants.items()} == {
        "kept": "same file",
        "slowed": "compared",
        "gone": "only in base",
        "added": "only in head",
    }
    assert len({tuple(block) for block in variants.values()}) == 1  # identical keys
    for runtime in ("opencv", "onnxruntime"):
        change = variants["slowed"]["latency"][runtime]
        assert change["outcome"] == "slower"
        assert change["ratio_high"] >= change["ratio"] >= change["ratio_low"] > 1.5
    assert variants["slowed"]["head"]["macs"] > 100 * variants["slowed"]["base"]["macs"]
    assert variants["slowed"]["accuracy"]["images"] == 100
    assert result["exit"] == 1
    assert result["tolerance_exceeded"]
    report = (root / "build" / "v.md").read_text()
    assert report.startswith("**Tolerance exceeded: slowed takes ")
    same = "no detectable change (same file)"
    assert f"| kept | {same} | {same} | {same} |" in report
    assert set(variants["kept"]["outcomes"].values()) == {NO_CHANGE}
    assert set(variants["gone"]["outcomes"].values()) == {None}
    assert set(variants["slowed"]["outcomes"]) == {"opencv", "onnxruntime", "accuracy"}
    assert variants["slowed"]["outcomes"]["opencv"] == "slower"
    accuracy = variants["slowed"]["accuracy"]["outcome"]
    assert variants["slowed"]["outcomes"]["accuracy"] == accuracy
    assert report.strip() in capsys.readouterr().out


def test_the_other_way_round_it_is_faster_and_exceeds_nothing(root, data_directory, monkeypatch):
    result = run_tool(root, data_directory, monkeypatch, "v2", "v1")
    latency = result["variants"]["slowed"]["latency"]
    assert [change["outcome"] for change in latency.values()] == ["faster", "faster"]
    assert (result["exit"], result["exceeded"]) == (0, [])
    assert result["summary"].startswith(
        "No tolerance exceeded: added is only in base; slowed is faster in OpenCV DNN; slowed is "
        "faster in ONNX Runtime; "
    )


def test_a_larger_file_exceeds_its_tolerance(root, data_directory, monkeypatch):
    changes = {"max_bytes_ratio": 2, "max_latency_ratio": 1e6}
    result = run_tool(root, data_directory, monkeypatch, "v1", "v2", **changes)
    assert result["exit"] == 1
    assert len(result["exceeded"]) == 1
    assert "× the bytes, allowed 2" in result["exceeded"][0]


def test_the_same_revision_twice_runs_nothing_and_needs_no_images(root, tmp_path, monkeypatch):
    result = run_tool(root, tmp_path / "absent", monkeypatch, "v1", "v1")
    for block in result["variants"].values():
        assert block["status"] == "same file"
        assert set(block["outcomes"].values()) == {NO_CHANGE}
    assert result["summary"] == f"No tolerance exceeded: {NO_CHANGE}."
    assert result["exit"] == 0


@pytest.mark.parametrize(
    ("base", "head", "said"),
    [
        (
            {"size": (64, 64)},
            {},
            "net is for 64x64 pixels and 10 classes in sized and for 32x32 pixels and 10 classes "
            "in the working tree; compare a revision with the same images",
        ),
        ({}, {"classes": 2}, "and for 32x32 pixels and 2 classes in the working tree"),
        (
            {"size": (48, 40)},
            {"size": (48, 40), "width": 6},
            "net is for 48x40 pixels and 10 classes, the test images are 32x32 pixels and 10",
        ),
    ],
)
def test_models_for_other_images_are_refused_in_one_line(
    tmp_path, data_directory, monkeypatch, base, head, said
):
    root = make_repository(tmp_path / "repository")
    for tag, kind in (("sized", base), ("head", head)):
        path = write_model(tmp_path / f"{tag}.onnx", **{"width": 4, **kind})
        commit_models(root, tag, {"net": Path(path).read_bytes()})
    with pytest.raises(InputError) as refusal:
        run_tool(root, data_directory, monkeypatch, "sized")
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_test_images_are_those_of_the_params_unless_others_are_named(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"data": {**DATA, "source": "folder"}}))
    args = argparse.Namespace(params=params, data=None)
    assert tool.data_folder(args) == Path("data/folder")
    assert tool.data_folder(argparse.Namespace(params=params, data=tmp_path)) == tmp_path


def test_an_engine_that_a_check_found_wrong_is_not_compared(
    tmp_path, data_directory, monkeypatch, capsys
):
    root = make_repository(tmp_path / "repository")
    for width, tag in ((4, "base"), (6, "head")):
        path = write_model(tmp_path / f"{tag}.onnx", width)
        commit_models(root, tag, dict.fromkeys(("a", "b", "c"), Path(path).read_bytes()))
    checks = {
        "a": ["opencv_new"],
        "b": ["opencv_new", "opencv_classic"],
        "c": ["opencv_new", "opencv_classic", "onnxruntime"],
    }
    content = yaml.safe_load((root / "dvc.yaml").read_text())
    for name, wrong in checks.items():
        (root / f"{name}.json").write_text(json.dumps({"wrong_here": dict.fromkeys(wrong, "")}))
        variants = content["vars"][1]["variants"]
        variants[name] = {"onnx": variants[name], "check": f"{name}.json"}
    (root / "dvc.yaml").write_text(yaml.safe_dump(content))

    result = run_tool(root, data_directory, monkeypatch, "base", max_latency_ratio=1000)

    blocks = result["variants"]
    assert blocks["a"]["engines"] == {"opencv": "classic", "onnxruntime": "cpu"}
    assert blocks["b"]["latency"]["opencv"] is None
    assert blocks["b"]["accuracy"]["images"] == 100
    assert blocks["c"]["accuracy"] is None
    assert len({tuple(block) for block in blocks.values()}) == 1
    said = capsys.readouterr().out
    assert "| c | wrong here | wrong here | wrong here |" in said
    assert "OpenCV's engine 'new' is wrong for some: a in classic, b in none, c in none." in said


def test_missing_test_images_are_named(root, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"test_batch\.bin is missing; run 'dvc repro prepare'"):
        run_tool(root, tmp_path / "absent", monkeypatch, "v1", "v2")


def test_revisions_without_a_common_variant_are_refused(root, data_directory, monkeypatch):
    commit_models(root, "v3", {"other": b"unused"})
    with pytest.raises(InputError, match="no variant in common"):
        run_tool(root, data_directory, monkeypatch, "v1", "v3")


@pytest.mark.parametrize(
    ("key", "value"), [("blocks", 7), ("max_latency_ratio", 0.9), ("threads", 999)]
)
def test_a_wrong_param_is_named(root, data_directory, monkeypatch, key, value):
    with pytest.raises(InputError, match=rf"compare_revisions\.{key} is {value}; allowed: "):
        run_tool(root, data_directory, monkeypatch, "v1", **{key: value})

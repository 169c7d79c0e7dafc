import csv
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from stages import benchmark
from stages.common.core.cli import InputError
from stages.common.inference.runtimes import onnx_files
from stages.common.measuring import interleaved_timing as timing
from stages.common.measuring.int8_or_fp32 import RATIO_KEYS
from stages.common.measuring.latency_rows import Contestant, Variant, latency_rows
from stages.common.measuring.machine import available_cores, describe_machine

PARAMS = {
    "threads": 1,
    "rounds": 10,
    "calls": 3,
    "warmup": 2,
    "engines_fp32": ["classic", "new"],
    "engines_int8": ["new"],
    "bootstrap_samples": 100,
    "seed": 0,
}
SLOW_WIDTH = 96  # about a hundred times the work of width 4


def write_model(
    path: Path,
    width: int,
    int8: bool = False,
    size: tuple[int | str, int | str] = (32, 32),
    classes: int = 10,
) -> str:
    """Two 3x3 convolutions of this width, a global pool and a linear layer; INT8 as QDQ.

    ``size``: height and width of the images.
    """
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.normal(size=(width, 3, 3, 3), scale=0.1),
        "second": rng.normal(size=(width, width, 3, 3), scale=0.1),
        "head": rng.normal(size=(width, classes), scale=0.1),
        "bias": np.zeros(width),
        "head_bias": np.zeros(classes),
    }
    constants = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    ]
    nodes = []
    if int8:
        constants.append(numpy_helper.from_array(np.float32(1), "scale"))
        constants.append(numpy_helper.from_array(np.uint8(0), "zero"))
        nodes.append(helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]))
    nodes += [
        helper.make_node(
            "Conv", ["dq" if int8 else "image", "first", "bias"], ["a"], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second", "bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalMaxPool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "head", "head_bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        inputs=[helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, *size])],
        outputs=[helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        initializer=constants,
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return str(path)


def run_benchmark(
    directory: Path,
    monkeypatch,
    variants: dict[str, str],
    wrong: dict[str, list[str]] | None = None,
    **changes,
) -> tuple[dict, list[dict]]:
    """Run the stage as DVC does; its JSON and the rows of its CSV. ``wrong``: the runtimes that
    the checks of some variants found wrong.
    """
    params, metrics, latency = (directory / name for name in ("p.yaml", "m.json", "l.csv"))
    params.write_text(yaml.safe_dump({"benchmark": PARAMS | changes}))
    command = ["benchmark", "--params", str(params)]
    command += ["--metrics", str(metrics), "--latency", str(latency)]
    for name, path in variants.items():
        command += ["--variant", f"{name}={path}"]
    for name, runtimes in (wrong or {}).items():
        check = directory / f"{name}_check.json"
        check.write_text(json.dumps({"wrong_here": dict.fromkeys(runtimes, "differs")}))
        command += ["--check", f"{name}={check}"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    with open(latency, newline="") as file:
        return json.loads(metrics.read_text()), list(csv.DictReader(file))


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> tuple[dict, list[dict]]:
    """A fast base, a variant with a hundred times the work, and an INT8 file.

    The clock is this process's CPU time, so that other processes cannot make the test fail.
    """
    directory = tmp_path_factory.mktemp("benchmark")
    variants = {
        "base": write_model(directory / "base.onnx", width=4),
        "slow": write_model(directory / "slow.onnx", width=SLOW_WIDTH),
        "small_int8": write_model(directory / "small_int8.onnx", width=4, int8=True),
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(timing.time, "perf_counter_ns", time.process_time_ns)
        return run_benchmark(directory, monkeypatch, variants)


@pytest.fixture
def model(tmp_path) -> str:
    return write_model(tmp_path / "model.onnx", width=4)


def blocks(metrics: dict) -> dict:
    return {name: block for name, block in metrics.items() if name != "environment"}


def test_a_slower_model_has_a_ratio_above_1_in_both_runtimes(result):
    metrics, _ = result
    for runtime in ("opencv", "onnxruntime"):
        assert metrics["slow"][runtime]["ratio_to_base"] > 1
        assert metrics["slow"][runtime]["ratio_to_base_low"] > 1
        assert metrics["base"][runtime]["ratio_to_base"] == 1


def test_all_variants_have_identical_keys(result):
    metrics, _ = result
    keys = [
        {runtime: list(values) for runtime, values in b.items()} for b in blocks(metrics).values()
    ]
    assert list(blocks(metrics)) == ["base", "slow", "small_int8"]
    assert all(key == keys[0] for key in keys)
    assert keys[0]["opencv"] == keys[0]["onnxruntime"]


def test_percentiles_are_in_order_and_intervals_hold_the_ratio(result):
    _, rows = result
    for row in rows:
        low, median, high = (float(row[f"latency_ms_{name}"]) for name in ("p5", "median", "p95"))
        assert 0 < low <= median <= high
        ratio_low, ratio, ratio_high = (
            float(row[f"ratio_to_base{name}"]) for name in ("_low", "", "_high")
        )
        assert ratio_low <= ratio <= ratio_high


def test_every_engine_has_a_row_and_one_of_each_runtime_is_the_fastest(result):
    metrics, rows = result
    timed = [(row["variant"], row["runtime"], row["engine"]) for row in rows]
    assert timed == [
        ("base", "opencv", "classic"),
        ("base", "opencv", "new"),
        ("base", "onnxruntime", "cpu"),
        ("slow", "opencv", "classic"),
        ("slow", "opencv", "new"),
        ("slow", "onnxruntime", "cpu"),
        ("small_int8", "opencv", "new"),
        ("small_int8", "onnxruntime", "cpu"),
    ]
    for name, block in blocks(metrics).items():
        for runtime in block:
            candidates = [r for r in rows if (r["variant"], r["runtime"]) == (name, runtime)]
            [fastest] = [row for row in candidates if row["fastest"] == "true"]
            medians = [float(row["latency_ms_median"]) for row in candidates]
            assert float(fastest["latency_ms_median"]) == min(medians)
            assert block[runtime]["engine"] == fastest["engine"]
            assert block[runtime]["latency_ms_median"] == min(medians)


def test_gflops_are_two_operations_a_mac_over_the_median(result):
    metrics, _ = result
    macs = 1024 * (3 * 9 * 4 + 4 * 9 * 4) + 4 * 10
    block = metrics["base"]["onnxruntime"]
    expected = 2 * macs / (block["latency_ms_median"] / 1e3) / 1e9
    assert block["gflops"] == pytest.approx(expected, abs=0.01)
    share = block["gflops"] / metrics["environment"]["matmul_gflops"]
    assert block["share_of_matmul"] == pytest.approx(share, abs=0.001)


def test_environment_describes_the_machine_and_the_measurement(result):
    environment = result[0]["environment"]
    assert environment["threads"] == 1
    assert (environment["rounds"], environment["calls"]) == (10, 3)
    assert environment["matmul_gflops"] > 0
    assert environment.items() >= describe_machine().items()
    assert all(environment[key] for key in ("cpu", "system", "opencv", "onnxruntime"))


def test_every_contestant_gets_a_session_of_its_own(model, monkeypatch):
    made = []

    class FakeSession:
        def __init__(self, path, threads, engine="cpu"):
            made.append((str(path), engine, threads))

    monkeypatch.setattr(onnx_files, "OpenCVSession", FakeSession)
    monkeypatch.setattr(onnx_files, "OnnxRuntimeSession", FakeSession)
    variants = [benchmark.read_variant(name, model) for name in ("base", "twin")]
    loaded, _ = benchmark.load_contestants(variants, benchmark.BenchmarkParams(**PARAMS), {})
    assert made == [(model, engine, 1) for engine in ("classic", "new", "cpu")] * 2
    assert len({id(session) for _, session in loaded}) == 6


def test_every_model_is_timed_on_images_of_its_own_size(tmp_path, monkeypatch):
    variants = {
        "base": write_model(tmp_path / "base.onnx", width=4, size=(48, 40)),
        "small": write_model(tmp_path / "small.onnx", width=4, size=(8, 8)),
    }
    metrics, _ = run_benchmark(tmp_path, monkeypatch, variants)
    assert set(blocks(metrics)) == {"base", "small"}


def test_int8_files_are_recognized_by_their_operators(tmp_path, model):
    quantized = write_model(tmp_path / "q.onnx", width=4, int8=True)
    assert benchmark.read_variant("q", quantized).is_int8
    assert not benchmark.read_variant("f", model).is_int8


def test_a_refusing_engine_is_an_error_that_names_the_engine_and_the_params(tmp_path, model):
    broken = onnx.load(model)
    broken.graph.node[1].op_type = "Fancy"
    variant = Variant("base", str(tmp_path / "broken.onnx"), macs=1, is_int8=False)
    onnx.save(broken, variant.path)
    params = benchmark.BenchmarkParams(**PARAMS | {"engines_fp32": ["new"]})
    with pytest.raises(InputError, match=r"engine 'new' of OpenCV .* refuses .*benchmark\.engines"):
        benchmark.load_contestants([variant], params, {})


def test_more_threads_than_cores_are_refused(tmp_path, model, monkeypatch):
    cores = available_cores()
    with pytest.raises(
        InputError, match=f"benchmark.threads is {cores + 1}; allowed: 1 to {cores}"
    ):
        run_benchmark(tmp_path, monkeypatch, {"base": model}, threads=cores + 1)


def test_a_missing_model_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=re.escape("absent.onnx is missing")):
        run_benchmark(tmp_path, monkeypatch, {"base": str(tmp_path / "absent.onnx")})


@pytest.mark.parametrize("text", ["model.onnx", "=model.onnx", "base=", "environment=model.onnx"])
def test_a_variant_without_a_usable_name_is_refused(tmp_path, monkeypatch, capsys, text):
    monkeypatch.setattr(
        sys,
        "argv",
        ["benchmark", "--params", "p", "--metrics", "m", "--latency", "l", "--variant", text],
    )
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "expected NAME=PATH" in capsys.readouterr().err


def test_every_round_times_all_in_an_order_that_changes():
    orders = timing.measurement_orders(contestants=4, rounds=200, seed=0)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    followers = {(a, b) for order in orders for a, b in zip(order, order[1:], strict=False)}
    assert len(followers) == 4 * 3
    counts = np.bincount(orders[:, 0], minlength=4)
    assert counts.min() > 200 / 4 / 2


def test_contestants_have_turns_in_every_round_after_the_warm_up(monkeypatch):
    monkeypatch.setattr(timing, "SETTLE_MS", 0)
    made = []
    contestants = [lambda name=name: made.append(name) for name in "ab"]
    rounds, calls, warmup = 10, 5, 3
    samples_ms = timing.time_interleaved(contestants, rounds, calls, warmup, seed=0)
    assert samples_ms.shape == (rounds, 2, calls)
    assert made[: 2 * warmup] == ["a"] * warmup + ["b"] * warmup
    turns = np.array(made[2 * warmup :]).reshape(rounds, 2, timing.SETTLE_CALLS + calls)
    assert (turns == turns[:, :, :1]).all()
    assert (turns[:, 0, 0] != turns[:, 1, 0]).all()


class Machine:
    """Calls on a clock of its own; after another model a call is slower, less so each time."""

    def __init__(self, monkeypatch):
        self.now_ns, self.last, self.excess = 0, "", 0.0
        monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: self.now_ns)

    def model(self, name: str, ms: float) -> Callable[[], None]:
        """Double the time after another model; halfway back with each call, or each 0.5 ms."""

        def call() -> None:
            self.excess = 1.0 if self.last != name else self.excess / 2 ** min(1, ms / 0.5)
            self.last = name
            self.now_ns += int(1e6 * ms * (1 + self.excess))

        return call


def test_a_turn_is_settled_by_some_calls_and_some_milliseconds(monkeypatch):
    machine = Machine(monkeypatch)
    for ms, dropped_at_least in ((0.1, 30), (20.0, timing.SETTLE_CALLS)):
        machine.last = ""
        samples_ns = timing.time_turn(machine.model(f"{ms} ms", ms), calls=1)
        spent_ns = machine.now_ns
        assert samples_ns == [pytest.approx(1e6 * ms, rel=0.1)]
        machine.now_ns = 0
        assert spent_ns >= 1e6 * (timing.SETTLE_MS + ms)
        assert spent_ns >= 1e6 * ms * (dropped_at_least + 1)


def test_one_more_model_hardly_changes_the_medians_of_the_others(monkeypatch):
    machine = Machine(monkeypatch)
    models = [machine.model(str(ms), ms) for ms in (0.1, 0.3, 1.0, 10.0, 0.2)]

    def medians_ms(contestants: list[Callable[[], None]]) -> np.ndarray:
        return np.median(timing.time_interleaved(contestants, 10, 5, 2, seed=0), axis=(0, 2))

    all_of_them = medians_ms(models)
    assert np.abs(medians_ms(models[:-1]) / all_of_them[:-1] - 1).max() < 0.03
    assert np.abs(medians_ms(models[:1]) / all_of_them[:1] - 1).max() < 0.03


def test_ratios_refer_to_the_fastest_engine_of_the_base():
    base, other = (Variant(name, "", macs=1000, is_int8=False) for name in ("base", "other"))
    contestants = [
        Contestant(base, "opencv", "classic"),
        Contestant(base, "opencv", "new"),
        Contestant(other, "opencv", "classic"),
    ]
    samples_ms = np.tile([[8.0], [4.0], [2.0]], (10, 1, 5))
    rows = latency_rows(contestants, samples_ms, bootstrap_samples=100, seed=0)
    assert [row["ratio_to_base"] for row in rows] == [2.0, 1.0, 0.5]
    assert [row["fastest"] for row in rows] == ["false", "true", "true"]


def test_int8_has_a_ratio_to_the_fastest_engine_of_its_own_fp32_model():
    base, pruned = (Variant(name, "", macs=1000, is_int8=False) for name in ("base", "pruned"))
    int8 = Variant("pruned_int8", "", macs=1000, is_int8=True)
    contestants = [
        Contestant(base, "opencv", "new"),
        Contestant(pruned, "opencv", "classic"),
        Contestant(pruned, "opencv", "new"),
        Contestant(int8, "opencv", "new"),
    ]
    noise = np.random.default_rng(0).normal(scale=0.1, size=(25, 4, 2))
    samples_ms = np.array([[8.0], [6.0], [4.0], [2.0]]) + noise
    rows = latency_rows(contestants, samples_ms, bootstrap_samples=100, seed=0)
    assert [row["ratio_to_fp32"] for row in rows[:3]] == [1.0, pytest.approx(1.5, abs=0.05), 1.0]
    medians = np.median(samples_ms, axis=(0, 2))
    assert rows[3]["ratio_to_fp32"] == pytest.approx(medians[3] / medians[2], abs=1e-4)
    assert 0.45 < rows[3]["ratio_to_fp32_low"] < 0.5 < rows[3]["ratio_to_fp32_high"] < 0.55


def test_int8_without_its_fp32_model_has_the_same_keys_and_no_ratio_to_it(result):
    """--variant names are free."""
    for runtime in ("opencv", "onnxruntime"):
        block = result[0]["small_int8"][runtime]
        assert [block[key] for key in RATIO_KEYS] == [None] * 3
        assert block["ratio_to_base"] > 0


@pytest.mark.parametrize(("load", "warns"), [(None, False), (0.0, False), (999.0, True)])
def test_a_busy_machine_is_a_warning(capsys, load, warns):
    timing.warn_if_busy(load, threads=1)
    assert ("warning: load average" in capsys.readouterr().out) == warns


def test_without_opencvs_classic_engine_the_others_are_timed(tmp_path, model, monkeypatch, capsys):
    """OpenCV has removed it after 5.0.0; params may still name it."""
    monkeypatch.delattr(cv2.dnn, "ENGINE_CLASSIC", raising=False)
    metrics, rows = run_benchmark(tmp_path, monkeypatch, {"base": model, "twin": model})

    timed = [(row["variant"], row["engine"]) for row in rows]
    assert timed == [("base", "new"), ("base", "cpu"), ("twin", "new"), ("twin", "cpu")]
    assert metrics["base"]["opencv"]["engine"] == "new"
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert lines[0].startswith("benchmark.engines_fp32: OpenCV")


def test_a_new_runtime_is_timed_like_the_others(tmp_path, model, monkeypatch):
    known = benchmark.onnx_runtimes
    monkeypatch.setattr(
        benchmark,
        "onnx_runtimes",
        lambda engines: {**known(engines), ("other", "cpu"): onnx_files.OnnxRuntimeSession},
    )
    metrics, rows = run_benchmark(tmp_path, monkeypatch, {"base": model}, engines_fp32=["new"])
    assert [row["runtime"] for row in rows] == ["opencv", "onnxruntime", "other"]
    assert metrics["base"]["other"].keys() == metrics["base"]["opencv"].keys()


def test_an_engine_that_is_wrong_for_a_file_is_not_timed_with_it(tmp_path, model, monkeypatch):
    metrics, rows = run_benchmark(
        tmp_path, monkeypatch, {"base": model, "twin": model}, wrong={"twin": ["opencv_new"]}
    )
    timed = [row["engine"] for row in rows if row["variant"] == "twin"]
    assert timed == ["classic", "cpu"]
    assert metrics["twin"]["opencv"]["engine"] == "classic"
    assert metrics["environment"]["wrong_here"] == {"twin": ["opencv_new"]}


def test_a_check_of_no_variant_is_refused(tmp_path, model, monkeypatch):
    """A typing error would have an engine timed that the file's own check found wrong."""
    with pytest.raises(InputError, match=r"--check tiwn=... is of no model; expected: base, twin"):
        run_benchmark(
            tmp_path, monkeypatch, {"base": model, "twin": model}, {"tiwn": ["opencv_new"]}
        )


def test_a_base_that_is_wrong_in_a_runtime_leaves_no_ratio_there(tmp_path, model, monkeypatch):
    both = ["opencv_new", "opencv_classic"]
    metrics, _ = run_benchmark(
        tmp_path, monkeypatch, {"base": model, "twin": model}, wrong={"base": both}
    )
    assert list(metrics["base"]) == ["onnxruntime"]
    assert metrics["twin"]["opencv"]["ratio_to_base"] is None
    assert metrics["twin"]["onnxruntime"]["ratio_to_base"] > 0


def test_a_variant_that_nothing_computes_right_is_refused(tmp_path, model, monkeypatch):
    everything = ["opencv_new", "opencv_classic", "onnxruntime"]
    with pytest.raises(InputError, match=r"all that benchmark\.engines_fp32 would time is wrong"):
        run_benchmark(tmp_path, monkeypatch, {"base": model}, wrong={"base": everything})


def test_nothing_is_said_of_wrong_engines_where_there_is_none(result):
    assert "wrong_here" not in result[0]["environment"]

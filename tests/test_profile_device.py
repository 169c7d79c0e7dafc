"""The profiler: its files are what export and quantize write, its fit finds what is there."""

import ast
import inspect
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from deploy import profile_device
from deploy.profile_device import STEP, Layer, layers_of, onnx_of
from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import cost_of, shape_of
from stages.common.measuring import interleaved_timing as timing
from stages.common.measuring import machine
from stages.common.pruning.latency.model import model_from, read_profile
from stages.tools import validate_profile
from tests.networks import CONFIG, fp32_model, int8_model

WIDEST = [[16, 16], [24, 32], [32, 16]]


def built(widths: list[list[int]], is_int8: bool) -> onnx.ModelProto:
    model = onnx.load_from_string(onnx_of(layers_of(widths), is_int8))
    onnx.checker.check_model(model, full_check=True)
    return model


def structure(model: onnx.ModelProto) -> list[tuple]:
    """Operators from the input on, with attributes and the shapes and types of their constants.

    Weights' DequantizeLinear may stand anywhere before what reads them: it is told with that.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}

    def told(name: str) -> object:
        if name in constants:
            return (tuple(constants[name].dims), constants[name].data_type)
        maker = makers.get(name)
        if maker is not None and maker.input[0] in constants:
            return (maker.op_type, attributes(maker), *map(told, maker.input))
        return "activation"

    return [
        (node.op_type, attributes(node), *map(told, node.input))
        for node in model.graph.node
        if node.input[0] not in constants
    ]


def attributes(node: onnx.NodeProto) -> tuple:
    # group and storage_order say what is the default.
    kept = [each for each in node.attribute if each.name not in ("group", "storage_order")]
    values = ((each.name, onnx.helper.get_attribute_value(each)) for each in kept)
    values = [(name, tuple(value) if isinstance(value, list) else value) for name, value in values]
    if node.op_type == "MaxPool":
        values = [(name, value) for name, value in values if name != "dilations"]
    return tuple(sorted(values))


@pytest.mark.parametrize("exported", [fp32_model, int8_model])
def test_its_networks_are_what_export_and_quantize_write(exported):
    """The same operators, shapes and types, so that they take as long."""
    expected = exported()
    found = built(CONFIG["widths"], exported is int8_model)
    for ours, theirs in zip(structure(found), structure(expected), strict=True):
        assert ours == theirs
    assert found.ir_version == expected.ir_version
    assert found.opset_import[0].version == expected.opset_import[0].version
    for ours, theirs in zip(
        [*found.graph.input, *found.graph.output],
        [*expected.graph.input, *expected.graph.output],
        strict=True,
    ):
        assert shape_of(ours) == shape_of(theirs)
    assert (
        cost_of(found).macs == cost_of(expected).macs == validate_profile.macs_of(CONFIG["widths"])
    )


@pytest.mark.parametrize("is_int8", [False, True])
def test_a_layer_alone_is_a_valid_file(is_int8):
    for layer in (Layer(8, 16, 15, pools=(2,)), Layer(24, 10, 1, kernel=1, is_head=True)):
        model = onnx.load_from_string(onnx_of([layer], is_int8))
        onnx.checker.check_model(model, full_check=True)
        assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim][1:] == list(
            layer.shape_out
        )


def test_numbers_are_encoded_as_protocol_buffers_do():
    assert profile_device.varint(0) == b"\x00"
    assert profile_device.varint(300) == b"\xac\x02"
    proto = onnx.helper.make_attribute("name", [1, 300])
    assert onnx.AttributeProto.FromString(profile_device.attribute("name", [1, 300])) == proto


def test_tables_are_exact_at_the_grid_and_keep_cliffs_of_odd_and_even_steps_apart():
    inputs, outputs = profile_device.channels_in(256), profile_device.channels_out(256)

    def ms(channels: int, width: int) -> float:
        odd, wide = width // STEP % 2, channels >= 64 and width >= 64
        return 0.02 + 1e-5 * channels * width * (2 if odd else 1) * (0.4 if wide else 1)

    points = {pair: ms(*pair) for pair in product(inputs, outputs)}
    table = profile_device.filled_table((inputs, outputs), points, most=256)
    counts = STEP * np.arange(1, 33)
    expected = np.array([[ms(channels, width) for width in counts] for channels in counts])
    assert table.shape == (32, 32)
    assert np.abs(table / expected - 1).max() < 1e-9


def test_the_fit_finds_the_costs_of_networks_from_tables_that_are_off():
    """Each layer's table is wrong by a factor, and a network costs 0.1 ms before any layer."""
    rng = np.random.default_rng(0)
    sizes = [1, 2, 2, 3, 4, 4, 2, 1]
    tables = [rng.uniform(0.1, 1.0, size=shape) for shape in zip(sizes, sizes[1:], strict=False)]
    factors = rng.uniform(0.7, 1.4, size=len(tables))
    networks = [profile_device.random_widths(rng, WIDEST) for _ in range(60)]

    def truth(widths: list[list[int]]) -> float:
        return 0.1 + float(factors @ profile_device.at(tables, widths))

    terms = profile_device.terms_of(WIDEST, tables)
    part = profile_device.fitted(terms, networks, np.array([truth(each) for each in networks]))
    content = {"format": profile_device.FORMAT, "device": "d", "step": STEP, "widths": WIDEST}
    content["fitted"] = {"fp32": {"new": part}, "int8": {}}
    model = model_from(content, "p.json")
    unseen = [profile_device.random_widths(rng, WIDEST) for _ in range(30)]
    errors = [abs(model.predict(each) / truth(each) - 1) for each in unseen]
    plain = [abs(profile_device.at(tables, each).sum() / truth(each) - 1) for each in unseen]
    assert np.median(errors) < 0.01 < np.median(plain)
    assert part["error_left_out"]["median"] < 0.01


def test_tables_without_negative_times_give_every_network_the_same_time():
    rng = np.random.default_rng(0)
    sizes = [1, 2, 2, 3, 4, 4, 2, 1]
    tables = [rng.normal(0.2, 0.5, size=shape) for shape in zip(sizes, sizes[1:], strict=False)]
    fastest, beyond = profile_device.beyond_the_fastest(tables)
    assert all((table >= 0).all() for table in beyond)
    every = product(*([8 * (1 + i) for i in range(size)] for size in sizes[1:-1]))
    networks = [[list(each[:2]), list(each[2:4]), list(each[4:])] for each in every]
    before = [profile_device.at(tables, widths).sum() for widths in networks]
    after = [fastest + profile_device.at(beyond, widths).sum() for widths in networks]
    assert after == pytest.approx(before)
    assert fastest == pytest.approx(min(before))


def test_a_fit_by_which_some_network_takes_no_time_is_not_taken(monkeypatch):
    """However small its error on the networks that were timed."""
    terms = profile_device.terms_of([[8]], [np.ones((1, 1)), np.ones((1, 1))])
    errors = {1e-3: 0.01, 1e-2: 0.02, 1e-1: 0.03}
    fastest_ms = {1e-3: -0.1, 1e-2: 0.1}

    def fit_with(ridge: float, *_: object) -> profile_device.Fit:
        error = np.full(2, errors.get(ridge, 1.0))
        fastest = fastest_ms.get(ridge, 1.0)
        return profile_device.Fit(ridge, np.ones(6), error, fastest, terms.tables)

    monkeypatch.setattr(profile_device, "fit_with", fit_with)
    part = profile_device.fitted(terms, [[[8]]] * 2, np.ones(2))
    assert (part["ridge"], part["constant_ms"]) == (1e-2, 0.1)
    assert part["error_left_out"]["median"] == 0.02


def test_networks_that_were_disturbed_in_all_their_turns_do_not_bend_the_fit():
    rng = np.random.default_rng(0)
    sizes = [1, 2, 2, 3, 4, 4, 2, 1]
    tables = [rng.uniform(0.1, 1.0, size=shape) for shape in zip(sizes, sizes[1:], strict=False)]
    networks = [profile_device.random_widths(rng, WIDEST) for _ in range(48)]
    matrix = profile_device.design(profile_device.terms_of(WIDEST, tables), networks)
    expected = 1.2 * matrix[:, : len(tables)].sum(axis=1)
    measured = expected * rng.normal(1, 0.01, size=48)
    measured[::6] *= rng.uniform(1.5, 3, size=8)
    found = matrix @ profile_device.fit(matrix, measured, ridge=1e-2)
    assert np.median(np.abs(found / expected - 1)) < 0.02


def test_cross_validation_does_not_see_what_it_is_tested_on():
    """Times that have nothing to do with the widths cannot be predicted."""
    rng = np.random.default_rng(0)
    networks = [profile_device.random_widths(rng, WIDEST) for _ in range(30)]
    tables = [rng.uniform(0.1, 1.0, shape) for shape in ((1, 2), (2, 2), (2, 3), (3, 4))]
    tables += [rng.uniform(0.1, 1.0, shape) for shape in ((4, 4), (4, 2), (2, 1))]
    matrix = profile_device.design(profile_device.terms_of(WIDEST, tables), networks)
    noise = rng.uniform(0.5, 2.0, size=30)
    assert np.median(profile_device.errors_left_out(matrix, noise, 1e-3)) > 0.15


@pytest.fixture(scope="module")
def profile(tmp_path_factory) -> Path:
    """Made by the file alone, in a folder without anything else of the repository."""
    folder = tmp_path_factory.mktemp("device")
    script = folder / "profile_device.py"
    script.write_text(Path(profile_device.__file__).read_text())
    words = [os.fsdecode(b"caf\xe9.json"), "--device", "board", "--seconds", "1"]
    words += ["--networks", "8"]
    words += ["--widths", json.dumps(WIDEST)]
    subprocess.run(
        [sys.executable, "-I", script.name, *words], cwd=folder, check=True, timeout=300,
        capture_output=True,
    )  # fmt: skip
    return folder / os.fsdecode(b"caf\xe9.json")


def test_it_imports_nothing_but_numpy_opencv_and_pythons_own():
    tree = ast.parse(Path(profile_device.__file__).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                for name in node.names}  # fmt: skip
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert others == {"cv2", "numpy"}


def test_without_opencv_the_command_says_how_to_get_it():
    bare = [sys.executable, "-I", "-S", profile_device.__file__, "board.json"]  # no site-packages
    run = subprocess.run(bare, capture_output=True, text=True)
    assert run.returncode == 2
    [line] = run.stderr.splitlines()
    assert line == "error: No module named 'cv2'; run: python3 -m pip install numpy opencv-python"


def test_a_slow_device_gets_fewer_rounds_and_a_fast_one_more(monkeypatch):
    clock = [0.0]

    def visit(number, case, engines, reference):
        clock[0] += 2.0
        return profile_device.Visit(number, case, 1.0, {each: np.ones(5) for each in engines})

    monkeypatch.setattr(profile_device, "visit", visit)
    monkeypatch.setattr(profile_device.time, "perf_counter", lambda: clock[0])
    cases = [
        profile_device.Case(layers_of(widths), is_int8=False, what=widths)
        for widths in ([[8, 8]], [[16, 8]])
    ]
    engines = {"fp32": ["new", "classic"]}
    for seconds, rounds in ((100, 25), (12, 3), (6, 2), (5, 1), (0.1, 1)):  # a round takes 4 s
        found = profile_device.measure(cases, engines, lambda: print, seconds, title="t")
        assert len(found) == 2 * rounds, seconds
        timings = profile_device.at_one_speed(found, reference_ms=3.0)
        assert [(each.case.what, each.engine) for each in timings] == [
            (widths, engine) for widths in ([[8, 8]], [[16, 8]]) for engine in ("classic", "new")
        ]
        assert all((each.samples_ms == np.full(5 * rounds, 3.0)).all() for each in timings)


class Device:
    """Networks on a clock of its own, whose milliseconds are the layers' multiply-accumulates.

    Its speed changes by a factor of up to three; now and then another program has 4 ms of it.
    """

    def __init__(self, monkeypatch):
        self.now_ns = 0
        self.rng = np.random.default_rng(0)
        monkeypatch.setattr(profile_device.time, "perf_counter_ns", lambda: self.now_ns)
        monkeypatch.setattr(profile_device.time, "perf_counter", lambda: self.now_ns / 1e9)
        monkeypatch.setattr(profile_device, "onnx_of", self.milliseconds)
        monkeypatch.setattr(profile_device, "caller", self.caller)
        working = {"fp32": ["new", "classic"], "int8": ["new"]}
        monkeypatch.setattr(profile_device, "working_engines", lambda _: working)

    @staticmethod
    def milliseconds(layers: list[Layer], is_int8: bool) -> float:
        macs = sum(
            each.channels_in * each.channels_out * each.kernel**2 * each.positions
            for each in layers
        )
        return (0.02 + 1e-7 * macs) * (0.4 if is_int8 else 1.0)

    def caller(self, milliseconds: float, shape_in: tuple[int, ...], engine: str):
        def call() -> None:
            slowness = 2 + np.sin(self.now_ns / 1e9)
            ms = milliseconds * slowness * self.rng.uniform(0.95, 1.05)
            ms *= 1.5 if engine == "classic" else 1.0
            if self.rng.random() < ms / 2:  # a call of 1 ms is interrupted as often as not
                ms += 4
            self.now_ns += int(1e6 * ms)

        return call


def test_a_drift_of_the_devices_speed_cancels(monkeypatch):
    device = Device(monkeypatch)
    content = profile_device.profile("board", WIDEST, threads=1, seconds=20, count=24)
    reference = content["measured"]["reference"]
    assert reference["widths"] == [[8, 8], [8, 16], [16, 8]]
    assert reference["engine"] == "new"
    model = model_from(content, "p.json")
    rng = np.random.default_rng(5)
    for precision, engine in (("fp32", "new"), ("fp32", "classic"), ("int8", "new")):
        errors = []
        for widths in [profile_device.random_widths(rng, WIDEST) for _ in range(20)]:
            expected = device.milliseconds(layers_of(widths), precision == "int8")
            expected /= device.milliseconds(layers_of(reference["widths"]), False)
            expected *= 1.5 if engine == "classic" else 1.0
            found = model.predict_by_engine(widths, precision)[engine] / reference["ms"]
            errors.append(abs(found / expected - 1))
        assert np.median(errors) < 0.02
        assert max(errors) < 0.06


def test_what_cannot_be_written_is_refused_in_one_line_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "board.json", tmp_path):
        result = subprocess.run(
            [sys.executable, profile_device.__file__, str(path)], capture_output=True, text=True
        )
        assert result.returncode == 2
        [line] = result.stderr.splitlines()
        assert line.startswith("error: ")


def test_where_no_engine_runs_our_networks_that_is_said(monkeypatch):
    monkeypatch.setattr(profile_device, "working_engines", lambda _: {"fp32": [], "int8": []})
    with pytest.raises(RuntimeError, match="runs our networks in no engine"):
        profile_device.profile("board", WIDEST, threads=1, seconds=1, count=8)


def test_one_file_alone_makes_a_profile_that_predicts(profile):
    content = json.loads(profile.read_text())
    assert content["device"] == "board"
    assert set(content["environment"]) == {"cpu", "system", "threads", "opencv", "date"}
    model = model_from(read_profile(profile), profile)
    for precision, engine in product(("fp32", "int8"), ("new", "classic")):
        assert model.predict_by_engine(WIDEST, precision)[engine] > 0
    rows = content["measured"]["layers"] + content["measured"]["networks"]
    assert all(0 < low <= median <= high for *_, low, median, high, _ in rows)
    assert all(samples >= 5 for *_, samples in rows)


def test_the_check_times_networks_that_the_profile_has_not_seen(profile, tmp_path, monkeypatch):
    files = {name: tmp_path / name for name in ("csv", "table", "picture")}
    words = [f"--{name}={path}" for name, path in files.items()]
    words += [f"--profile={profile}", "--networks=3", "--rounds=5"]
    monkeypatch.setattr(sys, "argv", ["validate_profile", *words])
    validate_profile.main()
    lines = files["csv"].read_text().splitlines()
    assert len(lines) == 1 + 3 * 2 * 2  # networks, precisions, engines
    assert files["table"].read_text().count("| faster engine |") == 2
    assert files["picture"].read_bytes().startswith(b"\x89PNG")
    seen = {str(row[2]) for row in json.loads(profile.read_text())["measured"]["networks"]}
    unseen = validate_profile.unseen_networks(json.loads(profile.read_text()), 5)
    assert not seen & set(map(str, unseen))


def test_a_family_too_small_to_draw_unseen_networks_from_is_refused(profile):
    content = json.loads(profile.read_text())
    with pytest.raises(InputError, match=r"a family of 384 networks, too few to draw 200"):
        validate_profile.unseen_networks(content, 200)


def test_a_profile_of_another_processor_cannot_be_checked_here(profile):
    content = json.loads(profile.read_text())
    validate_profile.require_same_machine(content, profile)
    content["environment"]["cpu"] = "Cortex-A76"
    with pytest.raises(InputError, match="is of cpu 'Cortex-A76'"):
        validate_profile.require_same_machine(content, profile)


def test_the_errors_of_the_table_are_those_of_the_rows():
    rows = [
        {
            "precision": "fp32",
            "engine": engine,
            "widths": "8 8",
            "predicted_ms": predicted,
            "by_macs_ms": 2.0,
            "measured_ms": measured,
        }
        for engine, predicted, measured in (("new", 1.1, 1.0), ("classic", 0.6, 0.8))
    ]
    machine = {"cpu": "C", "threads": 1, "opencv": "5", "date": "2026-01-01T00:00Z"}
    content = {"device": "D", "environment": machine, "measured": {"reference": {"ms": 2.0}}}
    conditions = validate_profile.conditions_of(rows, 2.5, content, rounds=9)
    table = validate_profile.table_of(rows, conditions)
    assert "| FP32 | new | 1.00 to 1.00 ms | 10.0% | 10.0% | 10.0% | 100.0% |" in table
    assert "| FP32 | faster engine | 0.80 to 0.80 ms | 25.0% | 25.0% | 25.0% | 150.0% |" in table
    assert "D, C, 1 thread, OpenCV 5, profile of 2026-01-01; 1 networks" in table
    assert "its reference network took 2.000 ms there and 2.500 ms here" in table


def test_a_profile_without_a_reference_network_cannot_be_checked(profile):
    content = json.loads(profile.read_text())
    validate_profile.require_reference(content, profile)
    del content["measured"]["reference"]
    with pytest.raises(InputError, match=r"has no reference network: .* measure the device again"):
        validate_profile.require_reference(content, profile)


@pytest.mark.parametrize("text", ["7", "101", "99999999999", "9" * 5000, "-1", "1.5", "x", ""])
def test_a_number_out_of_bounds_or_none_is_refused(text):
    assert profile_device.whole(8, 100)("8") == 8
    with pytest.raises(profile_device.argparse.ArgumentTypeError, match="whole number of 8 to 100"):
        profile_device.whole(8, 100)(text)


@pytest.mark.parametrize(
    "text",
    [
        "[[64, 60]]", "[]", "[[]]", "64", "[[0]]", "x", "[[[8]]]", "[[8.0]]", "[[true]]", '"ab"',
        '{"a": [8]}', "[[1000000]]", "[[8], [8], [8], [8], [8]]", "[" * 100_000,
    ],
)  # fmt: skip
def test_a_family_that_is_none_is_refused(text):
    with pytest.raises(profile_device.argparse.ArgumentTypeError, match="multiples of 8"):
        profile_device.family(text)


def test_a_family_of_as_many_blocks_as_the_image_can_be_halved_is_measured():
    family = profile_device.family("[[8], [8], [8], [8]]")
    assert layers_of(family)[-2].shape_out == (8, 1, 1)


@pytest.mark.parametrize(
    ("version", "numbers", "engines"),
    [
        ("4.12.0", {}, {"classic": None}),
        ("5.0.0", {"ENGINE_NEW": 2, "ENGINE_CLASSIC": 1}, {"new": 2, "classic": 1}),
        ("5.1.0", {"ENGINE_NEW": 2}, {"new": 2}),
        ("5.1.0", {}, {"new": None}),
    ],
)
def test_the_engines_are_those_that_this_opencv_has(monkeypatch, version, numbers, engines):
    monkeypatch.setattr(profile_device.cv2, "__version__", version)
    monkeypatch.setattr(profile_device.cv2, "dnn", SimpleNamespace(**numbers))
    assert profile_device.known_engines() == engines


def test_without_opencvs_classic_engine_the_new_one_is_profiled(monkeypatch, capsys):
    monkeypatch.delattr(profile_device.cv2.dnn, "ENGINE_CLASSIC")
    assert profile_device.working_engines(WIDEST) == {"fp32": ["new"], "int8": ["new"]}
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("engine left out: OpenCV ")
    assert line.endswith(" has no 'classic'")


@pytest.mark.parametrize("name", ["allowed_cores", "cpu_quota", "cpu_groups", "quota_of"])
def test_the_cpu_quota_is_read_as_the_benchmark_reads_it(name):
    """A copy, because this file goes to devices alone; test_machine.py tests it."""
    ours, theirs = (getattr(module, name) for module in (profile_device, machine))
    assert inspect.getsource(ours) == inspect.getsource(theirs)


def test_a_cpu_quota_below_the_cores_is_a_warning(monkeypatch, tmp_path, capsys):
    (tmp_path / "of_process").write_text("0::/docker\n")
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(profile_device, "CGROUP_OF_PROCESS", tmp_path / "of_process")
    monkeypatch.setattr(profile_device, "CGROUPS", tmp_path)
    monkeypatch.setattr(profile_device, "allowed_cores", lambda: 4)
    profile_device.warn_if_disturbed()
    assert "warning: a CPU quota of 1.5 on 4 cores" in capsys.readouterr().err
    monkeypatch.setattr(profile_device, "allowed_cores", lambda: 1)
    profile_device.warn_if_disturbed()
    assert "quota" not in capsys.readouterr().err


def test_turns_are_timed_as_the_benchmark_times_them():
    """A copy too."""
    ours, theirs = (inspect.getsource(each.time_turn) for each in (profile_device, timing))
    assert ours == theirs
    for name in ("SETTLE_CALLS", "SETTLE_MS"):
        assert getattr(profile_device, name) == getattr(timing, name)

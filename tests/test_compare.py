import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import image as png
from matplotlib.figure import Figure

from stages import compare
from stages.common.core.cli import InputError
from stages.common.data.cifar10 import CLASSES
from stages.common.measuring import int8_or_fp32 as precision
from stages.common.reporting import comparison_charts as charts

ENVIRONMENT = {
    "cpu": "AMD EPYC 7763",
    "int8_instructions": "none",
    "cores": 2,
    "system": "Linux x86_64",
    "python": "3.11.7",
    "opencv": "5.0.0",
    "onnxruntime": "1.32.0",
    "threads": 1,
    "rounds": 40,
    "calls": 10,
    "load_average_at_start": 0.1,
    "matmul_gflops": 85.5,
}
# accuracy, bytes, params, non-zero params, MACs, milliseconds in OpenCV and in ONNX Runtime
VARIANTS = {
    "base": (92.5, 7_901_234, 1_974_306, 1_974_306, 143_000_000, 4.4, 4.1),
    "pruned": (92.1, 2_401_234, 598_000, 299_000, 70_000_000, 2.1, 1.9),
    "base_int8": (92.4, 2_001_234, 1_974_306, 1_974_306, 143_000_000, 5.4, 3.2),
    "pruned_int8": (92.0, 621_234, 598_000, 598_000, 70_000_000, 2.6, 1.6),
}
PICTURES = ("accuracy_plot.png", "latency_comparison.png", "pareto.png")


def evaluation_of(name: str) -> dict:
    accuracy, size, params, nonzero, macs, _, _ = VARIANTS[name]
    offsets = np.random.default_rng(len(name)).normal(scale=3, size=10)
    return {
        "accuracy": accuracy,
        "class_accuracy": {
            label: round(min(accuracy + offset, 99.0), 1)
            for label, offset in zip(CLASSES, offsets - offsets.mean(), strict=True)
        },
        "images": 10_000,
        "size_bytes": size,
        "params": params,
        "nonzero_params": nonzero,
        "macs": macs,
        "peak_activation_bytes": 200_000,
    }


def latency_of(milliseconds: float, base: float, fp32: float, engine: str) -> dict:
    ratio, to_fp32 = milliseconds / base, milliseconds / fp32
    return {
        "engine": engine,
        "latency_ms_median": milliseconds,
        "latency_ms_p5": milliseconds * 0.97,
        "latency_ms_p95": milliseconds * 1.1,
        "ratio_to_base": ratio,
        "ratio_to_base_low": ratio * 0.99,
        "ratio_to_base_high": ratio * 1.01,
        "ratio_to_fp32": to_fp32,
        "ratio_to_fp32_low": to_fp32 * 0.99,
        "ratio_to_fp32_high": to_fp32 * 1.01,
        "gflops": 50.0,
        "share_of_matmul": 0.585,
    }


def write_inputs(directory: Path) -> None:
    """The evaluation and benchmark files, named as in dvc.yaml."""
    evaluate = directory / "metrics" / "evaluate"
    evaluate.mkdir(parents=True)
    *_, base_opencv, base_onnxruntime = VARIANTS["base"]
    benchmark = {"environment": ENVIRONMENT}
    for name, (*_, opencv, onnxruntime) in VARIANTS.items():
        (evaluate / f"{name}.json").write_text(json.dumps(evaluation_of(name)))
        engine = "classic" if "int8" in name else "new"
        *_, fp32_opencv, fp32_onnxruntime = VARIANTS[name.removesuffix("_int8")]
        benchmark[name] = {
            "opencv": latency_of(opencv, base_opencv, fp32_opencv, engine),
            "onnxruntime": latency_of(onnxruntime, base_onnxruntime, fp32_onnxruntime, "cpu"),
        }
    (directory / "metrics" / "benchmark.json").write_text(json.dumps(benchmark))


def run_compare(
    directory: Path, monkeypatch, plots: str = "plots", source: str = "cifar10"
) -> Path:
    """Run the stage as DVC does; the folder of its plots."""
    metrics = directory / "metrics"
    command = ["compare", "--evaluate", metrics / "evaluate"]
    command += ["--benchmark", metrics / "benchmark.json", "--plots", directory / plots]
    command += ["--source", source]
    command += ["--summary", metrics / "summary.json", "--table", metrics / "summary.md"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    compare.main()
    return directory / plots


@pytest.fixture
def inputs(tmp_path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("compare")
    write_inputs(directory)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_compare(directory, monkeypatch)
    return directory


def read_rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tradeoff_rows_hold_what_the_inputs_say_in_the_benchmarks_order(outputs):
    rows = read_rows(outputs / "plots" / "tradeoff.csv")
    assert [row["variant"] for row in rows] == list(VARIANTS)
    for row in rows:
        accuracy, size, params, nonzero, macs, opencv, onnxruntime = VARIANTS[row["variant"]]
        assert float(row["accuracy"]) == accuracy
        assert float(row["latency_ms_median"]) == opencv
        assert float(row["ratio_to_base"]) == opencv / 4.4
        assert float(row["ratio_to_base_low"]) < opencv / 4.4 < float(row["ratio_to_base_high"])
        assert float(row["onnxruntime_latency_ms_median"]) == onnxruntime
        assert float(row["onnxruntime_ratio_to_base"]) == onnxruntime / 4.1
        counts = [int(row[key]) for key in ("size_bytes", "params", "nonzero_params", "macs")]
        assert counts == [size, params, nonzero, macs]


def test_a_kilobyte_is_1000_bytes(outputs):
    rows = read_rows(outputs / "plots" / "size_chart.csv")
    assert rows[0] == {"variant": "base", "size_bytes": "7901234", "size_kb": "7901.234"}
    assert charts.kilobytes(7_901_234) == "7,901 KB"


def test_summary_has_the_same_keys_for_every_variant_and_the_inputs_values(outputs):
    summary = json.loads((outputs / "metrics" / "summary.json").read_text())
    assert list(summary) == list(VARIANTS)
    for name, block in summary.items():
        accuracy, size, params, _, macs, opencv, onnxruntime = VARIANTS[name]
        assert block == {
            "accuracy": accuracy,
            "size_bytes": size,
            "params": params,
            "macs": macs,
            "latency_ratio_to_base": {
                "opencv": round(opencv / 4.4, 2),
                "onnxruntime": round(onnxruntime / 4.1, 2),
            },
        }


def test_noise_of_a_repeated_benchmark_leaves_the_summary_as_it_is(inputs, monkeypatch):
    run_compare(inputs, monkeypatch)
    summary = inputs / "metrics" / "summary.json"
    before = summary.read_bytes()
    path = inputs / "metrics" / "benchmark.json"
    blocks = json.loads(path.read_text())
    for name in VARIANTS:
        for runtime in ("opencv", "onnxruntime"):
            blocks[name][runtime]["ratio_to_base"] *= 1.002
    path.write_text(json.dumps(blocks))
    run_compare(inputs, monkeypatch)
    assert summary.read_bytes() == before


def test_the_precision_to_use_follows_from_what_was_measured_in_each_runtime(outputs):
    text = (outputs / "metrics" / "summary.md").read_text()
    assert (
        "- in OpenCV DNN use FP32 for base (1.23 × [1.22, 1.24]); "
        "use FP32 for pruned (1.24 × [1.23, 1.25])\n"
        "- in ONNX Runtime use INT8 for base (0.78 × [0.77, 0.79]); "
        "use INT8 for pruned (0.84 × [0.83, 0.85])\n"
    ) in text
    assert "What INT8 does to accuracy, in points: -0.10 (base), -0.10 (pruned)." in text


@pytest.mark.parametrize(
    ("low", "high", "faster"),
    [
        (0.98, 0.99, "INT8"),
        (1.01, 1.2, "FP32"),
        (0.98, 1.02, "no detectable difference"),
        (1.0, 1.1, "no detectable difference"),
    ],
)
def test_a_precision_is_faster_only_if_the_whole_interval_says_so(low, high, faster):
    assert precision.faster_precision(low, high) == faster


def test_without_a_pair_of_precisions_none_is_recommended(inputs, monkeypatch):
    path = inputs / "metrics" / "benchmark.json"
    blocks = json.loads(path.read_text())
    for name in ("base", "pruned"):
        del blocks[name]
        (inputs / "metrics" / "evaluate" / f"{name}.json").unlink()
    for name in ("base_int8", "pruned_int8"):
        for runtime in ("opencv", "onnxruntime"):
            blocks[name][runtime] |= dict.fromkeys(precision.RATIO_KEYS)
    path.write_text(json.dumps(blocks))

    run_compare(inputs, monkeypatch)

    assert "Precision" not in (inputs / "metrics" / "summary.md").read_text()


def test_markdown_table_has_a_row_a_variant_with_its_figures(outputs):
    lines = (outputs / "metrics" / "summary.md").read_text().splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[2] == (
        "| base | 92.50 % | 7,901,234 | 1,974,306 | 143,000,000 | 4.40 ms, 1.00 [0.99, 1.01] | "
        "4.10 ms, 1.00 [0.99, 1.01] |"
    )
    assert lines[3] == (
        "| pruned | 92.10 % | 2,401,234 | 598,000 (299,000 non-zero) | 70,000,000 | "
        "2.10 ms, 0.48 [0.47, 0.48] | 1.90 ms, 0.46 [0.46, 0.47] |"
    )
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| base_int8", "| pruned_int8"]


def test_markdown_says_under_which_conditions_it_holds(outputs):
    text = (outputs / "metrics" / "summary.md").read_text()
    for condition in (
        "AMD EPYC 7763, 1 thread, OpenCV 5.0.0, ONNX Runtime 1.32.0",
        "40 interleaved rounds of 10 calls",
        "base new, pruned new, base_int8 classic, pruned_int8 classic",
        "10,000 test images",
        "Do not compare milliseconds of two machines",
    ):
        assert condition in text


def test_markdown_says_how_near_each_model_comes_to_the_machines_matrix_product(outputs):
    text = (outputs / "metrics" / "summary.md").read_text()
    assert "in the same rounds (86 GFLOP/s):" in text
    for name in VARIANTS:
        assert f"| {name} | 50 (58%) | 50 (58%) |" in text


def test_pictures_are_whole_and_byte_identical_on_a_second_run(outputs, monkeypatch):
    again = run_compare(outputs, monkeypatch, plots="again")
    for name in PICTURES:
        content = (outputs / "plots" / name).read_bytes()
        assert content == (again / name).read_bytes()
        pixels = png.imread(again / name)
        assert pixels.shape[1] == 9 * 150
        assert pixels[..., :3].std() > 0.05  # not an empty sheet


def test_a_benchmarked_variant_that_was_not_evaluated_is_named(inputs, monkeypatch):
    (inputs / "metrics" / "evaluate" / "pruned.json").unlink()
    with pytest.raises(InputError, match=r"variant 'pruned'.*pruned\.json is missing"):
        run_compare(inputs, monkeypatch)
    assert not (inputs / "plots").exists()


def test_an_evaluated_variant_that_was_not_benchmarked_is_named(inputs, monkeypatch):
    (inputs / "metrics" / "evaluate" / "old.json").write_text(json.dumps(evaluation_of("base")))
    with pytest.raises(InputError, match=r"variant 'old' .* no block in"):
        run_compare(inputs, monkeypatch)


def test_a_missing_key_is_named_with_its_file(inputs, monkeypatch):
    path = inputs / "metrics" / "evaluate" / "pruned.json"
    evaluation = evaluation_of("pruned")
    del evaluation["macs"]
    path.write_text(json.dumps(evaluation))
    with pytest.raises(InputError, match=r"pruned\.json lacks 'macs'"):
        run_compare(inputs, monkeypatch)


def test_variants_evaluated_on_different_images_are_refused(inputs, monkeypatch):
    path = inputs / "metrics" / "evaluate" / "pruned.json"
    path.write_text(json.dumps(evaluation_of("pruned") | {"images": 500}))
    with pytest.raises(InputError, match="evaluated on different images"):
        run_compare(inputs, monkeypatch)


def few_uneven_images(accuracy: float) -> dict:
    """Of an evaluation on 20 ants and 133 bees."""
    return {
        "accuracy": accuracy,
        "accuracy_low": round(accuracy - 5.5, 1),
        "accuracy_high": round(accuracy + 4.5, 1),
        "balanced_accuracy": round(accuracy - 1, 1),
        "balanced_accuracy_low": round(accuracy - 7, 1),
        "balanced_accuracy_high": round(accuracy + 5, 1),
        "class_accuracy": {"ants": 90.0, "bees": 92.5},
        "class_accuracy_low": {"ants": 68.0, "bees": 86.6},
        "class_accuracy_high": {"ants": 99.0, "bees": 96.3},
        "class_images": {"ants": 20, "bees": 133},
        "images": 153,
    }


def test_few_uneven_test_images_show_an_interval_and_the_balanced_accuracy(inputs, monkeypatch):
    for name, (accuracy, *_) in VARIANTS.items():
        path = inputs / "metrics" / "evaluate" / f"{name}.json"
        path.write_text(json.dumps(evaluation_of(name) | few_uneven_images(accuracy)))

    plots = run_compare(inputs, monkeypatch, source="folder")

    page = (inputs / "metrics" / "summary.md").read_text()
    assert page.startswith("| variant | accuracy | balanced accuracy | bytes |")
    assert "| base | 92.5 % [87.0, 97.0] | 91.5 % [85.5, 97.5] | 7,901,234 |" in page
    assert "in points: -0.1 (base), -0.1 (pruned)." in page
    assert "153 test images through OpenCV DNN. In brackets: Clopper and Pearson's 95 %" in page
    summary = json.loads((inputs / "metrics" / "summary.json").read_text())
    assert len({tuple(block) for block in summary.values()}) == 1
    assert summary["base"]["balanced_accuracy"] == 91.5
    leaves = sum(len(block) - 1 + len(block["latency_ratio_to_base"]) for block in summary.values())
    assert leaves <= 30
    assert (plots / "accuracy_plot.png").is_file()


def test_the_trade_off_says_how_sure_the_accuracies_of_few_images_are():
    few = [SimpleNamespace(evaluation=few_uneven_images(values[0])) for values in VARIANTS.values()]
    many = [SimpleNamespace(evaluation=evaluation_of(name)) for name in VARIANTS]
    assert compare.test_images_note(few) == "153 test images, accuracies ± 5 points"
    assert compare.test_images_note(many) == "10,000 test images"


def test_whiskers_are_the_intervals_of_few_images_and_the_note_says_so():
    evaluations = {name: few_uneven_images(values[0]) for name, values in VARIANTS.items()}
    figure = charts.accuracy_chart(evaluations, note="153 test images")
    bars, dots = figure.axes
    assert "Clopper and Pearson" in figure._supxlabel.get_text()
    assert [text.get_text() for text in bars.texts] == ["92.5 %", "92.1 %", "92.4 %", "92.0 %"]
    assert len(dots.collections) == len(VARIANTS)
    plain = {name: evaluation_of(name) for name in VARIANTS}
    figure = charts.accuracy_chart(plain, note="CIFAR-10")
    assert "sampling error" in figure._supxlabel.get_text()
    assert len(figure.axes[1].collections) == 0


def test_of_many_classes_the_worst_are_drawn():
    by_class = {f"class {number}": 50 + number % 50 for number in range(1000)}
    evaluations = {"base": {"accuracy": 75.0, "images": 50_000, "class_accuracy": by_class}}
    _, dots = charts.accuracy_chart(evaluations, note="").axes
    names = [label.get_text() for label in dots.get_yticklabels()]
    assert names == [f"class {number}" for number in range(0, 1000, 50)]
    assert dots.get_title() == "The 20 worst of 1,000 classes"


@pytest.mark.parametrize(
    ("source", "title"),
    [("cifar10", "CIFAR-10, "), ("torchvision:SVHN", "SVHN, "), ("folder", "")],
)
def test_the_pictures_name_the_dataset(source, title):
    assert compare.dataset_title(source) == title


@pytest.mark.parametrize(("content", "message"), [(None, "is missing"), ("{", "is no JSON")])
def test_an_unreadable_benchmark_is_refused(inputs, monkeypatch, content, message):
    path = inputs / "metrics" / "benchmark.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=rf"benchmark\.json {message}"):
        run_compare(inputs, monkeypatch)


def test_the_front_holds_what_no_other_beats_in_both():
    points = {"a": (4.0, 92.5, 1), "b": (2.0, 92.1, 1), "c": (5.0, 92.4, 1), "d": (2.5, 92.0, 1)}
    assert charts.pareto_front(points) == [(2.0, 92.1), (4.0, 92.5)]


@pytest.mark.parametrize(
    "points",
    [
        {name: (values[5], values[0], values[1]) for name, values in VARIANTS.items()},
        {name: (4.0, 92.0, size) for name, size in zip("abcd", (8e6, 4e6, 2e6, 1e5), strict=True)},
        {name: (4.0 + i / 100, 92.0 + i / 100, 1e6) for i, name in enumerate("abcd")},
    ],
    ids=["typical", "all in one place", "close together"],
)
def test_labels_neither_cover_each_other_nor_leave_the_frame(points):
    figure = charts.pareto_chart(points, "OpenCV DNN", note="")
    figure.draw_without_rendering()
    boxes = label_boxes(figure)
    assert len(boxes) == len(points)
    for index, box in enumerate(boxes):
        assert charts.covered(box, boxes[:index], frame=figure.axes[0].bbox) < 1


def label_boxes(figure: Figure) -> list:
    """The frames of the labels, without the lines to their bubbles."""
    return [label.get_bbox_patch().get_window_extent() for label in figure.axes[0].texts]


def test_the_table_says_where_a_variant_is_wrong_and_the_rest_goes_on(inputs, monkeypatch):
    path = inputs / "metrics" / "benchmark.json"
    benchmark = json.loads(path.read_text())
    del benchmark["base_int8"]["opencv"]
    benchmark["environment"]["wrong_here"] = {
        "base_int8": ["opencv_classic", "opencv_new"],
        "pruned_int8": ["opencv_new"],
    }
    path.write_text(json.dumps(benchmark))
    evaluation = inputs / "metrics" / "evaluate" / "base_int8.json"
    content = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps({**content, "evaluated_in": "onnxruntime"}))

    plots = run_compare(inputs, monkeypatch)

    page = (inputs / "metrics" / "summary.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith("| base_int8 | 92.40 %")]
    assert row.split(" | ")[5] == "wrong here"
    assert "no choice for base: INT8 or FP32 is wrong here" in page
    assert "through OpenCV DNN, base_int8 through onnxruntime. Wrong here, and so neither" in page
    assert "base_int8 in opencv_classic, opencv_new; pruned_int8 in opencv_new." in page
    summary = json.loads((inputs / "metrics" / "summary.json").read_text())
    ratios = summary["base_int8"]["latency_ratio_to_base"]
    assert ratios["opencv"] is None
    assert ratios["onnxruntime"] > 0
    assert all((plots / name).is_file() for name in PICTURES)
    tradeoff = list(csv.DictReader((plots / "tradeoff.csv").open()))
    assert tradeoff[2]["latency_ms_median"] == ""


def test_a_missing_runtime_that_is_not_wrong_is_still_an_error(inputs, monkeypatch):
    path = inputs / "metrics" / "benchmark.json"
    benchmark = json.loads(path.read_text())
    del benchmark["base_int8"]["opencv"]
    path.write_text(json.dumps(benchmark))

    with pytest.raises(InputError, match=r"base_int8\.opencv lacks 'engine'"):
        run_compare(inputs, monkeypatch)

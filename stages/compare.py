"""Put accuracy, bytes and milliseconds side by side.

Reads   a folder with the evaluation of every variant (JSON), the benchmark of all (JSON)
Writes  the summary: what `dvc metrics diff` compares, a block for each variant; plots/:
        tradeoff.csv, size_chart.csv, accuracy_plot.png, latency_comparison.png, pareto.png; a
        Markdown page that begins with the table. Where a variant is wrong in a runtime, the table
        says so, and the summary has null
Raises  InputError when the two do not speak of the same variants, or a file lacks something
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json, write_text
from stages.common.reporting.comparison_charts import accuracy_chart, latency_chart, pareto_chart
from stages.common.reporting.comparison_table import machine_note, main_table, markdown_page
from stages.common.reporting.results import (
    COST_KEYS,
    LATENCY_KEYS,
    Result,
    balanced_key,
    read_results,
)
from stages.common.reporting.runtimes import RUNTIMES
from stages.common.reporting.style import save_png

RATIO_DIGITS = 2  # of the summary: what a repeated run reproduces


def tradeoff_row(result: Result) -> dict:
    """One flat row; latency without a prefix is OpenCV's."""
    opencv, onnxruntime = (result.latency.get(name, {}) for name in ("opencv", "onnxruntime"))
    return {
        "variant": result.variant,
        "accuracy": result.evaluation["accuracy"],
        **{key: result.evaluation[key] for key in COST_KEYS},
        **{key: opencv.get(key) for key in LATENCY_KEYS},
        **{f"onnxruntime_{key}": onnxruntime.get(key) for key in LATENCY_KEYS},
    }


def size_row(result: Result) -> dict:
    """KB are 1000 bytes."""
    size = result.evaluation["size_bytes"]
    return {"variant": result.variant, "size_bytes": size, "size_kb": size / 1000}


def summary_of(result: Result) -> dict:
    """The same keys for every variant; a ratio has as many digits as the noise leaves."""
    measured = {
        runtime: result.latency.get(runtime, {}).get("ratio_to_base") for runtime in RUNTIMES
    }
    ratios = {
        runtime: None if ratio is None else round(ratio, RATIO_DIGITS)
        for runtime, ratio in measured.items()
    }
    keys = ["accuracy", *balanced_key(result), "size_bytes", "params", "macs"]
    return {**{key: result.evaluation[key] for key in keys}, "latency_ratio_to_base": ratios}


def dataset_title(source: str) -> str:
    """The dataset's name and a comma; nothing for a folder."""
    name = "CIFAR-10" if source == "cifar10" else source.rpartition(":")[2]
    return "" if source == "folder" else f"{name}, "


def accuracy_picture(results: list[Result], environment: dict, source: str) -> Figure:
    """The accuracy of every variant; ``source`` is data.source."""
    images = results[0].evaluation["images"]
    return accuracy_chart(
        {result.variant: result.evaluation for result in results},
        note=f"{dataset_title(source)}{images:,} test images through OpenCV DNN "
        f"{environment['opencv']}",
    )


def latency_picture(results: list[Result], environment: dict) -> Figure:
    """The latency of every variant in each runtime that is right for one."""
    latency = {
        title: {
            result.variant: result.latency[runtime]
            for result in results
            if runtime in result.latency
        }
        for runtime, title in RUNTIMES.items()
        if any(runtime in result.latency for result in results)
    }
    note = f"{timing_note(environment)}, whiskers: 5th to 95th percentile"
    return latency_chart(latency, note=note)


def pareto_picture(results: list[Result], environment: dict) -> Figure:
    """Accuracy against latency in OpenCV, or in ONNX Runtime where OpenCV is right for none."""
    runtime = "opencv" if any("opencv" in result.latency for result in results) else "onnxruntime"
    points = {
        result.variant: (
            result.latency[runtime]["latency_ms_median"],
            result.evaluation["accuracy"],
            result.evaluation["size_bytes"],
        )
        for result in results
        if runtime in result.latency
    }
    note = f"{timing_note(environment)}; {test_images_note(results)}"
    return pareto_chart(points, RUNTIMES[runtime], note=note)


def test_images_note(results: list[Result]) -> str:
    """How many test images; where they are few, half of the widest interval of an accuracy too."""
    note = f"{results[0].evaluation['images']:,} test images"
    evaluations = [result.evaluation for result in results]
    widths = [
        each["accuracy_high"] - each["accuracy_low"]
        for each in evaluations
        if "accuracy_low" in each
    ]
    return f"{note}, accuracies ± {max(widths) / 2:.0f} points" if widths else note


def timing_note(environment: dict) -> str:
    rounds, calls = environment["rounds"], environment["calls"]
    return f"{machine_note(environment)}; median of {rounds} interleaved rounds of {calls} calls"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluate", required=True)
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--source", required=True, help="data.source, for the pictures' notes")
    parser.add_argument("--plots", required=True)
    parser.add_argument("--summary", required=True)
    parser.add_argument("--table", required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    plots = Path(args.plots)
    results, environment = read_results(args.evaluate, args.benchmark)
    tradeoff, sizes = [tradeoff_row(r) for r in results], [size_row(r) for r in results]
    write_csv(plots / "tradeoff.csv", tradeoff, header=list(tradeoff[0]))
    write_csv(plots / "size_chart.csv", sizes, header=list(sizes[0]))
    accuracies = accuracy_picture(results, environment, args.source)
    save_png(plots / "accuracy_plot.png", accuracies)
    save_png(plots / "latency_comparison.png", latency_picture(results, environment))
    save_png(plots / "pareto.png", pareto_picture(results, environment))
    write_json(args.summary, {result.variant: summary_of(result) for result in results})
    write_text(args.table, markdown_page(results, environment))
    print(f"{args.table}:\n{main_table(results)}")


if __name__ == "__main__":
    run(main)

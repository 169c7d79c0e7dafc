"""Put accuracy, bytes and milliseconds side by side.

Reads   a folder with the evaluation of every variant (JSON), the benchmark of all (JSON)
Writes  the summary: what `dvc metrics diff` compares, a block for each variant; plots/:
        tradeoff.csv, size_chart.csv, accuracy_plot.png, latency_comparison.png, pareto.png; a
        Markdown page that begins with the table. Where a variant is wrong in a runtime, the table
        says so, and the summary has null
Raises  InputError when the two do not speak of the same variants, or a file lacks something
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stages.common.core.accuracy import decimals_of, percent_text
from stages.common.core.cli import InputError, run
from stages.common.core.files import read_metrics, write_csv, write_json, write_text
from stages.common.measuring.int8_or_fp32 import RATIO_KEYS as FP32_RATIO_KEYS
from stages.common.measuring.int8_or_fp32 import recommendation
from stages.common.reporting.comparison_charts import accuracy_chart, latency_chart, pareto_chart
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.common.reporting.style import save_png

WRONG = "wrong_here"  # of the environment: the runtimes left out, by variant; missing where none is
WRONG_CELL = "wrong here"
ENVIRONMENT = "environment"  # the block of the benchmark that is no variant
RUNTIMES = {"opencv": "OpenCV DNN", "onnxruntime": "ONNX Runtime"}
COST_KEYS = ("size_bytes", "params", "nonzero_params", "macs", "peak_activation_bytes")
BALANCED = "balanced_accuracy"  # in the evaluation where the test classes are uneven
EVALUATION_KEYS = ("accuracy", "class_accuracy", "images", *COST_KEYS)
RATIO_KEYS = ("ratio_to_base", "ratio_to_base_low", "ratio_to_base_high")
LATENCY_KEYS = ("latency_ms_median", *RATIO_KEYS)
RATIO_DIGITS = 2  # of the summary: what a repeated run reproduces
RATE_KEYS = ("gflops", "share_of_matmul")
BENCHMARK_KEYS = (
    "engine",
    "latency_ms_p5",
    "latency_ms_p95",
    *LATENCY_KEYS,
    *FP32_RATIO_KEYS,
    *RATE_KEYS,
)
ENVIRONMENT_KEYS = ("cpu", "threads", "rounds", "opencv", "onnxruntime", "matmul_gflops")


@dataclass(frozen=True)
class Result:
    """All that is known of one variant: what it scored and costs, and its two latencies."""

    variant: str
    evaluation: dict
    latency: dict[str, dict]  # by runtime; those in which it is wrong are missing


def read_results(evaluate: str | Path, benchmark: str | Path) -> tuple[list[Result], dict]:
    """All variants in the benchmark's order, base first, and the machine they were timed on."""
    files = {path.stem: path for path in sorted(Path(evaluate).glob("*.json"))}
    blocks = read_metrics(Path(benchmark), "'dvc repro'")
    environment = blocks.pop(ENVIRONMENT, {})
    require_keys(environment, ENVIRONMENT_KEYS, f"{benchmark}: {ENVIRONMENT}")
    require_same_variants(files, blocks, evaluate, benchmark)
    results = []
    for name, block in blocks.items():
        evaluation = read_metrics(files[name], "'dvc repro'")
        require_keys(evaluation, EVALUATION_KEYS, files[name])
        left_out = environment.get(WRONG, {}).get(name, [])
        for runtime in RUNTIMES:
            if runtime in block or not any(each.startswith(runtime) for each in left_out):
                where = f"{benchmark}: {name}.{runtime}"
                require_keys(block.get(runtime, {}), BENCHMARK_KEYS, where)
        results.append(Result(variant=name, evaluation=evaluation, latency=block))
    require_same_images(results, evaluate)
    return results, environment


def require_keys(block: dict, keys: tuple[str, ...], where: str | Path) -> None:
    for key in keys:
        if key not in block:
            raise InputError(f"{where} lacks '{key}'; delete the file and run 'dvc repro'")


def require_same_variants(
    files: dict, blocks: dict, evaluate: str | Path, benchmark: str | Path
) -> None:
    for name in [*blocks, *files]:
        if name not in files:
            raise InputError(
                f"the variant '{name}' is in {benchmark} but {Path(evaluate) / name}.json is "
                "missing; run 'dvc repro evaluate'"
            )
        if name not in blocks:
            raise InputError(
                f"the variant '{name}' has {files[name]} but no block in {benchmark}; run 'dvc "
                "repro benchmark', or delete the file if that variant is gone"
            )
    if not blocks:
        raise InputError(f"{benchmark} holds no variant; run 'dvc repro benchmark'")


def require_same_images(results: list[Result], evaluate: str | Path) -> None:
    counts = {result.variant: result.evaluation["images"] for result in results}
    classes = [
        result.evaluation.get("class_images", list(result.evaluation["class_accuracy"]))
        for result in results
    ]
    if len(set(counts.values())) > 1 or any(each != classes[0] for each in classes):
        raise InputError(
            f"{evaluate}: the variants were evaluated on different images ({counts}); run 'dvc "
            "repro evaluate'"
        )


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


def balanced_key(result: Result) -> list[str]:
    """Where the test classes are uneven; the test images, and so this, are the same for all."""
    return [BALANCED] if BALANCED in result.evaluation else []


def latencies_of(results: list[Result]) -> dict[str, dict[str, dict]]:
    """By variant and runtime."""
    return {result.variant: result.latency for result in results}


def markdown_page(results: list[Result], environment: dict) -> str:
    """The table, the precision to use, the conditions, and what must not be done with it."""
    accuracies = {result.variant: result.evaluation["accuracy"] for result in results}
    decimals = decimals_of(results[0].evaluation["images"])
    advice = recommendation(latencies_of(results), accuracies, decimals, RUNTIMES)
    rates = achieved_rates(results, environment)
    paragraphs = [main_table(results), advice, rates, conditions(results, environment)]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def main_table(results: list[Result]) -> str:
    balanced = ["balanced accuracy"] if balanced_key(results[0]) else []
    heads = ["variant", "accuracy", *balanced, "bytes", "params", "MACs", *RUNTIMES.values()]
    return as_table([heads, name_and_figures(heads), *map(main_row, results)])


def main_row(result: Result) -> list[str]:
    evaluation = result.evaluation
    params = f"{evaluation['params']:,}"
    if evaluation["nonzero_params"] != evaluation["params"]:
        params += f" ({evaluation['nonzero_params']:,} non-zero)"
    return [
        result.variant,
        *(accuracy_cell(evaluation, key) for key in ("accuracy", *balanced_key(result))),
        f"{evaluation['size_bytes']:,}",
        params,
        f"{evaluation['macs']:,}",
        *(latency_cell(result.latency.get(runtime)) for runtime in RUNTIMES),
    ]


def latency_cell(block: dict | None) -> str:
    """'1.18 ms, 0.36 [0.35, 0.36]': the median, as a multiple of base's, its 95 % interval."""
    if block is None:
        return WRONG_CELL
    ratio, low, high = (block[key] for key in RATIO_KEYS)
    median = f"{block['latency_ms_median']:.2f} ms"
    return median if ratio is None else f"{median}, {ratio:.2f} [{low:.2f}, {high:.2f}]"


def accuracy_cell(evaluation: dict, key: str) -> str:
    """With its interval, where the test images are few."""
    decimals = decimals_of(evaluation["images"])
    text = percent_text(evaluation[key], evaluation["images"])
    if f"{key}_low" not in evaluation:
        return text
    low, high = evaluation[f"{key}_low"], evaluation[f"{key}_high"]
    return f"{text} [{low:.{decimals}f}, {high:.{decimals}f}]"


def achieved_rates(results: list[Result], environment: dict) -> str:
    """How near each model comes to what the processor does in a float32 matrix product."""
    heads = ["variant", *RUNTIMES.values()]
    rows = [
        [result.variant, *(rate_cell(result.latency.get(runtime)) for runtime in RUNTIMES)]
        for result in results
    ]
    table = as_table([heads, name_and_figures(heads), *rows])
    return (
        "GFLOP/s, and as a share of this machine's float32 matrix product in the same rounds "
        f"({environment['matmul_gflops']:.0f} GFLOP/s):\n\n{table}"
    )


def rate_cell(block: dict | None) -> str:
    if block is None:
        return WRONG_CELL
    return f"{block['gflops']:.0f} ({block['share_of_matmul']:.0%})"


def conditions(results: list[Result], environment: dict) -> str:
    engines = ", ".join(
        f"{result.variant} {result.latency['opencv']['engine']}"
        for result in results
        if "opencv" in result.latency
    )
    return (
        "Latency: median of one image, then as a multiple of base's with its 95 % interval. "
        f"{machine_note(environment)}; batch 1, input copy included, {environment['rounds']} "
        f"interleaved rounds. OpenCV engine: {engines}. Accuracy: "
        f"{results[0].evaluation['images']:,} test images through OpenCV DNN"
        f"{evaluated_elsewhere(results)}.{accuracy_note(results[0])}{wrong_here(environment)}\n\n"
        "Do not compare milliseconds of two machines or two runs; compare the ratios, which were "
        "timed side by side. `make compare BASE=main` times two revisions side by side."
    )


def evaluated_elsewhere(results: list[Result]) -> str:
    """', base_int8 through onnxruntime': where evaluate.engine is wrong; mostly empty."""
    return "".join(
        f", {result.variant} through {result.evaluation['evaluated_in']}"
        for result in results
        if "evaluated_in" in result.evaluation
    )


def accuracy_note(result: Result) -> str:
    """What an interval and a balanced accuracy are, where there are some."""
    note = ""
    if "accuracy_low" in result.evaluation:
        note += " In brackets: Clopper and Pearson's 95 % interval."
    if balanced_key(result):
        note += " Balanced accuracy: the mean of the classes' accuracies."
    return note


def wrong_here(environment: dict) -> str:
    """A sentence that names what was left out; empty where all engines are right."""
    left_out = [
        f"{variant} in {', '.join(names)}" for variant, names in environment.get(WRONG, {}).items()
    ]
    if not left_out:
        return ""
    return f" Wrong here, and so neither evaluated nor timed: {'; '.join(left_out)}."


def machine_note(environment: dict) -> str:
    threads = environment["threads"]
    return (
        f"{environment['cpu']}, {threads} thread{'s' if threads > 1 else ''}, "
        f"OpenCV {environment['opencv']}, ONNX Runtime {environment['onnxruntime']}"
    )


def dataset_title(source: str) -> str:
    """The dataset's name and a comma; nothing for a folder."""
    name = "CIFAR-10" if source == "cifar10" else source.rpartition(":")[2]
    return "" if source == "folder" else f"{name}, "


def save_pictures(plots: Path, results: list[Result], environment: dict, source: str) -> None:
    machine = machine_note(environment)
    images = results[0].evaluation["images"]
    figure = accuracy_chart(
        {result.variant: result.evaluation for result in results},
        note=f"{dataset_title(source)}{images:,} test images through OpenCV DNN "
        f"{environment['opencv']}",
    )
    save_png(plots / "accuracy_plot.png", figure)
    latency = {
        title: {
            result.variant: result.latency[runtime]
            for result in results
            if runtime in result.latency
        }
        for runtime, title in RUNTIMES.items()
        if any(runtime in result.latency for result in results)
    }
    rounds = f"{environment['rounds']} interleaved rounds"
    figure = latency_chart(
        latency, note=f"{machine}; median of {rounds}, whiskers: 5th to 95th percentile"
    )
    save_png(plots / "latency_comparison.png", figure)
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
    note = f"{machine}; median of {rounds}; {images:,} test images"
    save_png(plots / "pareto.png", pareto_chart(points, RUNTIMES[runtime], note=note))


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
    save_pictures(plots, results, environment, args.source)
    write_json(args.summary, {result.variant: summary_of(result) for result in results})
    write_text(args.table, markdown_page(results, environment))
    print(f"{args.table}:\n{main_table(results)}")


if __name__ == "__main__":
    run(main)

"""The page on all variants: a table, the precision to use, the rates achieved, the conditions.

Where a variant is wrong in a runtime, its cell says so.
"""

from stages.common.core.accuracy import decimals_of, percent_text
from stages.common.measuring.int8_or_fp32 import recommendation
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.common.reporting.results import (
    RATIO_KEYS,
    WRONG,
    Result,
    balanced_key,
    latencies_of,
)
from stages.common.reporting.runtimes import RUNTIMES

WRONG_CELL = "wrong here"


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
        f"interleaved rounds of {environment['calls']} calls. OpenCV engine: {engines}. Accuracy: "
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
    """A definition of the interval and of the balanced accuracy, where the table has them."""
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

"""The family and its peers as Markdown: a row for each network, the verdict, the conditions."""

import statistics

from stages.common.reporting.comparison_table import machine_note
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.common.reporting.runtimes import RUNTIMES
from stages.family.page.comparison import verdict
from stages.family.page.results import Results, Row

HEADS = [
    "network",
    "accuracy (%), FP32 / INT8",
    "INT8 bytes",
    *(f"{RUNTIMES[runtime]} (ms), FP32 / INT8" for runtime in ("onnxruntime", "opencv")),
]
WRONG = "wrong here"


def markdown(results: Results) -> str:
    rows = [cells(row, f"**{row.name}**") for row in results.family]
    rows += [cells(row, f"[{row.name}]({row.origin})") for row in results.peers]
    table = as_table([HEADS, name_and_figures(HEADS), *rows])
    return f"{table}\n\n{verdict(results.family, results.peers)}\n\n{conditions(results)}\n"


def cells(row: Row, name: str) -> list[str]:
    return [
        name,
        f"{row.fp32_accuracy:.2f} / {row.accuracy:.2f}",
        f"{row.size_bytes:,}",
        *(
            pair(row.fp32_ms[runtime], row.int8_ms[runtime])
            for runtime in ("onnxruntime", "opencv")
        ),
    ]


def pair(fp32: float | None, int8: float | None) -> str:
    return f"{cell(fp32)} / {cell(int8)}"


def cell(value: float | None) -> str:
    return WRONG if value is None else f"{value:.2f}"


def conditions(results: Results) -> str:
    elsewhere = "".join(f", {name} through {where}" for name, where in results.elsewhere.items())
    return (
        f"Accuracy of the family: {results.images:,} test images, one view, through OpenCV DNN"
        f"{elsewhere}. {trainings(results.seeds)} Accuracy of peers: as published (follow the "
        "links); where none is published for INT8, that of FP32. Peers are timed as shapes with "
        "random weights, which went through the same export and quantizer. Milliseconds: median of "
        "one image, all in one "
        f"run; {machine_note(results.environment)}; batch 1, input copy included, "
        f"{results.environment['rounds']} interleaved rounds of {results.environment['calls']} "
        f"calls.{wrong_note(results)}"
    )


def trainings(seeds: dict[str, list[float]]) -> str:
    """How often each model was trained, and the spread as INT8 of those trained more than once."""
    spreads = [
        f"{name} {len(values)} times, with other seeds ({statistics.mean(values):.2f} ± "
        f"{statistics.stdev(values):.2f} % as INT8, mean and standard deviation; the table has the "
        "first)"
        for name, values in seeds.items()
    ]
    return "Trained once each (n = 1)" + "".join(f", {each}" for each in spreads) + "."


def wrong_note(results: Results) -> str:
    """The meaning of "wrong here", where the table has it; else empty."""
    rows = [*results.family, *results.peers]
    if all(None not in (*row.fp32_ms.values(), *row.int8_ms.values()) for row in rows):
        return ""
    return " Wrong here: the runtime computes the file wrongly on this machine, and is not timed."

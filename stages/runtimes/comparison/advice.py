"""The runtime to use for FP32 and for INT8, by measured time."""

import math

from stages.common.reporting.markdown import as_table
from stages.runtimes.comparison.catalogue import OPENCV, RUNTIMES

PRECISIONS = {"fp32": "FP32", "int8": "INT8"}


def with_advice(result: dict) -> dict:
    """The JSON with, for each precision, the fastest runtime ("any") and the fastest that takes the
    ONNX file as it is ("onnx"). A precision without a model is missing, and a choice where none is
    right for all models.
    """
    of_onnx = [name for name in RUNTIMES if RUNTIMES[name].takes_onnx]
    advice: dict[str, dict] = {}
    for precision, models in by_precision(result).items():
        blocks = list(models.values())
        choices = {"any": fastest(list(RUNTIMES), blocks), "onnx": fastest(of_onnx, blocks)}
        if found := {key: choice for key, choice in choices.items() if choice}:
            advice[precision] = found
    return {**result, "advice": advice}


def fastest(names: list[str], blocks: list[dict]) -> dict:
    """Of the runtimes that are right for all models the one with the least geometric mean of their
    latencies, and its ratio to OpenCV for each model, None where no engine of that is right; empty
    where there is none.
    """
    right = [name for name in names if all(name in block["runtimes"] for block in blocks)]
    if not (blocks and right):
        return {}
    chosen = min(right, key=lambda name: sum(math.log(median(block, name)) for block in blocks))
    ratios = [block["runtimes"][chosen]["ratio_to_opencv"] for block in blocks]
    return {"runtime": chosen, "ratios_to_opencv": ratios}


def advice_text(result: dict) -> str:
    """A table with a row for each precision: the fastest runtime, and that of ONNX files."""
    advice = result["advice"]
    if not advice:
        return "No runtime is right here for all models of a precision.\n"
    lines = [["", "fastest runtime", "fastest that takes the ONNX file"], ["---"] * 3]
    for precision, found in advice.items():
        cells = [choice_text(found[key]) if key in found else "none" for key in ("any", "onnx")]
        lines.append([PRECISIONS[precision], *cells])
    note = (
        f"Measured on one machine ({machine(result['environment'])}), ranked by the geometric mean "
        "of all networks"
    )
    if any(ratios_text(choice) for found in advice.values() for choice in found.values()):
        note += "; times as multiples of that of OpenCV's faster engine"
    return f"{as_table(lines)}\n\n{note}.\n"


def choice_text(choice: dict) -> str:
    """'OpenVINO, 0.38 to 0.41'."""
    return ", ".join(filter(None, [RUNTIMES[choice["runtime"]].title, ratios_text(choice)]))


def ratios_text(choice: dict) -> str:
    """'0.38 to 0.41'; nothing for OpenCV, and where it is right for no model."""
    ratios = [ratio for ratio in choice["ratios_to_opencv"] if ratio is not None]
    if choice["runtime"].startswith(OPENCV) or not ratios:
        return ""
    return " to ".join(dict.fromkeys(f"{bound:.2f}" for bound in (min(ratios), max(ratios))))


def by_precision(result: dict) -> dict[str, dict[str, dict]]:
    """The models' blocks by name, of each precision."""
    return {
        precision: {
            name: block
            for name, block in result["models"].items()
            if block["precision"] == precision
        }
        for precision in PRECISIONS
    }


def median(block: dict, runtime: str) -> float:
    return block["runtimes"][runtime]["latency_ms_median"]


def machine(environment: dict) -> str:
    threads = environment["threads"]
    return f"{environment['cpu']}, {threads} thread{'s' if threads > 1 else ''}"

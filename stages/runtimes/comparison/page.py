"""The comparison as Markdown: a table for FP32 and one for INT8, and what was left out."""

from stages.common.reporting.markdown import as_table, name_and_figures
from stages.runtimes.comparison.advice import PRECISIONS, by_precision, machine, median
from stages.runtimes.comparison.catalogue import REFERENCE, RUNTIMES


def markdown_page(result: dict) -> str:
    """``result``: the stage's JSON."""
    tables = [table_of(models, result) for models in by_precision(result).values() if models]
    notes = [agreement(result), left_out(result), conditions(result["environment"])]
    return "\n\n".join(filter(None, [*tables, *notes])) + "\n"


def table_of(models: dict[str, dict], result: dict) -> str:
    columns = [name for name in RUNTIMES if name not in result["environment"]["missing"]]
    precision = next(iter(models.values()))["precision"]
    heads = [PRECISIONS[precision], "MACs", *(RUNTIMES[name].title for name in columns)]
    rows = [
        [name, f"{block['macs'] / 1e6:.1f} M", *(cell(block, column) for column in columns)]
        for name, block in models.items()
    ]
    return as_table([heads, name_and_figures(heads), *rows])


def cell(block: dict, runtime: str) -> str:
    """'0.326 ms (78 %)', the fastest of its row in bold; a word where it was not timed."""
    if runtime in block["left_out"]:
        return block["left_out"][runtime]["word"]
    found = block["runtimes"][runtime]
    text = f"{found['latency_ms_median']:.3f} ms ({100 * found['share_of_matmul']:.0f} %)"
    fastest = min(block["runtimes"], key=lambda each: median(block, each))
    return f"**{text}**" if runtime == fastest else text


def agreement(result: dict) -> str:
    """The logits that are those of ONNX Runtime bit for bit, and how far the others are off."""
    exact: dict[str, list[str]] = {}
    for name, block in result["models"].items():
        for runtime, found in block["runtimes"].items():
            if runtime != REFERENCE and found["bit_exact"]:
                exact.setdefault(RUNTIMES[runtime].title, []).append(name)
    errors = [
        f"{max(errors):.2g} % as {PRECISIONS[precision]}"
        for precision, models in by_precision(result).items()
        if (errors := [found["logit_error"] for found in timed(models)])
    ]
    equal = "; ".join(f"{title} ({', '.join(names)})" for title, names in exact.items())
    same = f" Bit for bit those of ONNX Runtime: {equal}." if equal else ""
    most = f" At most off: {', '.join(errors)}." if errors else ""
    return f"Before the timing, all logits were compared with what the file says.{most}{same}"


def timed(models: dict[str, dict]) -> list[dict]:
    """The results of these models in all runtimes."""
    return [found for block in models.values() for found in block["runtimes"].values()]


def left_out(result: dict) -> str:
    """A line for each runtime that is missing, and for each fault; models may share one."""
    lines = [
        f"- {RUNTIMES[name].title}: {reason}"
        for name, reason in result["environment"]["missing"].items()
    ]
    faults: dict[tuple[str, str], list[str]] = {}
    for name, block in result["models"].items():
        for runtime, fault in block["left_out"].items():
            faults.setdefault((runtime, fault["detail"]), []).append(name)
    lines += [
        f"- {', '.join(names)} in {RUNTIMES[runtime].title}: {detail}"
        for (runtime, detail), names in faults.items()
    ]
    return "\n".join(["Not timed:", "", *lines]) if lines else ""


def conditions(environment: dict) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return (
        "Median of one image, and its speed as a share of this machine's float32 matrix product "
        f"in the same rounds ({environment['matmul_gflops']:.0f} GFLOP/s); in bold the fastest of "
        f"a row. {machine(environment)}, OpenCV {environment['opencv']}, ONNX Runtime "
        f"{environment['onnxruntime']}, {packages}; FP32 files compute in FP32 everywhere; batch "
        f"1, {environment['rounds']} interleaved rounds of {environment['calls']} calls. ncnn runs "
        "what pnnx makes of the ONNX file; LiteRT (XNNPACK) the pipeline's .tflite, or one written "
        "the same way."
    )

"""Whether FP32 or INT8 is faster, from latencies that were timed side by side.

INT8 is not faster by itself: it depends on the runtime, the processor and the model.
"""

INT8_SUFFIX = "_int8"  # what the name of an INT8 variant adds to that of its FP32 model
RATIO_TO_FP32 = "ratio_to_fp32"
RATIO_KEYS = (RATIO_TO_FP32, f"{RATIO_TO_FP32}_low", f"{RATIO_TO_FP32}_high")
NO_DIFFERENCE = "no detectable difference"


def fp32_name(name: str, names: list[str]) -> str | None:
    """The FP32 variant that an INT8 one was made from, if it is among the names."""
    fp32 = name.removesuffix(INT8_SUFFIX)
    return fp32 if fp32 != name and fp32 in names else None


def faster_precision(low: float, high: float) -> str:
    """The faster one, from the 95 % interval of INT8's time over FP32's."""
    if low <= 1 <= high:
        return NO_DIFFERENCE
    return "INT8" if high < 1 else "FP32"


def pairs(latencies: dict[str, dict[str, dict]]) -> dict[str, str]:
    """INT8 variant -> its FP32 one, where their ratio was measured in a runtime."""
    names = {name: fp32_name(name, list(latencies)) for name in latencies}
    return {
        int8: fp32
        for int8, fp32 in names.items()
        if fp32 and any(block[RATIO_TO_FP32] is not None for block in latencies[int8].values())
    }


def recommendation(
    latencies: dict[str, dict[str, dict]],
    accuracies: dict[str, float],
    decimals: int,
    runtimes: dict[str, str],
) -> str:
    """A Markdown list: for each runtime (key: title) the precision to use for each network.

    ``accuracies`` in percent by variant, with so many decimals. Empty when no INT8 variant was
    timed beside its FP32 one.
    """
    found = pairs(latencies)
    if not found:
        return ""
    lines = ["Precision, by measured time (INT8's as a multiple of FP32's, 95 % interval):", ""]
    for runtime, title in runtimes.items():
        advice = [advice_on(fp32, latencies[int8].get(runtime, {})) for int8, fp32 in found.items()]
        lines.append(f"- in {title} {'; '.join(advice)}")
    points = {fp32: accuracies[int8] - accuracies[fp32] for int8, fp32 in found.items()}
    changes = ", ".join(f"{value:+.{decimals}f} ({fp32})" for fp32, value in points.items())
    return "\n".join([*lines, "", f"What INT8 does to accuracy, in points: {changes}."])


def advice_on(network: str, block: dict) -> str:
    ratio, low, high = (block.get(key) for key in RATIO_KEYS)
    if ratio is None or low is None or high is None:
        return f"no choice for {network}: INT8 or FP32 is wrong here"
    measured = f"({ratio:.2f} × [{low:.2f}, {high:.2f}])"
    precision = faster_precision(low, high)
    if precision == NO_DIFFERENCE:
        return f"either for {network}: {NO_DIFFERENCE} {measured}"
    return f"use {precision} for {network} {measured}"

"""Vela's estimates as rows of a CSV and as a Markdown table."""

import dataclasses

from stages.common.npu.vela import VERSION, Costs, Estimate, Target
from stages.common.reporting.markdown import as_table

ESTIMATED = f"Estimates of Arm's compiler (Vela {VERSION}), not measurements"
COLUMNS = ["name", "variant", "target", "npu", "weights_in", "operators", "npu_operators"]
COLUMNS += ["million_cycles", *(field.name for field in dataclasses.fields(Costs))]
Estimates = dict[str, dict[Target, Estimate]]  # by variant


def rows_of(estimates: Estimates) -> list[dict]:
    """One flat row for each target and variant that runs on the NPU."""
    return [
        {
            "name": f"{variant} | {target.npu} {found.weights_in}",
            "variant": variant,
            "target": str(target),
            "npu": target.npu,
            "weights_in": found.weights_in,
            "operators": found.operators,
            "npu_operators": found.npu_operators,
            "million_cycles": found.costs.total_cycles / 1e6,
            **dataclasses.asdict(found.costs),
        }
        for variant, by_target in estimates.items()
        for target, found in by_target.items()
        if found.costs
    ]


def markdown_table(estimates: Estimates, zeros: dict[str, float], missing: dict[str, str]) -> str:
    """``zeros``: percent of the weights, by variant. ``missing``: why a variant has no estimate."""
    lacking = "".join(f"No estimate of {name}: {reason}.\n" for name, reason in missing.items())
    if not estimates:
        return lacking
    heads = ["NPU", "weights in", "memory mode", "variant", "NPU cycles", "total cycles", "× base"]
    heads += ["limited by", "inferences/s", "SRAM", "encoded weights"]
    rows = [heads, [*["---"] * 4, *["---:"] * 3, "---", *["---:"] * 3]]
    for target, base in estimates["base"].items():
        for variant, by_target in estimates.items():
            if (costs := by_target[target].costs) and base.costs:
                place = [target.npu, base.weights_in, target.memory_mode]
                rows.append([*place, variant, *cost_cells(costs, base.costs)])
    parts = [as_table(rows), f"{conditions(estimates, zeros)}\n", *([lacking] if lacking else [])]
    return "\n\n".join(parts)


def cost_cells(costs: Costs, base: Costs) -> list[str]:
    return [
        f"{costs.npu_cycles:,}",
        f"{costs.total_cycles:,}",
        f"{costs.total_cycles / base.total_cycles:.2f}",
        "arithmetic" if costs.limited_by == "npu" else costs.limited_by,
        f"{costs.inferences_per_second:,.0f}",
        f"{costs.sram_bytes / 1000:,.0f} KB",
        f"{costs.encoded_weight_bytes / 1000:,.0f} KB",
    ]


def conditions(estimates: Estimates, zeros: dict[str, float]) -> str:
    systems = sorted({target.system_config for target in estimates["base"]})
    counts = [f"{name} {on_npu(by_target)}" for name, by_target in estimates.items()]
    shares = ", ".join(f"{name} {share:.1f} %" for name, share in zeros.items())
    return (
        f"{ESTIMATED}; batch 1; memories as Vela's Arm/vela.ini has them: {', '.join(systems)}. "
        f"Weights that are 0: {shares}; unstructured is neither fine-tuned nor evaluated. "
        f"Operators on the NPU: {', '.join(counts)}. KB are 1000 bytes; SRAM holds the weights too "
        "where they are in it."
    )


def on_npu(by_target: dict[Target, Estimate]) -> str:
    """Of the target that leaves most to the CPU; Vela merges more operators for some."""
    worst = max(by_target.values(), key=lambda found: found.operators - found.npu_operators)
    return f"{worst.npu_operators} of {worst.operators}"

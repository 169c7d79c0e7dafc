"""Put the accelerators of base and pruned side by side.

Reads   the JSON of ``accelerator`` for base and pruned
Writes  a Markdown table
Params  none
Raises  InputError when a JSON is missing
"""

import argparse
from pathlib import Path

from stages.common.core.cli import run
from stages.common.core.files import read_metrics, write_text
from stages.common.reporting.markdown import as_table

NETWORKS = ("base", "pruned")


def markdown(metrics: dict[str, dict]) -> str:
    return f"{as_table(figures(metrics))}\n\n{conditions(metrics)}\n"


def figures(metrics: dict[str, dict]) -> list[list[str]]:
    """One row a figure; counts also as multiples of base."""
    base, pruned = (metrics[name] for name in NETWORKS)
    rows = [["figure", *NETWORKS, "× base"], ["---", "---:", "---:", "---:"]]

    def add(title: str, key: str, form: str = "{:,}", unit: float = 1) -> None:
        ratio = f"{pruned[key] / base[key]:.2f}"
        rows.append([title, *(form.format(block[key] / unit) for block in (base, pruned)), ratio])

    def add_percent(title: str, key: str, digits: int = 2) -> None:
        rows.append([title, *(f"{block[key]:.{digits}f} %" for block in (base, pruned)), ""])

    add("multiply-accumulates (MACs)", "macs", "{:,.0f}")
    add("cycles", "cycles", "{:,.0f}")
    add(f"cycles with {base['zero_percent']} % zeros", "cycles_with_zeros", "{:,.0f}")
    add("MACs a cycle", "macs_per_cycle", "{:.1f}")
    add_percent("8x8-bit multipliers busy", "busy_percent", digits=0)
    add("read over AXI", "read_bytes", "{:,.0f} KB", unit=1000)
    add("written over AXI", "written_bytes", "{:,.0f} KB", unit=1000)
    for kind in sorted(base["multipliers"], key=lambda kind: -base["multipliers"][kind]):
        counts = [f"{block['multipliers'].get(kind, 0)}" for block in (base, pruned)]
        rows.append([f"multipliers of {kind} bits", *counts, ""])
    add("RAM on the chip", "ram_bits", "{:.2f} Mbit", unit=1e6)
    add_percent("accuracy", "accuracy")
    add_percent("accuracy in ONNX Runtime", "onnxruntime_accuracy")
    add_percent("same prediction as ONNX Runtime", "agreement_onnxruntime")
    return rows


def conditions(metrics: dict[str, dict]) -> str:
    base = metrics["base"]
    simulated = ", ".join(f"{name} {block['simulated_images']}" for name, block in metrics.items())
    tested = ", ".join(f"{name} {block['images']:,}" for name, block in metrics.items())
    return (
        f"One image through the Verilog that NNgen generates ({base['par_ich']} input times "
        f"{base['par_och']} output channels at once, AXI of {base['axi_bits']} bits), from the "
        "start bit to the end, simulated by Verilator with veriloggen's memory model (a request "
        "waits 10 cycles; 4 cycles of 19 transfer nothing). The length of a cycle is left open. "
        "Bytes over AXI include the weights; KB are 1000 bytes.\n\n"
        "Every logit of the simulated validation images "
        f"({simulated}, and one with zeros) equals that of the integer network, whose accuracy is "
        f"given (test images: {tested}). It replaces ONNX's real scales by 16-bit multipliers and "
        "shifts. The zeros run on the same hardware with the smallest weights set to 0, neither "
        "fine-tuned nor evaluated."
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--table", type=Path, required=True, help="Markdown table to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    paths = {name: args.metrics / f"{name}.json" for name in NETWORKS}
    page = markdown({name: read_metrics(path, "'make hardware'") for name, path in paths.items()})
    write_text(args.table, page)
    print(page)


if __name__ == "__main__":
    run(main)

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


def markdown_table(metrics: dict[str, dict]) -> str:
    heads = ["network", "MACs", "× base", "cycles", "× base", "MACs a cycle", "busy"]
    heads += ["read", "written", f"cycles with {metrics['base']['zero_percent']} % zeros"]
    heads += ["accuracy", "in ONNX Runtime", "same prediction"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    base = metrics["base"]
    for name, block in metrics.items():
        rows.append(
            [
                name,
                f"{block['macs']:,}",
                f"{block['macs'] / base['macs']:.2f}",
                f"{block['cycles']:,}",
                f"{block['cycles'] / base['cycles']:.2f}",
                f"{block['macs_per_cycle']:.1f}",
                f"{block['busy_percent']:.0f} %",
                f"{block['read_bytes'] / 1000:,.0f} KB",
                f"{block['written_bytes'] / 1000:,.0f} KB",
                f"{block['cycles_with_zeros']:,}",
                f"{block['accuracy']:.2f} %",
                f"{block['onnxruntime_accuracy']:.2f} %",
                f"{block['agreement_onnxruntime']:.2f} %",
            ]
        )
    return f"{as_table(rows)}\n\n{conditions(metrics)}\n"


def conditions(metrics: dict[str, dict]) -> str:
    base = metrics["base"]
    hardware = ", ".join(
        f"{name} {multipliers_of(block)} and {block['ram_bits'] / 1e6:.2f} Mbit of RAM"
        for name, block in metrics.items()
    )
    images = ", ".join(f"{name} {block['simulated_images']}" for name, block in metrics.items())
    tested = ", ".join(f"{name} {block['images']:,}" for name, block in metrics.items())
    return (
        f"One image through Verilog that NNgen generates ({base['par_ich']} input times "
        f"{base['par_och']} output channels at once, AXI of {base['axi_bits']} bits), from the "
        "start bit to the end, in simulation (Verilator) with veriloggen's memory, in which a "
        "request waits 10 cycles and which rests in 4 of 19; how long a cycle takes is left open. "
        f"Multipliers by the bits of their operands, and RAM on the chip: {hardware}. Every logit "
        f"of the validation images simulated ({images}, and one with zeros) equals that of the "
        "integer network whose accuracy this is (test images: "
        f"{tested}), in which 16-bit multipliers and shifts stand for ONNX's real scales. Busy: of "
        "the multipliers of 8x8 bits, in the mean. Read and written: over AXI, weights included; "
        "KB are 1000 bytes. The zeros are neither fine-tuned nor evaluated: the same hardware, "
        "with the smallest weights set to 0."
    )


def multipliers_of(block: dict) -> str:
    """Such as "144 multipliers of 8x8 and 8 of 32x16"."""
    counts = sorted(block["multipliers"].items(), key=lambda item: -item[1])
    (kind, count), *others = counts
    return " and ".join(
        [f"{count} multipliers of {kind}", *[f"{number} of {name}" for name, number in others]]
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--table", type=Path, required=True, help="Markdown table to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    paths = {name: args.metrics / f"{name}.json" for name in NETWORKS}
    page = markdown_table(
        {name: read_metrics(path, "make hardware") for name, path in paths.items()}
    )
    write_text(args.table, page)
    print(page)


if __name__ == "__main__":
    run(main)

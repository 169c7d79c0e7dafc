"""Put the hls4ml designs of the networks side by side.

Reads   the JSON of ``hls`` for every network
Writes  two Markdown tables: accuracy by width, multipliers and weight bits by reuse factor
Params  none
Raises  InputError when a JSON is missing, or when widths or reuse factors differ between them
"""

import argparse
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import read_metrics, write_text
from stages.common.reporting.markdown import as_table, name_and_figures


def read(folder: Path, names: list[str]) -> dict[str, dict]:
    """The metrics by network; the first one is the base of comparison."""
    found = {name: read_metrics(folder / f"{name}.json", "'make hardware'") for name in names}
    for key in ("widths", "reuse_factors"):
        tried = [list(block[key]) for block in found.values()]
        if any(each != tried[0] for each in tried):
            raise InputError(f"{folder}: the networks differ in {key}; run 'make hardware'")
    return found


def widths_rows(metrics: dict[str, dict]) -> list[list[str]]:
    widths = list(next(iter(metrics.values()))["widths"])
    heads = ["network", "FP32", *[f"{width} bits" for width in widths]]
    heads += ["design", "images simulated", "logits differing"]
    rows = [heads, name_and_figures(heads)]
    for name, block in metrics.items():
        built = block["design"]
        found = [f"{block['widths'][width]['accuracy']:.2f} %" for width in widths]
        rows.append(
            [
                name,
                f"{block['fp32']['accuracy']:.2f} %",
                *found,
                f"{built['width']} bits",
                f"{built['simulated_images']:,}",
                f"{built['logits_differing']:,} of {built['logits']:,}",
            ]
        )
    return rows


def costs_rows(metrics: dict[str, dict]) -> list[list[str]]:
    heads = ["reuse factor", "network", "by layer", "multipliers", "× base"]
    heads += ["weights", "× base", "weights read a cycle", "cycles an image, estimated"]
    rows = [heads, ["---:", "---", *["---:"] * (len(heads) - 2)]]
    base = next(iter(metrics.values()))["reuse_factors"]
    for factor in base:
        for name, block in metrics.items():
            cost = block["reuse_factors"][factor]
            ends = dict.fromkeys([cost["reuse_factor_low"], cost["reuse_factor_high"]])
            rows.append(
                [
                    factor,
                    name,
                    " – ".join(f"{end}" for end in ends),
                    f"{cost['multipliers']:,}",
                    f"{cost['multipliers'] / base[factor]['multipliers']:.3f}",
                    f"{cost['weight_bits']:,} bits",
                    f"{cost['weight_bits'] / base[factor]['weight_bits']:.3f}",
                    f"{cost['weight_bits_a_cycle']:,} bits",
                    f"{cost['estimated_cycles_an_image']:,}",
                ]
            )
    return rows


def markdown(metrics: dict[str, dict]) -> str:
    first, second = as_table(widths_rows(metrics)), as_table(costs_rows(metrics))
    return "\n\n".join([first, conditions_of_widths(), second, conditions_of_costs(metrics)]) + "\n"


def conditions_of_widths() -> str:
    return (
        "Accuracy on all test images with weights and activations in fixed point; the first "
        "layer's weights and all sums have more bits. Rounded without retraining. The design is "
        "the narrowest width that is good enough on the validation images. Its C++ (hls4ml 1.3.0, "
        "compiled with g++) ran on the simulated images, and its logits were compared with our "
        "own exact arithmetic, which gives all other accuracies."
    )


def conditions_of_costs(metrics: dict[str, dict]) -> str:
    widths = ", ".join(f"{name} {block['design']['width']} bits" for name, block in metrics.items())
    return (
        "By hls4ml's rules for io_stream and the strategy Resource, at the design's width "
        f"({widths}); not synthesized, no clock frequency. A layer whose number of weights the "
        "reuse factor does not divide gets the nearest one that hls4ml allows (by layer: lowest "
        "and highest). Weights without biases. The estimated cycles between two images are those "
        "of the slowest layer."
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the JSONs")
    parser.add_argument("--network", action="append", required=True, help="the base first")
    parser.add_argument("--table", type=Path, required=True, help="Markdown table to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    page = markdown(read(args.metrics, args.network))
    write_text(args.table, page)
    print(page)


if __name__ == "__main__":
    run(main)

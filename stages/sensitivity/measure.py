"""Measure what INT8 costs in each layer alone, the others in FP32, on the validation images.

The accuracy it costs, and how far it moves the logits: the latter ranks layers that cost no
accuracy, and is what quantize.repair goes by. The files are computed one operator after the other,
as ONNX defines them, so that no runtime's error enters.

Reads   FP32 ONNX files, the training images (calibration), the validation images
Writes  a CSV with a row for each network and layer, a Markdown table and a picture of it
Params  data.*, quantize.*  (see DataParams, QuantizeParams); layers in quantize.exclude are left
        out
Raises  InputError for a layer in quantize.exclude that a network lacks
"""

import argparse
import dataclasses
from pathlib import Path

from matplotlib.figure import Figure

from stages.common.core.cli import named_path, paths_by_name, run
from stages.common.core.files import write_csv, write_text
from stages.common.core.params import load_params
from stages.common.data.dataset import DataParams, load_training_images
from stages.common.inference.int8.quantizer import calibration_of
from stages.common.inference.int8.sensitivity import Sensitivity, sensitivities
from stages.common.inference.onnx_graph import load_model
from stages.common.inference.params import QuantizeParams
from stages.common.reporting.markdown import as_table
from stages.common.reporting.style import IN_HOUSE_STYLE, colour, new_figure, save_png

INCHES_PER_LAYER = 0.25  # of the picture: the names must not touch
HEADS = ["network", "layer", "operator", "accuracy, points", "logits off by"]


def rows_of(found: dict[str, list[Sensitivity]]) -> list[dict]:
    return [
        {"network": network, **dataclasses.asdict(each)}
        for network, layers in found.items()
        for each in layers
    ]


def markdown_page(found: dict[str, list[Sensitivity]], images: int) -> str:
    cells = [
        [
            network,
            each.layer,
            each.operator,
            f"{0 - each.accuracy_drop:+.2f}",
            f"{each.logit_error:.2f} %",
        ]
        for network, layers in found.items()
        for each in layers
    ]
    table = as_table([HEADS, ["---", "---", "---", "---:", "---:"], *cells])
    return (
        f"{table}\n\nEach layer alone in INT8, the others in FP32; {images:,} validation images. "
        "Logits: root mean square of the change over that of the logits.\n"
    )


@IN_HOUSE_STYLE
def chart(found: dict[str, list[Sensitivity]], images: int) -> Figure:
    """A panel a network: a bar a layer, how far the logits move, and the accuracy's change."""
    note = f"{images:,} validation images; at each bar: the change of accuracy, in points"
    figure, panels = new_figure("INT8 in one layer alone", note, columns=len(found))
    most = max(len(layers) for layers in found.values())
    figure.set_figheight(max(figure.get_figheight(), INCHES_PER_LAYER * most))
    for index, (panel, (network, layers)) in enumerate(zip(panels, found.items(), strict=True)):
        errors = [each.logit_error for each in layers]
        panel.barh(range(len(layers)), errors, 0.7, color=colour(index))
        panel.set_yticks(range(len(layers)), [each.layer for each in layers])
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        for position, each in enumerate(layers):
            panel.annotate(
                f"{0 - each.accuracy_drop:+.2f}",
                (each.logit_error, position), (4, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        panel.margins(x=0.2)
        panel.set(title=network, xlabel="Logits off by (%)")
    return figure


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--network", required=True, action="append", type=named_path)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(QuantizeParams, args.params, section="quantize")
    training, validation = load_training_images(
        args.data, load_params(DataParams, args.params, section="data")
    )
    calibration = calibration_of(training, params)
    found = {
        name: sensitivities(load_model(path), calibration, validation, params)
        for name, path in paths_by_name("--network", args.network).items()
    }
    rows = rows_of(found)
    write_csv(args.csv, rows, header=list(rows[0]))
    page = markdown_page(found, len(validation))
    write_text(args.table, page)
    save_png(args.picture, chart(found, len(validation)))
    print(f"{args.table}:\n{page}", end="")


if __name__ == "__main__":
    run(main)

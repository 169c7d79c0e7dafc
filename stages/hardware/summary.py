"""Put on one page what pruning and INT8 save on a CPU, an NPU, an FPGA and an ASIC.

Nothing is measured here. The figures of other stages stand side by side, each as a multiple of the
base network's on the same hardware, and common claims on pruning and quantization are judged by
them. "structured" is the pruned network; "unstructured" has zeros in place of about as many weights
as pruning removed (which network that is on each platform: overview/collect.py).

Reads   the metrics of evaluate, benchmark, npu, energy, mac_area, hls and accelerator; the study
        'sweep' for the effect of zeros on the CPU
Writes  a JSON (quantities by variant, claims with verdicts), a Markdown page, a picture
Params  hardware.*  (see HardwareParams)
Raises  InputError when a file or a figure in it is missing
"""

import argparse
from pathlib import Path

from stages.common.core.cli import run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.reporting.style import save_png
from stages.hardware.overview.chart import hardware_chart
from stages.hardware.overview.claims import Claim, claims_of
from stages.hardware.overview.collect import Sources, collect
from stages.hardware.overview.page import markdown_page
from stages.hardware.overview.params import HardwareParams
from stages.hardware.overview.quantities import Quantity


def as_metrics(quantities: list[Quantity], claims: list[Claim], noise: float) -> dict:
    """The content of metrics/hardware.json."""
    blocks: dict[str, dict] = {}
    for quantity in quantities:
        blocks.setdefault(quantity.platform, {})[quantity.name] = {
            "unit": quantity.unit,
            "found": quantity.found,
            "compared_with": quantity.reference,
            "values": {name: round(value, 4) for name, value in quantity.values.items()},
            "ratios": {name: round(quantity.ratio(name), 4) for name in quantity.values},
        }
    judged = {claim.text: claim.verdict(noise) for claim in claims}
    return {"quantities": blocks, "claims": judged}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--metrics-folder", type=Path, required=True, help="of the other stages")
    parser.add_argument("--sweep", type=Path, required=True, help="CSV of the study 'sweep'")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--page", type=Path, required=True, help="Markdown to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(HardwareParams, args.params, section="hardware")
    quantities, notes = collect(Sources(args.metrics_folder, args.sweep), params)
    claims = claims_of(quantities)
    page = markdown_page(quantities, claims, params.noise, notes)
    write_json(args.metrics, as_metrics(quantities, claims, params.noise))
    write_text(args.page, page)
    save_png(args.picture, hardware_chart(quantities, note=" ".join(notes)))
    print(page)


if __name__ == "__main__":
    run(main)

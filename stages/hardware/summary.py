"""Put on one page what pruning and INT8 buy on a CPU, an NPU, an FPGA and an ASIC.

Nothing is measured here: the figures of other stages stand side by side, each as a multiple of the
base network's on the same hardware, and what is often said of pruning and quantization is judged
by them. "structured" is the pruned network; "unstructured" has zeros in place of weights, about as
many as pruning removed, and which network that is differs (see its sources below).

Reads   the metrics of compare, benchmark, npu, energy, mac_area, hls and accelerator; of the study
        'sweep', what zeros buy on the CPU
Writes  a JSON (quantities by variant, claims with verdicts), a Markdown page, a picture
Params  hardware.*  (see HardwareParams)
Raises  InputError when a file or a figure in it is missing
"""

import argparse
from pathlib import Path

from stages.common.core.cli import run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.reporting.markdown import as_table
from stages.common.reporting.style import save_png
from stages.hardware.overview.chart import hardware_chart
from stages.hardware.overview.claims import ZEROS, Claim, claims_of, in_words
from stages.hardware.overview.collect import Sources, collect
from stages.hardware.overview.params import HardwareParams
from stages.hardware.overview.quantities import VARIANTS, Quantity

KINDS = (
    "measured: timed or weighed on the machine of the benchmark",
    "simulated: the generated Verilog, cycle by cycle",
    "synthesized: by Yosys, before place and route",
    "counted: from the network and the design alone",
    "estimated: by a compiler's model (NPU), or operations and bytes times published energies",
)


def as_metrics(quantities: list[Quantity], claims: list[Claim], noise: float) -> dict:
    """What metrics/hardware.json holds."""
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


# ------------------------------------------------------------------------------------------ page


def ratio_table(quantities: list[Quantity]) -> str:
    """One row a quantity: the value of what it is compared with, and everything as a multiple."""
    rows = [["hardware", "what", "found", "1.00 is", *VARIANTS.values()]]
    rows.append(["---", "---", "---", "---:", *["---:"] * len(VARIANTS)])
    for quantity in quantities:
        one = quantity.values[quantity.reference]
        multiples = [quantity.shown(name) if name in quantity.values else "–" for name in VARIANTS]
        one_is = in_unit(one, quantity.unit)
        rows.append([quantity.platform, quantity.name, quantity.found, one_is, *multiples])
    return as_table(rows)


def in_unit(value: float, unit: str) -> str:
    return f"{value:,.2f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def claim_table(claims: list[Claim], noise: float) -> str:
    rows = [["what is said", "verdict", "where it holds (× what it is compared with)", "where not"]]
    rows.append(["---"] * 4)
    for claim in claims:
        holding = [each for each in claim.evidence if each.holds(noise)]
        failing = [each for each in claim.evidence if not each.holds(noise)]
        places = [in_words(part) or "nowhere" for part in (holding, failing)]
        rows.append([claim.text, f"**{claim.verdict(noise)}**", *places])
    return as_table(rows)


def what_pays(quantities: list[Quantity], noise: float) -> str:
    """One sentence a platform, of the first of its quantities: what pays most, what zeros do."""
    firsts: dict[str, Quantity] = {}
    for quantity in quantities:
        firsts.setdefault(quantity.platform, quantity)
    return "\n".join(
        f"- **{platform}** ({quantity.name}): {sentence(quantity, noise)}."
        for platform, quantity in firsts.items()
    )


def sentence(quantity: Quantity, noise: float) -> str:
    """Zeros are compared with the same precision without them: what INT8 saves is not theirs."""
    zeros = {variant for variant, _ in ZEROS}
    others = [name for name in quantity.values if name not in {*zeros, quantity.reference}]
    ranked = sorted(others, key=quantity.ratio)
    parts = []
    for title, names in (
        ("pays", [name for name in ranked if quantity.ratio(name) < 1 - noise]),
        ("does not pay", [name for name in ranked if quantity.ratio(name) >= 1 - noise]),
    ):
        if names:
            listed = ", ".join(f"{VARIANTS[name]} {quantity.shown(name)}" for name in names)
            parts.append(f"{title}: {listed} × {VARIANTS[quantity.reference]}")
    pairs = [pair for pair in ZEROS if set(pair) <= quantity.values.keys()]
    paying = [quantity.ratio(*pair) < 1 - noise for pair in pairs]
    verdict = "zeros pay" if all(paying) else "zeros pay in part" if any(paying) else "zeros do not"
    compared = [f"{quantity.shown(*pair)} × {VARIANTS[pair[1]]}" for pair in pairs]
    return "; ".join([*parts, f"{verdict}: {', '.join(compared)}"])


def markdown_page(
    quantities: list[Quantity], claims: list[Claim], params: HardwareParams, notes: list[str]
) -> str:
    legend = (
        "structured: the network `pruned`; unstructured: zeros in place. Found: "
        + "; ".join(KINDS)
        + "."
    )
    judged = (
        f"Confirmed: holds in all of these figures, by more than {100 * params.noise:.0f} %; "
        "conditional: in some; refuted: in none."
    )
    return "\n\n".join(
        [
            what_pays(quantities, params.noise),
            ratio_table(quantities),
            " ".join([legend, *notes]),
            claim_table(claims, params.noise),
            judged + "\n",
        ]
    )


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
    page = markdown_page(quantities, claims, params, notes)
    write_json(args.metrics, as_metrics(quantities, claims, params.noise))
    write_text(args.page, page)
    save_png(args.picture, hardware_chart(quantities, note=" ".join(notes)))
    print(page)


if __name__ == "__main__":
    run(main)

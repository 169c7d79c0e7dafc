"""The figures of all hardware, and the claims judged by them, as one Markdown page."""

from stages.common.reporting.markdown import as_table
from stages.hardware.overview.claims import CHANNELS, INT8, ZEROS, Claim, Evidence
from stages.hardware.overview.quantities import (
    KINDS,
    PLATFORMS,
    VARIANTS,
    Quantity,
    two_digits,
)

FOUND = (
    "measured: timed or weighed on the machine of the benchmark",
    "simulated: the generated Verilog, cycle by cycle",
    "synthesized: by Yosys, before place and route",
    "counted: from the network and the design alone",
    "estimated: by a compiler's model (NPU), or from operations, bytes and published energies",
)
COMPARED = {"structured": CHANNELS, "unstructured": ZEROS, "INT8": INT8}
NONE = "–"


def markdown_page(
    quantities: list[Quantity], claims: list[Claim], noise: float, notes: list[str]
) -> str:
    """``notes``: one on the figures of each platform. ``noise``: see ``HardwareParams``."""
    legend = "structured: the network `pruned`; unstructured: zeros in place of weights. Found: "
    bullets = "\n".join(f"- {note}" for note in [f"{legend}{'; '.join(FOUND)}.", *notes])
    return "\n\n".join(
        [
            what_pays(quantities, noise),
            ratio_table(quantities),
            bullets,
            claim_table(claims, noise),
            how_judged(quantities, noise) + "\n",
        ]
    )


# ---------------------------------------------------------------------------- one line a platform


def what_pays(quantities: list[Quantity], noise: float) -> str:
    """One sentence a platform, on the first of its quantities."""
    firsts: dict[str, Quantity] = {}
    for quantity in quantities:
        firsts.setdefault(quantity.platform, quantity)
    return "\n".join(
        f"- **{platform}** ({quantity.name}): {sentence(quantity, noise)}."
        for platform, quantity in firsts.items()
    )


def sentence(quantity: Quantity, noise: float) -> str:
    """Which variants pay, the best first. Zeros are compared with the same precision without them,
    so that INT8's gain is not counted as theirs.
    """
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


# ----------------------------------------------------------------------------------- all figures


def ratio_table(quantities: list[Quantity]) -> str:
    """One row a quantity: the value of its reference, and every variant as a multiple of it."""
    rows = [["hardware", "figure", "found", "1.00 is", *VARIANTS.values()]]
    rows.append(["---", "---", "---", "---:", *["---:"] * len(VARIANTS)])
    for quantity in quantities:
        one = in_unit(quantity.values[quantity.reference], quantity.unit)
        multiples = [quantity.shown(name) if name in quantity.values else NONE for name in VARIANTS]
        rows.append([quantity.platform, quantity.name, quantity.found, one, *multiples])
    return as_table(rows)


def in_unit(value: float, unit: str) -> str:
    return f"{value:,.2f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


# ---------------------------------------------------------------------------------------- claims


def claim_table(claims: list[Claim], noise: float) -> str:
    """A row for each comparison that a claim is judged by, with a mark for each platform."""
    rows = [["claim", "judged by", "verdict", "compared", *PLATFORMS]]
    rows.append(["---"] * len(rows[0]))
    for claim in claims:
        heads = [claim.text, ", ".join(claim.kinds), f"**{claim.verdict(noise)}**"]
        for compared, pairs in COMPARED.items():
            part = [each for each in claim.evidence if (each.variant, each.to) in pairs]
            if part:
                rows.append([*heads, compared, *marks(part, noise)])
                heads = [""] * len(heads)
    return as_table(rows)


def marks(evidence: list[Evidence], noise: float) -> list[str]:
    return [
        mark([each for each in evidence if each.quantity.platform == platform], noise)
        for platform in PLATFORMS
    ]


def mark(evidence: list[Evidence], noise: float) -> str:
    """Such as "✓ 0.33 – 0.38": whether the claim holds, the lowest and the highest ratio."""
    if not evidence:
        return NONE
    holding = [each.holds(noise) for each in evidence]
    sign = "✓" if all(holding) else "partly" if any(holding) else "✗"
    ratios = sorted(each.ratio for each in evidence)
    return f"{sign} {' – '.join(dict.fromkeys(map(two_digits, (ratios[0], ratios[-1]))))}"


def how_judged(quantities: list[Quantity], noise: float) -> str:
    figures = [
        f"- {kind}: "
        + "; ".join(f"{each.platform} {each.name}" for each in quantities if each.kind == kind)
        for kind in KINDS
    ]
    return "\n\n".join(
        [
            f"✓: every ratio is below 1 by more than {100 * noise:.0f} %; partly: some are; ✗: "
            f"none is; {NONE}: no figure. The numbers are the lowest and the highest ratio: "
            "structured and unstructured against the dense network of the same precision, INT8 "
            "against FP32. A claim is confirmed where all its ratios hold, refuted where none "
            "does, else conditional. It is judged by every figure of its kind:",
            "\n".join(figures),
        ]
    )

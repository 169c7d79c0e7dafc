"""The estimated energies as Markdown tables."""

from stages.common.reporting.markdown import as_table, name_and_figures
from stages.hardware.energy_model.energy import MEMORIES
from stages.hardware.energy_model.params import EnergyParams

ESTIMATED = "An estimate, not a measurement"
SOURCE = 'M. Horowitz, "Computing\'s energy problem (and what we can do about it)", ISSCC 2014'
ZEROS = "unstructured_int8"  # the variant that a zero-skipping engine is shown for


def rows_of(metrics: dict[str, dict], memory: str) -> dict[str, dict]:
    """One flat row a variant in a dense engine, and one for the zeros in a zero-skipping engine."""
    places = [(name, name, "dense") for name in metrics]
    places.append((f"{ZEROS}, zeros skipped", ZEROS, "zero_skipping"))
    rows = {}
    for label, name, engine in places:
        block = metrics[name]
        skips = engine == "zero_skipping"
        rows[label] = {
            "macs": block["nonzero_macs" if skips else "macs"],
            "weight_bytes": block["packed_weight_bytes" if skips else "weight_bytes"],
            "activation_bytes": block["activation_written_bytes"] + block["activation_read_bytes"],
            "arithmetic_uj": block[engine]["arithmetic_uj"],
            "activations_uj": block[engine]["activations_uj"],
            **block[engine][memory],
        }
    return rows


def markdown(metrics: dict[str, dict], params: EnergyParams) -> str:
    streamed, resident = (rows_of(metrics, memory) for memory in MEMORIES)
    counts, energies = as_table(count_rows(resident)), as_table(energy_rows(streamed, resident))
    return "\n\n".join([counts, energies, conditions(params)]) + "\n"


def count_rows(resident: dict[str, dict]) -> list[list[str]]:
    rows = [["variant", "MACs", "weights read", "of which fit on chip", "activations moved"]]
    rows.append(["---", *["---:"] * 4])
    for label, row in resident.items():
        rows.append(
            [
                label,
                f"{row['macs']:,}",
                f"{row['weight_bytes'] / 1000:,.0f} KB",
                f"{100 * row['weight_sram_bytes'] / row['weight_bytes']:.0f} %",
                f"{row['activation_bytes'] / 1000:,.0f} KB",
            ]
        )
    return rows


def energy_rows(streamed: dict[str, dict], resident: dict[str, dict]) -> list[list[str]]:
    heads = ["variant", "arithmetic", "activations", "total, weights from DRAM", "× base"]
    heads += ["total, weights on chip if they fit", "× base"]
    rows = [heads, name_and_figures(heads)]
    for label, row in streamed.items():
        rows.append(
            [
                label,
                f"{row['arithmetic_uj']:,.1f} µJ",
                f"{row['activations_uj']:,.1f} µJ",
                *total_and_ratio(row, streamed["base"]),
                *total_and_ratio(resident[label], resident["base"]),
            ]
        )
    return rows


def total_and_ratio(row: dict, base: dict) -> list[str]:
    """Both as ranges from the lower to the higher DRAM energy; a ratio uses one for both."""
    totals = [f"{row[key]:,.0f}" for key in ("total_uj_low", "total_uj_high")]
    ratios = [row[key] / base[key] for key in ("total_uj_low", "total_uj_high")]
    shown = [f"{ratio:.3f}" for ratio in sorted(ratios)]
    return [f"{' – '.join(dict.fromkeys(totals))} µJ", " – ".join(dict.fromkeys(shown))]


def conditions(params: EnergyParams) -> str:
    low, high = params.dram_pj
    return (
        f"{ESTIMATED}: the operations and bytes of one image times energies of 45 nm ({SOURCE}). "
        f"In pJ: int8 multiply {params.int8_multiply_pj}, int32 add {params.int32_add_pj}, fp32 "
        f"multiply {params.fp32_multiply_pj}, fp32 add {params.fp32_add_pj}; 64 bits of SRAM "
        f"{params.sram_8kb_pj} (8 KB), {params.sram_32kb_pj} (32 KB) or {params.sram_1mb_pj} "
        f"(1 MB), of DRAM {low} to {high}.\n\n"
        f"Every activation is written once to SRAM of {params.activation_sram} and read once by "
        "each operator that uses it. Every weight is read once, from DRAM or, as far as they fit, "
        f"from SRAM of {params.weight_sram}. Registers, control, clock, leakage, bias, ReLU and "
        "requantization are left out. With zeros skipped, only weights other than 0 are stored "
        f"and multiplied, plus one bit a weight that marks them. {ZEROS} has as many of them as "
        "pruned_int8; it is neither fine-tuned nor evaluated. KB are 1000 bytes for data, 1024 for "
        "memories."
    )

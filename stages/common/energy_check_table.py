"""The energy estimate and ZigZag side by side, as Markdown."""

from operator import itemgetter

from stages.common.energy import EnergyParams, sram_pj
from stages.common.markdown import as_table
from stages.common.zigzag import BUFFERS, EnergyCheckParams

VARIANTS = ("base_int8", "pruned_int8")
BUFFER_LEVELS = tuple(f"{name}_pj" for name in BUFFERS)
LEVELS = ("arithmetic_pj", *BUFFER_LEVELS, "sram_pj", "dram_pj")


def buffers_pj(block: dict) -> float:
    return sum(block[level] for level in BUFFER_LEVELS)


def without_dram(block: dict) -> float:
    return block["total_pj"] - block["dram_pj"]


def totals_rows(metrics: dict[str, dict], labels: dict[str, str]) -> list[list[str]]:
    heads = ["variant", "counted for", "arithmetic", "buffers", "SRAM", "DRAM", "in all"]
    heads += ["× estimate", "without DRAM × estimate", "× base_int8"]
    rows = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for variant, block in metrics.items():
        ours = block["totals"]["estimate"]
        for chip, found in block["totals"].items():
            base = metrics["base_int8"]["totals"][chip]
            rows.append(
                [
                    variant,
                    labels[chip],
                    microjoules(found["arithmetic_pj"]),
                    microjoules(buffers_pj(found)),
                    *(microjoules(found[key]) for key in ("sram_pj", "dram_pj", "total_pj")),
                    f"{found['total_pj'] / ours['total_pj']:.2f}",
                    f"{without_dram(found) / without_dram(ours):.2f}",
                    f"{found['total_pj'] / base['total_pj']:.3f}",
                ]
            )
    return rows


def layers_rows(block: dict) -> list[list[str]]:
    heads = ["layer", "MACs", "SRAM: estimate", "ZigZag", "DRAM: estimate", "ZigZag"]
    heads += ["buffers: ZigZag", "in all: estimate", "ZigZag", "× estimate"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, ours in block["layers"]["estimate"].items():
        found = block["layers"]["buffers"][name]
        rows.append(
            [
                name,
                f"{ours['macs']:,}",
                *(microjoules(each[key]) for key in ("sram_pj", "dram_pj")
                  for each in (ours, found)),
                microjoules(buffers_pj(found)),
                *(microjoules(each["total_pj"]) for each in (ours, found)),
                f"{found['total_pj'] / ours['total_pj']:.2f}",
            ]
        )  # fmt: skip
    return rows


def microjoules(picojoules: float) -> str:
    return f"{picojoules / 1e6:,.2f} µJ"


def markdown_table(
    metrics: dict[str, dict], energy: EnergyParams, params: EnergyCheckParams
) -> str:
    labels = {
        "estimate": "the estimate",
        "free_registers": "ZigZag, registers for all",
        "buffers": f"ZigZag, buffers of {params.buffer}",
        "no_buffers": "ZigZag, no buffers",
    }
    parts = [as_table(totals_rows(metrics, labels)), as_table(layers_rows(metrics[VARIANTS[-1]]))]
    between = (
        f"The layers of {VARIANTS[-1]}, by the estimate and by ZigZag with buffers of "
        f"{params.buffer}:"
    )
    notes = [verdict(metrics, params), conditions(metrics, energy, params)]
    return "\n\n".join([parts[0], between, parts[1], *notes]) + "\n"


def verdict(metrics: dict[str, dict], params: EnergyCheckParams) -> str:
    base, pruned = (metrics[name]["totals"] for name in VARIANTS)
    in_all, on_chip, sram = (
        " and ".join(f"{of(each['buffers']) / of(each['estimate']):.2f}" for each in (base, pruned))
        for of in (itemgetter("total_pj"), without_dram, itemgetter("sram_pj"))
    )
    left = {
        chip: f"{100 * pruned[chip]['total_pj'] / base[chip]['total_pj']:.0f} %"
        for chip in ("estimate", "buffers")
    }
    sums = 100 * pruned["buffers"]["output_buffer_pj"] / buffers_pj(pruned["buffers"])
    return (
        "With registers for everything, ZigZag counts what the estimate counts in every layer: the "
        "same multiply-accumulates, and the same bytes read and written in SRAM and DRAM. So the "
        "estimate is what these memories spend at least. On an array of "
        f"{params.rows} x {params.columns} with buffers of {params.buffer} the same energies give "
        f"{in_all} times as much ({' and '.join(VARIANTS)}), and {on_chip} times of what is not "
        "DRAM's: every operand passes through its buffer too, partial sums several times, and SRAM "
        f"gives and takes {sram} times as much. In the pruned network {sums:.0f} % of what the "
        "buffers take are partial sums and results. Of the base's energy the pruned network takes "
        f"{left['estimate']} by the estimate and {left['buffers']} there."
    )


def conditions(metrics: dict[str, dict], energy: EnergyParams, params: EnergyCheckParams) -> str:
    left_out = [
        f"{block['estimate_left_out_pj'] / 1e6:.2f} µJ ({name})" for name, block in metrics.items()
    ]
    return (
        f"zigzag-dse {metrics[VARIANTS[0]]['zigzag_dse']}, batch 1, the layers with weights; "
        f"energies of the estimate, in pJ of 64 bits: buffers {sram_pj(params.buffer, energy):g}, "
        f"SRAM of {energy.activation_sram} {sram_pj(energy.activation_sram, energy):g}, DRAM "
        f"{energy.dram_pj[0]:g}, its lower figure, from which all weights come. In the estimate "
        "but not here: biases, max pooling, and writing the image: "
        f"{', '.join(left_out)}. A row of the array takes an input channel, a column makes an "
        "output channel; a multiplier keeps 1 weight, a row 1 input, a column "
        f"{params.accumulators} partial sum{'s' if params.accumulators > 1 else ''} of 32 bits, in "
        "registers that cost nothing. The order of the loops is the cheapest that ZigZag finds, "
        f"each layer's loops cut into {params.loop_factors} factors; more of them may find a "
        "cheaper one. Without buffers, partial sums are in SRAM, 4 bytes each. Where they leave "
        "the array, ZigZag counts one read too many: of the first round, when there are none yet."
    )

"""Operations and bytes times published energies: what one inference would spend, as an estimate.

Where the bytes are, by assumption:
- the image and every activation are written once to on-chip SRAM, and read once from it by each
  operator that needs them;
- every weight is read once an inference: "streamed", all from DRAM; "resident", the bytes that the
  weight memory holds from that memory (SRAM), and the others from DRAM.

A "dense" engine multiplies by every weight and stores each; a "zero_skipping" one stores and
multiplies only those that are not 0, with a bit for each weight that says which they are.
Registers, control, clock and leakage cost nothing here, nor do bias, ReLU and requantization.
"""

from typing import Any

from stages.hardware.energy_model.operator_counts import Operator, Work
from stages.hardware.energy_model.params import SRAM_BYTES, EnergyParams

ENGINES = ("dense", "zero_skipping")
MEMORIES = ("streamed", "resident")
BYTES_AN_ACCESS = 8  # the published energies are of 64 bits


def estimates(work: Work, params: EnergyParams) -> dict:
    """Counts, bytes and microjoules of an inference, by engine and memory."""
    return {
        "macs": work.total("macs"),
        "nonzero_macs": work.total("nonzero_macs"),
        "weight_bytes": work.total("weight_bytes"),
        "packed_weight_bytes": work.total("packed_weight_bytes"),
        "activation_written_bytes": work.image_bytes + work.total("written_bytes"),
        "activation_read_bytes": work.total("read_bytes"),
        **{engine: engine_estimates(work, engine, params) for engine in ENGINES},
    }


def engine_estimates(work: Work, engine: str, params: EnergyParams) -> dict:
    stored = "packed_weight_bytes" if engine == "zero_skipping" else "weight_bytes"
    arithmetic = sum(arithmetic_pj(operator, engine, params) for operator in work.operators)
    activations = activation_pj(work, params)
    found: dict[str, Any] = {
        "arithmetic_uj": microjoules(arithmetic),
        "activations_uj": microjoules(activations),
    }
    for memory in MEMORIES:
        on_chip, off_chip = weight_places(work.total(stored), memory, params)
        low, high = weight_pj(on_chip, off_chip, params)
        found[memory] = {
            "weight_sram_bytes": on_chip,
            "weight_dram_bytes": off_chip,
            "weights_uj_low": microjoules(low),
            "weights_uj_high": microjoules(high),
            "total_uj_low": microjoules(arithmetic + activations + low),
            "total_uj_high": microjoules(arithmetic + activations + high),
        }
    return found


def arithmetic_pj(operator: Operator, engine: str, params: EnergyParams) -> float:
    """int8 products are added up in int32; a comparison costs what an addition costs."""
    macs = operator.nonzero_macs if engine == "zero_skipping" else operator.macs
    if operator.precision == "int8":
        mac_pj, compare_pj = params.int8_multiply_pj + params.int32_add_pj, params.int8_add_pj
    else:
        mac_pj, compare_pj = params.fp32_multiply_pj + params.fp32_add_pj, params.fp32_add_pj
    return macs * mac_pj + operator.comparisons * compare_pj


def activation_pj(work: Work, params: EnergyParams) -> float:
    moved = work.image_bytes + work.total("written_bytes") + work.total("read_bytes")
    return moved * sram_pj(params.activation_sram, params) / BYTES_AN_ACCESS


def weight_places(stored: int, memory: str, params: EnergyParams) -> tuple[int, int]:
    """Bytes on chip, bytes in DRAM."""
    on_chip = min(stored, SRAM_BYTES[params.weight_sram]) if memory == "resident" else 0
    return on_chip, stored - on_chip


def weight_pj(on_chip: int, off_chip: int, params: EnergyParams) -> tuple[float, float]:
    """With the lower and the higher of DRAM's energies."""
    near = on_chip * sram_pj(params.weight_sram, params)
    low, high = ((near + off_chip * dram) / BYTES_AN_ACCESS for dram in params.dram_pj)
    return low, high


def sram_pj(size: str, params: EnergyParams) -> float:
    by_size = {
        "8 KB": params.sram_8kb_pj,
        "32 KB": params.sram_32kb_pj,
        "1 MB": params.sram_1mb_pj,
    }
    return by_size[size]


def microjoules(picojoules: float) -> float:
    return round(picojoules / 1e6, 3)

"""Energy of one inference as an estimate: operations and bytes times published energies.

Assumptions:
- The image and every activation are written once to on-chip SRAM, and read once from it by each
  operator that uses them.
- Every weight is read once an inference. "streamed": all weights from DRAM. "resident": as many
  bytes as the weight memory (SRAM) holds from there, the others from DRAM.
- A "dense" engine stores every weight and multiplies by each. A "zero_skipping" engine stores and
  multiplies only weights other than 0, plus one bit a weight that marks them.
- Registers, control, clock, leakage, bias, ReLU and requantization cost nothing.
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
    """int8 products are summed in int32; a comparison costs as much as an addition."""
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
    """The weights' bytes on chip and in DRAM."""
    on_chip = min(stored, SRAM_BYTES[params.weight_sram]) if memory == "resident" else 0
    return on_chip, stored - on_chip


def weight_pj(on_chip: int, off_chip: int, params: EnergyParams) -> tuple[float, float]:
    """Energies with the lower and with the higher energy of DRAM."""
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

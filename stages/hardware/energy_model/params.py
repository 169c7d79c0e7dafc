"""Params of the stage ``energy``, apart from it: ``validate_params`` must not wait for onnx."""

from dataclasses import dataclass
from typing import Any

from stages.common.core.params import number, one_of, rule

SRAM_BYTES = {"8 KB": 8 * 1024, "32 KB": 32 * 1024, "1 MB": 1024 * 1024}


def low_to_high() -> Any:
    """A range [low, high], as the source gives it."""
    return rule(
        lambda value: (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(end, int | float) and not isinstance(end, bool) for end in value)
            and 0 <= value[0] <= value[1] < float("inf")
        ),
        "two numbers of at least 0, the lower one first, such as [1300, 2600]",
    )


@dataclass(frozen=True)
class EnergyParams:
    """Picojoules of an operation or of a 64-bit access, and the sizes of the memories."""

    int8_add_pj: float = number(at_least=0)
    int8_multiply_pj: float = number(at_least=0)
    int32_add_pj: float = number(at_least=0)
    fp32_add_pj: float = number(at_least=0)
    fp32_multiply_pj: float = number(at_least=0)
    sram_8kb_pj: float = number(at_least=0)
    sram_32kb_pj: float = number(at_least=0)
    sram_1mb_pj: float = number(at_least=0)
    dram_pj: list[float] = low_to_high()
    activation_sram: str = one_of(*SRAM_BYTES)
    weight_sram: str = one_of(*SRAM_BYTES)

"""Params of the stage ``hls``, apart from it: ``validate_params`` must not wait for torch."""

from dataclasses import dataclass
from typing import Any

from stages.common.core.params import number, rule, text, whole


def ascending(at_least: int, at_most: int) -> Any:
    """A list of whole numbers, each above the one before it."""
    return rule(
        lambda value: (
            isinstance(value, list)
            and len(value) > 0
            and all(type(item) is int and at_least <= item <= at_most for item in value)
            and value == sorted(set(value))
        ),
        f"a list of whole numbers in [{at_least}, {at_most}], each above the one before it",
    )


@dataclass(frozen=True)
class HLSParams:
    """Widths (bits) to try, how one is chosen and simulated, and the design's FPGA."""

    widths: list = ascending(at_least=2, at_most=16)
    first_layer_width: int = whole(at_least=2, at_most=16)
    calibration_images: int = whole(at_least=1)
    max_accuracy_drop: float = number(at_least=0, at_most=100)
    simulated_images: int = whole(at_least=1, at_most=10_000)
    reuse_factors: list = ascending(at_least=1, at_most=1_000_000)
    reuse_factor: int = whole(at_least=1, at_most=1_000_000)
    part: str = text()
    clock_ns: float = number(at_least=0.1)

"""Params of ``accelerator``, apart from the stage: ``validate_params`` must not wait for onnx."""

from dataclasses import dataclass
from typing import Any

from stages.common.core.params import rule, whole


def power_of_two(most: int) -> Any:
    allowed = [2**n for n in range(most.bit_length())]
    return rule(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value in allowed,
        " or ".join(map(str, allowed)),
    )


@dataclass(frozen=True)
class AcceleratorParams:
    """How wide the engine and the bus are, and what is simulated.

    ``par_ich``, ``par_och``: input and output channels multiplied at once. ``axi_bits``: of the
    data bus. ``images``: validation images that are simulated with the network's weights; then one
    with ``zero_percent`` of the weights that are not 0 set to 0.
    """

    par_ich: int = power_of_two(16)
    par_och: int = power_of_two(16)
    axi_bits: int = rule(
        lambda value: isinstance(value, int) and value in (32, 64, 128, 256),
        "32 or 64 or 128 or 256",
    )
    images: int = whole(at_least=1, at_most=100)
    zero_percent: int = whole(at_least=1, at_most=99)
    max_cycles: int = whole(at_least=1000)  # a simulation that takes more has failed

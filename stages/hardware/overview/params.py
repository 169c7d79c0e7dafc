"""Params of ``summary``, apart from the stage, for ``validate_params``."""

from dataclasses import dataclass

from stages.common.core.params import number, text


@dataclass(frozen=True)
class HardwareParams:
    """The NPU targets with slow and with fast memory for the weights, and the noise of a ratio."""

    npu_slow_weights: str = text()  # a target of params npu.targets
    npu_fast_weights: str = text()
    noise: float = number(at_least=0, below=1)  # a ratio this near to 1 is no change

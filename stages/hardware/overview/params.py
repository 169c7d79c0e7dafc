"""Params of ``summary``, apart from the stage, for ``validate_params``."""

from dataclasses import dataclass

from stages.common.core.params import number, text


@dataclass(frozen=True)
class HardwareParams:
    """Which of the NPU's targets stand for memories that are slow and fast, and what is noise."""

    npu_slow_weights: str = text()  # a target of params npu.targets
    npu_fast_weights: str = text()
    noise: float = number(at_least=0, below=1)  # a ratio this near to 1 is no change

"""The params section 'controls'."""

from dataclasses import dataclass

from stages.common.core.params import flag, number, whole
from stages.common.measuring.seeds import seeds


@dataclass(frozen=True)
class ControlsParams:
    """How long every arm is trained, how often, and the schedule that scratch has of its own."""

    seeds: list = seeds()
    epochs: int = whole(at_least=1)
    learning_rate: float = number(at_least=0)
    scratch_learning_rate: float = number(at_least=0)
    scratch_whitening_bias_epochs: int = whole(at_least=0)
    scratch_b: bool = flag()

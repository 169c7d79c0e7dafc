"""Params of ``mac_area``, apart from the stage, for ``validate_params``."""

from dataclasses import dataclass

from stages.common.core.params import whole


@dataclass(frozen=True)
class MacAreaParams:
    """The random inputs of the simulation, besides the corner inputs."""

    seed: int = whole(at_least=0)
    random_inputs: int = whole(at_least=1)  # of each kind

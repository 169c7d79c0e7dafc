"""Sections 'robustness' and 'card' of params.yaml: corrupted images, and what a card says besides
what was measured.
"""

from dataclasses import dataclass

from stages.common.core.params import number, text, whole


@dataclass(frozen=True)
class RobustnessParams:
    """How the test images are corrupted, and how a model's confidence is judged.

    ``noise`` and ``brightness`` are shares of a pixel's range, ``blur`` is in pixels of the
    network's input.
    """

    jpeg_quality: int = whole(at_least=1, at_most=100)
    noise: float = number(at_least=0, at_most=1)
    blur: float = number(at_least=0.1, at_most=100)
    brightness: float = number(at_least=-1, at_most=1)
    seed: int = whole(at_least=0)
    calibration_bins: int = whole(at_least=2, at_most=1000)


@dataclass(frozen=True)
class CardParams:
    """The licences of the model and of the images that it was trained on; "" where unknown."""

    licence: str = text()
    data_licence: str = text()

"""The params sections of training, importable without torch."""

import math
from dataclasses import dataclass, replace

from stages.common.core.cli import InputError
from stages.common.core.params import channel_widths, flag, number, one_of, whole
from stages.common.data.params import MOST_PIXELS
from stages.common.network.params import CHAIN, NONE, arguments, factory


@dataclass(frozen=True)
class Augmentation:
    """How views differ from their images, besides mirroring (see training/augmentation.py)."""

    translate: int  # largest shift, in pixels; 0: none
    cutout: int  # side of the square that is blanked out, in pixels; 0: none
    crop_scale: float = 1.0  # smallest share of the area that a random crop keeps; 1: no crop
    colour: float = 0.0  # largest relative change of brightness, contrast, saturation; 0: none


@dataclass(frozen=True)
class RecipeParams:
    """The recipe that teach, train and prune share (params section 'recipe')."""

    momentum: float = number(at_least=0, below=1)
    sgd_momentum: float = number(at_least=0, below=1)
    bias_rate: float = number(at_least=0.000001)
    head_rate: float = number(at_least=0.000001)
    weight_decay: float = number(at_least=0)
    label_smoothing: float = number(at_least=0, below=1)
    translate: int = whole(at_least=0, at_most=MOST_PIXELS)
    cutout: int = whole(at_least=0, at_most=MOST_PIXELS)
    crop_scale: float = number(at_least=0.01, at_most=1, usual=1.0)
    colour: float = number(at_least=0, at_most=1, usual=0.0)
    precision: str = one_of("auto", "float32", "bfloat16")
    optimizer: str = one_of("muon", "sgd", "adamw", usual="muon")
    schedule: str = one_of("linear", "cosine", usual="linear")
    body_rate: float = number(at_least=0, usual=1.0)
    frozen_norms: bool = flag(usual=False)

    def augmentation(self) -> Augmentation:
        return Augmentation(self.translate, self.cutout, self.crop_scale, self.colour)


def refuse_large_augmentation(recipe: RecipeParams, image_size: list[int]) -> None:
    """Raise ``InputError`` where a shift or a square is too large for images of this size."""
    side = min(image_size)
    for key, value, limit, why in (
        ("translate", recipe.translate, side // 4, "a quarter of the shorter side"),
        ("cutout", recipe.cutout, side, "the shorter side"),
    ):
        if value > limit:
            raise InputError(
                f"recipe.{key} is {value}; allowed: at most {limit}, {why} of data.image_size"
            )


@dataclass(frozen=True)
class Schedule:
    """Epochs, batch size and learning rate, which rises for ``warmup`` of the steps, then decays
    to 0. The chain's first bias learns in the first ``whitening_bias_epochs``; of an imported
    network only the output layer learns in the first ``frozen_epochs``.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.0
    whitening_bias_epochs: int = 0
    frozen_epochs: int = 0

    def rate(self, step: int, steps: int, decay: str = "linear") -> float:
        """The learning rate of one step, counted from 0; ``decay`` is linear or cosine."""
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        if decay == "cosine":
            turn = math.pi * (step - rising) / (steps - rising)
            return self.learning_rate * (1 + math.cos(turn)) / 2
        return self.learning_rate * (steps - step) / (steps - rising)


@dataclass(frozen=True)
class FromScratchParams:
    """A network from scratch: its widths, and how it is trained (teacher and base)."""

    seed: int = whole(at_least=0)
    widths: list = channel_widths()
    epochs: int = whole(at_least=1)
    batch_size: int = whole(at_least=2)
    learning_rate: float = number(at_least=0)
    warmup: float = number(at_least=0, below=1)
    whitening_bias_epochs: int = whole(at_least=0)
    device: str = one_of("auto", "cpu", "cuda", "mps")

    def schedule(self) -> Schedule:
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            whitening_bias_epochs=self.whitening_bias_epochs,
        )


@dataclass(frozen=True)
class TeachParams(FromScratchParams):
    """The teacher: how many networks, and on how many views their outputs are kept."""

    factory: str = factory(CHAIN, NONE)
    arguments: dict = arguments()
    networks: int = whole(at_least=1, at_most=20)
    views: int = whole(at_least=1, at_most=100)


@dataclass(frozen=True)
class TrainParams(FromScratchParams):
    """The base network, and how much it learns from the teacher."""

    distillation: float = number(at_least=0, at_most=1)
    temperature: float = number(at_least=0.1)
    frozen_epochs: int = whole(at_least=0, usual=0)

    def schedule(self) -> Schedule:
        return replace(super().schedule(), frozen_epochs=self.frozen_epochs)


def refuse_missing_teacher(teach: TeachParams, train: TrainParams) -> None:
    """Raise ``InputError`` where the base is to learn from a teacher that there is not."""
    if teach.factory == NONE and train.distillation:
        raise InputError(
            f"teach.factory is none, so there is nothing to distil: train.distillation is "
            f"{train.distillation:g}; allowed: 0"
        )

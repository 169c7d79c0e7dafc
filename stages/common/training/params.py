"""The params sections of training, importable without torch."""

from dataclasses import dataclass

from stages.common.core.params import channel_widths, number, one_of, whole


@dataclass(frozen=True)
class RecipeParams:
    """The recipe that teach, train and prune share (params section 'recipe')."""

    momentum: float = number(at_least=0, below=1)
    sgd_momentum: float = number(at_least=0, below=1)
    bias_rate: float = number(at_least=0.000001)
    head_rate: float = number(at_least=0.000001)
    weight_decay: float = number(at_least=0)
    label_smoothing: float = number(at_least=0, below=1)
    translate: int = whole(at_least=0, at_most=8)
    cutout: int = whole(at_least=0, at_most=32)
    precision: str = one_of("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Schedule:
    """Epochs, batch size and learning rate, which rises for ``warmup`` of the steps, then decays
    linearly to 0. The first layer's bias learns in the first ``whitening_bias_epochs``.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.0
    whitening_bias_epochs: int = 0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of one step, counted from 0."""
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        return self.learning_rate * (steps - step) / (steps - rising)


@dataclass(frozen=True)
class NetworkParams:
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
class TeachParams(NetworkParams):
    """The teacher: how many networks, and on how many views their outputs are kept."""

    networks: int = whole(at_least=1, at_most=20)
    views: int = whole(at_least=1, at_most=100)


@dataclass(frozen=True)
class TrainParams(NetworkParams):
    """The base network, and how much it learns from the teacher."""

    distillation: float = number(at_least=0, at_most=1)
    temperature: float = number(at_least=0.1)

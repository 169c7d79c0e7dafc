"""How a network is trained: the recipe, the schedule, the device and the type of its products."""

from dataclasses import dataclass

import torch

from stages.common.core.cli import InputError
from stages.common.core.params import channel_widths, number, one_of, whole


@dataclass(frozen=True)
class RecipeParams:
    """What train and prune share (params section 'recipe')."""

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
    """How long and how fast: the rate rises for ``warmup`` of the steps, then falls to 0."""

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


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA, then MPS, then CPU; raises ``InputError`` for one that is not there."""
    torch.backends.cudnn.deterministic = True  # the same seed, the same bits
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name == "auto":
        return torch.device(next((key for key, there in available.items() if there()), "cpu"))
    if name in available and not available[name]():
        raise InputError(f"the device '{name}' is not available here; set it to auto or cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the products in training; weights, sums and evaluation stay float32.

    'auto' is bfloat16 where the device multiplies it in hardware (CUDA; x86 with AVX-512 BF16 or
    AMX), else float32: where it is emulated, a step takes longer than in float32.
    """
    if name != "auto":
        return getattr(torch, name)
    native = device.type == "cuda" or (
        device.type == "cpu"
        and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    )
    return torch.bfloat16 if native else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """torch.bfloat16 -> 'bfloat16', as recipe.precision has it."""
    return str(precision).removeprefix("torch.")


def products_in(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """The context in which a network's products are of this type."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)

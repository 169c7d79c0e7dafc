"""The run context that all training of one program shares, with its device and precision."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stages.common.core.cli import InputError
from stages.common.data.dataset import Images
from stages.common.training.checkpoints import EpochStore
from stages.common.training.params import RecipeParams


@dataclass(frozen=True)
class RunContext:
    """The images, the recipe, the device, and where unfinished work is kept."""

    images: Images
    validation: Images
    recipe: RecipeParams
    device: torch.device
    store: EpochStore

    @property
    def precision(self) -> torch.dtype:
        """The type of the products in training."""
        return pick_precision(self.recipe.precision, self.device)


def evaluation_batch(images: Images) -> int:
    """How many of the images go through a network at once: 500 of 32x32 pixels, fewer of larger
    ones, so that they need no more memory.
    """
    return min(500, max(1, 500 * 32 * 32 // math.prod(images.shape[1:])))


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA, then MPS, then CPU; raises ``InputError`` for one that is not there."""
    torch.backends.cudnn.deterministic = True  # the same seed, the same bits
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
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

"""The teacher's outputs on every training image: targets for the base and what is pruned from it.

The outputs on a few augmented views are computed once and used by all training (Shen and Xing,
"A fast knowledge distillation framework", ECCV 2022), since most of what distillation costs is
the teacher. Each is the mean of the outputs on the view and on its mirror image, and serves as
target for both. The views are not those that the teacher was trained on: its outputs on those are
partly memorised.
"""

import dataclasses
import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stages.common.core.cli import InputError
from stages.common.core.files import write_bytes
from stages.common.data.dataset import Images
from stages.common.network.network import Network
from stages.common.training.augmentation import Augmenter
from stages.common.training.context import products_in
from stages.common.training.params import Augmentation


@dataclass(frozen=True)
class EpochData:
    """Inputs and targets of one epoch, all in the order of the images."""

    pixels: Tensor  # (N, 3, H, W) uint8
    logits: np.ndarray  # (N, classes) float16, the teacher's
    labels: Tensor | None = None  # (N, classes) float32 probabilities; None: the images' own labels


class Teacher(Protocol):
    """A source of targets for the training images, an epoch at a time."""

    @property
    def seed(self) -> int:
        """Of the views."""

    @property
    def digest(self) -> str:
        """Identifies everything that decides the targets."""

    def epoch_data(self, augmenter: Augmenter, epoch: int, seed: int) -> EpochData:
        """Inputs and targets of an epoch in a training with this seed."""


@dataclass(frozen=True)
class TeacherOutputs:
    """Logits (views, N, classes) float16 of the images, and what identifies views and images.

    The views are those that ``Augmenter`` numbers from ``first_view`` on. There may be none: then
    there is no teacher.
    """

    logits: np.ndarray
    seed: int
    first_view: int
    augmentation: Augmentation
    data_digest: str

    @property
    def views(self) -> int:
        return len(self.logits)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the logits, hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.logits).data).hexdigest()

    def epoch_data(self, augmenter: Augmenter, epoch: int, seed: int) -> EpochData:
        """The next of the views, in every other pass over them their mirror images."""
        number, mirrored = turn_of(seed + epoch, self.views)
        pixels = augmenter.view(self.first_view + number)
        return EpochData(
            pixels.flip(-1) if mirrored and augmenter.info.flip else pixels, self.logits[number]
        )


def turn_of(epoch: int, views: int) -> tuple[int, bool]:
    """The view whose turn it is, and whether it is mirrored, as in every other pass over them."""
    passes, number = divmod(epoch, views)
    return number, passes % 2 == 1


def no_teacher(images: Images, augmentation: Augmentation) -> TeacherOutputs:
    """Outputs on no views, which a pipeline without a teacher writes and reads."""
    return TeacherOutputs(
        logits=np.zeros((0, len(images), len(images.classes)), np.float16),
        seed=0,
        first_view=0,
        augmentation=augmentation,
        data_digest=images.digest(),
    )


def save_teacher(path: str | Path, teacher: TeacherOutputs) -> None:
    """Equal content gives equal bytes. Of the augmentation, what is at its default is left out."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        logits=teacher.logits,
        seed=teacher.seed,
        first_view=teacher.first_view,
        **stored_augmentation(teacher.augmentation),
        data_digest=teacher.data_digest,
    )
    write_bytes(path, buffer.getvalue())


def stored_augmentation(augmentation: Augmentation) -> dict[str, Any]:
    """The values that are not at their default."""
    return {
        field.name: value
        for field in dataclasses.fields(augmentation)
        if (value := getattr(augmentation, field.name)) != field.default
    }


def load_teacher(path: str | Path, augmentation: Augmentation, data_digest: str) -> TeacherOutputs:
    """Raises ``InputError`` when the file is missing, damaged, or of other images or views."""
    names = [field.name for field in dataclasses.fields(Augmentation)]
    try:
        with np.load(path) as content:
            teacher = TeacherOutputs(
                logits=content["logits"],
                seed=int(content["seed"]),
                first_view=int(content["first_view"]),
                augmentation=Augmentation(
                    **{name: content[name].item() for name in names if name in content}
                ),
                data_digest=str(content["data_digest"]),
            )
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro teach'") from None
    except (OSError, EOFError, ValueError, TypeError, LookupError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} holds no teacher's outputs ({error}); delete it and run 'dvc repro teach'"
        ) from None
    if (teacher.augmentation, teacher.data_digest) != (augmentation, data_digest):
        keys = ", ".join(f"recipe.{name}" for name in names)
        raise InputError(
            f"{path} is of other training images or views than data.* and {keys} say; run "
            "'dvc repro teach'"
        )
    return teacher


def require_views(teacher: TeacherOutputs, key: str) -> None:
    """Raise ``InputError`` where there is no teacher to learn from; ``key`` asks for one."""
    if not teacher.views:
        raise InputError(f"{key} is above 0, but teach.factory is none: set {key} to 0")


@torch.no_grad()
def mirrored_logits(
    network: Network, batches: tuple[Tensor, ...], precision: torch.dtype, mirror: bool = True
) -> np.ndarray:
    """The mean of the logits on images and, with ``mirror``, on their mirror images: (N, classes)
    float32, of batches (n, 3, H, W) uint8.
    """
    logits = []
    for batch in batches:
        inputs = batch.to(torch.float32, memory_format=torch.channels_last)
        with products_in(precision, batch.device):
            outputs = network(inputs).float()
            if mirror:
                outputs = (outputs + network(inputs.flip(-1)).float()) / 2
        logits.append(outputs.cpu())
    return torch.cat(logits).numpy()

"""Labelled images in memory, and the splits that a prepared folder gives.

What a stage knows of its data is here: class names, the images' shape, and the colours' mean and
standard deviation come with the images, whatever they are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError
from stages.common.core.params import whole
from stages.common.data.cifar10 import (
    CLASSES,
    PIXEL_MEAN,
    PIXEL_STD,
    TEST_FILE,
    TRAIN_FILES,
    read_records,
)

Colour = tuple[float, float, float]  # red, green, blue


@dataclass(frozen=True)
class DataParams:
    """Which of the 50,000 training images are used for what.

    The last ``validation_images`` in official order are held out; training takes the first
    ``train_images`` of the others.
    """

    train_images: int = whole(at_least=1, at_most=50_000)
    validation_images: int = whole(at_least=1, at_most=25_000)


@dataclass(frozen=True)
class DatasetInfo:
    """What is true of all splits: the names of the classes, in the order of the labels, and the
    mean and standard deviation of the training pixels in 0-255.
    """

    classes: tuple[str, ...]
    mean: Colour
    std: Colour


CIFAR10 = DatasetInfo(classes=CLASSES, mean=PIXEL_MEAN, std=PIXEL_STD)


@dataclass(frozen=True)
class Images:
    """Labelled images: pixels (N, 3, H, W) uint8 RGB, labels (N,) int64."""

    pixels: np.ndarray
    labels: np.ndarray
    info: DatasetInfo

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | np.ndarray) -> "Images":
        return Images(self.pixels[index], self.labels[index], self.info)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.info.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def digest(self) -> str:
        """SHA-256 of pixels and labels, hexadecimal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


def load_training_images(directory: str | Path, params: DataParams) -> tuple[Images, Images]:
    """The training split and the validation split, both taken from the five training files.

    Raises ``InputError`` for a missing or truncated file, or when the files hold too few images.
    """
    parts = [read_records(Path(directory) / name) for name in TRAIN_FILES]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    images = Images(pixels, labels, CIFAR10)
    available = len(images) - params.validation_images
    if params.train_images > available:
        raise InputError(
            f"data.train_images is {params.train_images}; allowed: at most {available}, which is "
            f"{len(images)} training images less data.validation_images"
        )
    return images[: params.train_images], images[available:]


def first_images(images: Images, count: int, key: str, limit: str) -> Images:
    """The first ``count`` images, in official order: it mixes the classes.

    Raises ``InputError`` when there are fewer; ``key`` is the param that asks for ``count``,
    ``limit`` the one that says how many there are.
    """
    if count > len(images):
        raise InputError(f"{key} is {count}; allowed: at most {len(images)}, which is {limit}")
    return images[:count]


def load_test_images(directory: str | Path) -> Images:
    """The test split; only the evaluate stages may call this."""
    return Images(*read_records(Path(directory) / TEST_FILE), CIFAR10)

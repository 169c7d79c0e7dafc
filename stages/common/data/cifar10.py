"""CIFAR-10 on disk (official binary layout) and in memory (numpy arrays).

Source of the layout: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError
from stages.common.core.params import whole

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
CLASSES_FILE = "batches.meta.txt"
IMAGE_SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, green and blue planes


@dataclass(frozen=True)
class DataParams:
    """Which of the 50,000 training images are used for what.

    The last ``validation_images`` in official order are held out; training takes the first
    ``train_images`` of the others.
    """

    train_images: int = whole(at_least=1, at_most=50_000)
    validation_images: int = whole(at_least=1, at_most=25_000)


@dataclass(frozen=True)
class Images:
    """Labelled images: pixels (N, 3, 32, 32) uint8 RGB, labels (N,) int64."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | np.ndarray) -> "Images":
        return Images(pixels=self.pixels[index], labels=self.labels[index])

    def digest(self) -> str:
        """SHA-256 of pixels and labels, hexadecimal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


def load_training_images(directory: str | Path, params: DataParams) -> tuple[Images, Images]:
    """The training split and the validation split, both taken from the five training files.

    Raises ``InputError`` for a missing or truncated file, or when the files hold too few images.
    """
    parts = [read_images(Path(directory) / name) for name in TRAIN_FILES]
    images = Images(
        pixels=np.concatenate([part.pixels for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )
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
    """The 10,000 test images; only the evaluate stage may call this."""
    return read_images(Path(directory) / TEST_FILE)


def read_images(path: str | Path) -> Images:
    """One file of records in the official binary layout."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro prepare'") from None
    if len(content) == 0 or len(content) % RECORD_BYTES:
        raise InputError(
            f"{path} has {len(content)} bytes; expected a multiple of {RECORD_BYTES}; delete it "
            "and run 'dvc repro prepare'"
        )
    records = content.reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise InputError(f"{path} has the label {labels.max()}; expected 0 to 9; delete the file")
    return Images(pixels=records[:, 1:].reshape(-1, *IMAGE_SHAPE), labels=labels)

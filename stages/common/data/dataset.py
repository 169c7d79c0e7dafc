"""Labelled images in memory, and the splits that a prepared folder gives.

What a stage knows of its data is here: class names, the images' shape, and the colours' mean and
standard deviation come with the images, whatever they are. A prepared folder holds either the
official binary files of CIFAR-10, or, of any other source, ``dataset.json`` and for each split
``SPLIT_pixels.npy`` (N, 3, H, W) uint8 RGB and ``SPLIT_labels.npy`` (N,) int64, in an order that
mixes the classes.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError
from stages.common.core.files import write_json
from stages.common.data.cifar10 import (
    CLASSES,
    PIXEL_MEAN,
    PIXEL_STD,
    TEST_FILE,
    TRAIN_FILES,
    read_records,
)
from stages.common.data.params import DataParams

DESCRIPTION_FILE = "dataset.json"
STATISTICS_IMAGES = 64  # at a time: it bounds memory
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of all splits: the names of the classes, in the order of the labels, the mean and
    standard deviation (red, green, blue) of the training pixels in 0-255, and how photos came to
    their size ("crop" or "stretch"; "" where they had it). For training: whether a mirror image
    is still of its class, and how often each class is drawn ("natural" or "balanced").
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = ""
    flip: bool = True
    sampling: str = "natural"


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
        """SHA-256 of pixels and labels, hexadecimal; of another dataset than CIFAR-10, or with
        other ways of training on it, of its ``info`` too.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        if self.info != CIFAR10:
            digest.update(repr(self.info).encode())
        return digest.hexdigest()


# --------------------------------------------------------------------------------------- reading


def load_training_images(directory: str | Path, params: DataParams) -> tuple[Images, Images]:
    """The training split and the validation split.

    Of CIFAR-10 both come from the five training files: the last data.validation_images are held
    out, and training takes the first data.train_images of the others. Of another source these
    are upper limits. Raises ``InputError`` for a missing or damaged file, or when CIFAR-10's files
    hold too few images.
    """
    if is_described(directory):
        training, held_out = (read_split(directory, split) for split in ("train", "validation"))
        training = with_training_params(training, params)
        return training[: params.train_images], held_out[: params.validation_images]
    parts = [read_records(Path(directory) / name) for name in TRAIN_FILES]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    images = with_training_params(Images(pixels, labels, CIFAR10), params)
    available = len(images) - params.validation_images
    if params.train_images > available:
        raise InputError(
            f"data.train_images is {params.train_images}; allowed: at most {available}, which is "
            f"{len(images)} training images less data.validation_images"
        )
    return images[: params.train_images], images[available:]


def with_training_params(images: Images, params: DataParams) -> Images:
    info = dataclasses.replace(images.info, flip=params.flip, sampling=params.sampling)
    return dataclasses.replace(images, info=info)


def load_test_images(directory: str | Path) -> Images:
    """The test split; only the evaluate stages may call this."""
    if is_described(directory):
        return read_split(directory, "test")
    return Images(*read_records(Path(directory) / TEST_FILE), CIFAR10)


def first_images(images: Images, count: int, key: str, limit: str) -> Images:
    """The first ``count`` images, whose order mixes the classes.

    CIFAR-10 has enough of them, or ``InputError`` is raised; ``key`` is the param that asks for
    ``count``, ``limit`` the one that says how many there are. A smaller dataset gives all it has.
    """
    if count > len(images) and not images.info.resize:
        raise InputError(f"{key} is {count}; allowed: at most {len(images)}, which is {limit}")
    return images[:count]


def is_described(directory: str | Path) -> bool:
    return (Path(directory) / DESCRIPTION_FILE).is_file()


def read_split(directory: str | Path, split: str) -> Images:
    remedy = "delete it and run 'dvc repro prepare'"
    path = Path(directory) / DESCRIPTION_FILE
    try:
        known = json.loads(path.read_text())
        info = DatasetInfo(
            tuple(known["classes"]), tuple(known["mean"]), tuple(known["std"]), known["resize"]
        )
        path = Path(directory) / f"{split}_pixels.npy"
        pixels = np.load(path)
        path = Path(directory) / f"{split}_labels.npy"
        labels = np.load(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro prepare'") from None
    except (ValueError, EOFError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); {remedy}") from None
    images = Images(pixels, labels, info)
    if images.digest() != known["splits"][split]["digest"]:
        raise InputError(f"{directory}: the {split} images are not those described; {remedy}")
    return images


# --------------------------------------------------------------------------------------- writing


def write_dataset(directory: Path, splits: dict[str, Images], source: str) -> None:
    """Fill a folder with the splits, which share their ``info``; equal content, equal bytes."""
    assert set(splits) == set(SPLITS)
    for split, images in splits.items():
        for part, array in (("pixels", images.pixels), ("labels", images.labels)):
            np.save(directory / f"{split}_{part}.npy", np.ascontiguousarray(array))
    train = splits["train"]
    write_json(
        directory / DESCRIPTION_FILE,
        {
            "source": source,
            "image_size": list(train.shape[1:]),
            "classes": train.classes,
            "mean": train.info.mean,
            "std": train.info.std,
            "resize": train.info.resize,
            "splits": {
                split: {"images": len(images), "digest": images.digest()}
                for split, images in splits.items()
            },
        },
    )


def colour_statistics(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, 3, H, W) uint8, to two decimals; a
    channel without contrast counts as one of deviation 1, since the network divides by it.
    """
    count = pixels.size // pixels.shape[1]
    sums, squares = np.zeros((2, pixels.shape[1]), np.int64)
    for start in range(0, len(pixels), STATISTICS_IMAGES):
        part = pixels[start : start + STATISTICS_IMAGES]
        sums += part.sum(axis=(0, 2, 3), dtype=np.int64)
        squares += np.square(part, dtype=np.int32).sum(axis=(0, 2, 3), dtype=np.int64)
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std[std < 1] = 1
    return tuple(round(float(x), 2) for x in mean), tuple(round(float(x), 2) for x in std)

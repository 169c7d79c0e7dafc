"""Datasets of torchvision by name; a small one stands in for those that are fetched."""

import http.client
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from torchvision import datasets

from stages import prepare
from stages.common.core.cli import InputError
from stages.common.data.dataset import load_test_images, load_training_images
from tests.conftest import data_params


class Picture:
    """A picture as a dataset of torchvision returns it: PIL's image has this method."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def convert(self, mode: str) -> np.ndarray:
        assert mode == "RGB"
        return cv2.cvtColor(self.pixels, cv2.COLOR_GRAY2RGB)


class Digits:
    classes = ["zero", ("one", "single")]

    def __init__(self, root: str, train: bool = True, download: bool = False):
        self.start = 0 if train else 1000
        self.count = 40 if train else 10

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        if index >= self.count:
            raise IndexError
        pixels = np.random.default_rng(self.start + index).integers(0, 256, (28, 28))
        return Picture(pixels.astype(np.uint8)), index % 2


class Unreachable(Digits):
    def __init__(self, root: str, split: str = "train", download: bool = False):
        raise RuntimeError("Error downloading\nx.gz")


class Interrupted(Digits):
    """The connection breaks off in the middle of the second file, as often as ``breaks`` says."""

    breaks = 0

    def __init__(self, root: str, train: bool = True, download: bool = False):
        super().__init__(root, train)
        name = "train" if train else "test"
        if (Path(root) / name).exists():
            return
        (Path(root) / name).write_bytes(b"half")
        if not train and Interrupted.breaks:
            Interrupted.breaks -= 1
            raise http.client.IncompleteRead(b"half")
        (Path(root) / name).write_bytes(b"whole")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    for kind in (Digits, Unreachable, Interrupted, Repeated):
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)
    names = (*datasets.__all__, "Digits", "Unreachable", "Interrupted", "Repeated")
    monkeypatch.setattr(datasets, "__all__", names)


def params_of(name: str, **changes: object):
    return data_params(10**6, 10**6, source=f"torchvision:{name}", **changes)


def test_its_splits_and_class_names_are_kept_and_a_validation_split_is_made(tmp_path, capsys):
    params = params_of("Digits", flip=False)
    prepare.prepare_images(tmp_path / "data", params)
    train, validation = load_training_images(tmp_path / "data", params)
    test = load_test_images(tmp_path / "data")
    assert (len(train), len(validation), len(test)) == (32, 8, 10)
    assert test.classes == ("zero", "one")
    assert test.shape == (3, 32, 32)
    assert train.info.flip is False
    assert "there is no validation split" in capsys.readouterr().out


def test_grey_pictures_of_torchvisions_own_class_become_rgb(tmp_path):
    """Files that are there already are not fetched."""
    raw = tmp_path / "downloads" / "MNIST" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 28, 28)).astype(np.uint8)
    for prefix, count in (("train", 50), ("t10k", 20)):
        for name, array in (
            ("images-idx3", pixels[:count]),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (raw / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    params = params_of("MNIST", image_size=[28, 28])
    prepare.prepare_images(tmp_path / "data", params)
    test = load_test_images(tmp_path / "data")
    assert test.classes[:2] == ("0 - zero", "1 - one")
    assert {image.tobytes() for image in test.pixels} == {
        np.stack([image] * 3).tobytes() for image in pixels[:20]
    }


class Repeated(Digits):
    """Training pictures 0 and 1 are one picture of two classes, and 2 is test picture 0."""

    def __getitem__(self, index: int):
        if index >= self.count:
            raise IndexError
        is_train = self.start == 0
        same = {0: 900, 1: 900, 2: 1000}.get(index, index) if is_train else self.start + index
        pixels = np.random.default_rng(same).integers(0, 256, (28, 28))
        return Picture(pixels.astype(np.uint8)), index % 2


def test_published_splits_keep_their_copies_but_no_training_picture_is_in_the_test_split(
    tmp_path, capsys
):
    params = params_of("Repeated")
    prepare.prepare_images(tmp_path / "data", params)
    train, validation = load_training_images(tmp_path / "data", params)
    test = load_test_images(tmp_path / "data")
    assert (len(train) + len(validation), len(test)) == (39, 10)
    assert "train 2 left out: a copy of test 0" in capsys.readouterr().out


def test_a_download_that_breaks_off_leaves_nothing_and_the_next_one_is_whole(tmp_path):
    Interrupted.breaks = 1
    with pytest.raises(InputError, match="could not fetch Interrupted: IncompleteRead"):
        prepare.prepare_images(tmp_path / "data", params_of("Interrupted"))
    assert list((tmp_path / "downloads").iterdir()) == []
    prepare.prepare_images(tmp_path / "data", params_of("Interrupted"))
    files = sorted((tmp_path / "downloads" / "Interrupted").iterdir())
    assert [file.read_bytes() for file in files] == [b"whole", b"whole"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FashionMNST", "torchvision has no dataset 'FashionMNST'; did you mean FashionMNIST?"),
        ("ImageFolder", "does not fetch ImageFolder"),
        ("Unreachable", "torchvision could not fetch Unreachable: Error downloading x.gz"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(tmp_path, name, said):
    with pytest.raises(InputError) as caught:
        prepare.prepare_images(tmp_path / "data", params_of(name))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1

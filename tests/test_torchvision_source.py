"""Datasets of torchvision by name; a small one stands in for those that are fetched."""

import errno
import gzip
import hashlib
import http.client
import http.server
import struct
import threading
import time
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from torchvision import datasets

from stages import prepare
from stages.common.core.cli import InputError
from stages.common.data.dataset import load_test_images, load_training_images
from stages.common.sources import torchvision
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


def idx_files() -> dict[str, bytes]:
    """The files of a small MNIST or FashionMNIST: 50 training and 20 test pictures."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 28, 28)).astype(np.uint8)
    files = {}
    for prefix, count in (("train", 50), ("t10k", 20)):
        for name, array in (
            ("images-idx3", pixels[:count] if prefix == "train" else pixels[-count:]),
            ("labels-idx1", np.arange(count, dtype=np.uint8) % 10),
        ):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            files[f"{prefix}-{name}-ubyte"] = header + array.tobytes()
    return files


def test_grey_pictures_of_torchvisions_own_class_become_rgb(tmp_path):
    """Files that are there already are not fetched."""
    raw = tmp_path / "downloads" / "MNIST" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in idx_files().items():
        (raw / name).write_bytes(content)
    params = params_of("MNIST", image_size=[28, 28])
    prepare.prepare_images(tmp_path / "data", params)
    test = load_test_images(tmp_path / "data")
    assert test.classes[:2] == ("0 - zero", "1 - one")
    assert {image.tobytes() for image in test.pixels} == {
        np.stack([image] * 3).tobytes() for image in last_pictures(20)
    }


def last_pictures(count: int) -> np.ndarray:
    """Of ``idx_files``, (count, 28, 28) uint8."""
    pixels = np.frombuffer(idx_files()["train-images-idx3-ubyte"], np.uint8, offset=16)
    return pixels.reshape(-1, 28, 28)[-count:]


# Real downloads, from this machine


class Server(http.server.BaseHTTPRequestHandler):
    """Gives the files of ``idx_files``, but fails at the test pictures as ``failure`` says."""

    files: ClassVar[dict[str, bytes]] = {
        f"{name}.gz": gzip.compress(content, mtime=0) for name, content in idx_files().items()
    }
    failure = ""

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        content, failure = self.files[name], Server.failure * name.startswith("t10k-images")
        if failure == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if failure == "cut":
            content = content[: len(content) // 2]
        elif failure == "changed":
            content = bytes(len(content))
        elif failure == "silent":
            self.wfile.write(content[:100])
            self.wfile.flush()
            time.sleep(0.5)
            return
        self.wfile.write(content)


@pytest.fixture
def served(monkeypatch):
    """FashionMNIST is fetched from here; set ``Server.failure``."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        digests = [(name, hashlib.md5(each).hexdigest()) for name, each in Server.files.items()]
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [mirror])
        monkeypatch.setattr(datasets.FashionMNIST, "resources", digests)
        monkeypatch.setattr(Server, "failure", "")
        monkeypatch.setattr(torchvision, "TIMEOUT_S", 0.1)
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("missing", "HTTP Error 404: Not Found"),
        ("cut", "File not found or corrupted"),
        ("changed", "File not found or corrupted"),
        ("silent", "timed out"),
        ("refused", "Connection refused"),
    ],
)
def test_a_download_that_fails_says_so_in_one_line_and_leaves_nothing(
    failure, said, served, tmp_path, monkeypatch
):
    monkeypatch.setattr(Server, "failure", failure)
    if failure == "refused":
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(
        InputError, match=f"could not fetch or open FashionMNIST: .*{said}"
    ) as error:
        prepare.prepare_images(tmp_path / "data", params_of("FashionMNIST"))
    assert "; try again with a network, or put its images into class folders" in str(error.value)
    assert "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.name != "downloads"] == []


def test_what_was_fetched_is_whole_and_not_fetched_again(served, tmp_path, monkeypatch):
    params = params_of("FashionMNIST", image_size=[28, 28])
    prepare.prepare_images(tmp_path / "data", params)
    assert len(load_test_images(tmp_path / "data")) == 20
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    prepare.prepare_images(tmp_path / "data", params)


@pytest.mark.parametrize("content", [b"", b"x" * 1000, idx_files()["train-images-idx3-ubyte"][:99]])
def test_a_damaged_file_of_an_earlier_download_is_refused_with_the_folder_to_delete(
    content, served, tmp_path
):
    prepare.prepare_images(tmp_path / "data", params_of("FashionMNIST"))
    folder = tmp_path / "downloads" / "FashionMNIST"
    (folder / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError, match=f"; delete {folder}, so that it is fetched anew") as error:
        prepare.prepare_images(tmp_path / "data", params_of("FashionMNIST"))
    assert "\n" not in str(error.value)


def test_a_full_disk_is_no_failure_of_the_network(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Digits, "__init__", full)
    monkeypatch.setattr(torchvision, "dataset_class", lambda _: Digits)
    with pytest.raises(OSError, match="No space left on device"):
        prepare.prepare_images(tmp_path / "data", params_of("Digits"))
    assert list((tmp_path / "downloads").iterdir()) == []


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
    with pytest.raises(InputError, match="could not fetch or open Interrupted: IncompleteRead"):
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
        ("Unreachable", "torchvision could not fetch or open Unreachable: Error downloading x.gz"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(tmp_path, name, said):
    with pytest.raises(InputError) as caught:
        prepare.prepare_images(tmp_path / "data", params_of(name))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1

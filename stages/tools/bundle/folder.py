"""A folder or an archive that appears whole or not at all, and its checksums."""

import gzip
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.common.core.files import digest, replacing, write_text

CHECKSUMS = "SHA256SUMS"  # for: sha256sum --check SHA256SUMS


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Yield an empty folder of the target's name, which is gone after the block unless it was
    moved.
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    folder = part / target.name
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(part, ignore_errors=True)


def move_into_place(folder: Path, target: Path) -> None:
    """Replaces anything that was at ``target``."""
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)


def files_in(folder: Path) -> list[Path]:
    """All of them, also in the folders below, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_checksums(folder: Path) -> None:
    """The SHA-256 of every file that is there."""
    lines = [
        f"{digest(path, 'sha256')}  {path.relative_to(folder).as_posix()}\n"
        for path in files_in(folder)
    ]
    write_text(folder / CHECKSUMS, "".join(lines))


def write_archive(folder: Path, archive: Path) -> None:
    """A .tar.gz with the folder in it; equal files give equal bytes."""
    with (
        replacing(archive) as temporary,
        open(temporary, "wb") as file,
        gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in files_in(folder):
            tar.add(path, f"{folder.name}/{path.relative_to(folder).as_posix()}", filter=anonymous)


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who packed it and when."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry

"""Files taken out of a .tar (plain, .gz, .bz2, .xz) or .zip archive: those asked for, no others."""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stages.common.core.cli import InputError

DAMAGED = (  # raised for a cut or damaged archive; RuntimeError for a zip with a password
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error,
    lzma.LZMAError, NotImplementedError, RuntimeError,
)  # fmt: skip


def extract(archive: Path, wanted: set[str], into: Path) -> list[str]:
    """Unpack the files whose names are ``wanted``, from any folder; return the names of all.

    Each of its folders becomes a numbered one in ``into``: a name in an archive is never used as a
    path, so that nothing can be written elsewhere. Raises ``InputError`` when it cannot be read.
    """
    folders: dict[str, Path] = {}
    names = []
    try:
        for name, source in members(archive):
            names.append(name)
            folder, _, filename = name.replace("\\", "/").rpartition("/")
            if filename in wanted:
                target = folders.setdefault(folder, into / str(len(folders)))
                target.mkdir(exist_ok=True)
                with open(target / filename, "wb") as file:
                    shutil.copyfileobj(source, file)
    except DAMAGED:
        raise InputError("not a whole .tar.gz, .tar or .zip archive") from None
    return names


def members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every regular file; links are none."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                if not entry.is_dir():
                    with zipped.open(entry) as source:
                        yield entry.filename, source
        return
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, content

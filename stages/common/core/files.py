"""Files written whole or not at all, and numbers read from the metrics of other stages."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block ends well.

    The temporary file is removed when the block raises, so ``path`` is either the old file or the
    whole new one. An ``OSError`` that says of no file (a full disk), or of the temporary one, is
    given the name of ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename2 is None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # a read-only folder refuses this even where there is nothing
            temporary.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: str | Path, rows: list[dict], header: list[str]) -> None:
    """Write rows whose keys are those of the header, which is written even without rows."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def digest(path: str | Path, algorithm: str = "md5") -> str:
    """Hexadecimal digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_metrics(path: Path, remedy: str) -> dict:
    """Raises ``InputError`` with the remedy when the file is missing, or holds no JSON object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run {remedy}") from None
    except ValueError as error:  # no JSON, or no text
        raise InputError(f"{path} is no JSON ({error}); delete it and run {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; delete it and run {remedy}")
    return content


def read_rows(path: Path, remedy: str) -> list[dict[str, str]]:
    """The rows of a CSV; raises ``InputError`` with the remedy when it is missing or has none."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run {remedy}") from None
    if not rows:
        raise InputError(f"{path} has no rows; delete it and run {remedy}")
    return rows


def figure(block: dict, *keys: str, where: Path) -> float:
    """The number under the given keys; raises ``InputError`` naming the key that is missing."""
    value: Any = block
    for index, key in enumerate(keys):
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"{where} lacks {' / '.join(keys[: index + 1])}: it is of other code")
        value = value[key]
    return float(value)

"""Figures out of the metrics and tables that other stages wrote."""

import csv
import json
from pathlib import Path

from stages.common.cli import InputError


def read_metrics(path: Path, remedy: str) -> dict:
    """Raises ``InputError`` with the remedy when the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run {remedy}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is no JSON ({error}); delete it and run {remedy}") from None


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
    for index, key in enumerate(keys):
        if not isinstance(block, dict) or key not in block:
            raise InputError(f"{where} lacks {' / '.join(keys[: index + 1])}: it is of other code")
        block = block[key]
    return float(block)

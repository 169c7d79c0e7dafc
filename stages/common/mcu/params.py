"""Params of ``make mcu``, apart from its stages: ``validate_params`` waits for no runtime."""

from dataclasses import dataclass
from typing import Any

from stages.common.core.params import rule, whole

KEYS = {"ram_kb": int, "flash_kb": int, "source": str}  # of a board


def is_board(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {key: type(each) for key, each in value.items()} == KEYS
        and value["ram_kb"] > 0
        and value["flash_kb"] > 0
        and value["source"].startswith("https://")
    )


def boards() -> Any:
    """A field of boards by name, each with its memories in KB of 1,024 bytes and a link."""
    return rule(
        lambda value: (
            isinstance(value, dict) and bool(value) and all(map(is_board, value.values()))
        ),
        "boards by name, each {ram_kb: 256, flash_kb: 1024, source: https://...}",
    )


@dataclass(frozen=True)
class MCUParams:
    """How many test images run, what the program itself takes, and the boards to judge.

    ``program_ram_kb`` and ``program_flash_kb`` are for all that is neither arena nor model: the
    interpreter's code and kernels, drivers, stack, the picture itself.
    """

    images: int = whole(at_least=1)
    program_ram_kb: int = whole(at_least=0)
    program_flash_kb: int = whole(at_least=0)
    boards: dict = boards()

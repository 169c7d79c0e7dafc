"""Whether a network fits on a board, and how far it is from fitting."""

from dataclasses import dataclass

from stages.common.mcu.params import MCUParams

KB = 1024  # bytes, as memories are sold


@dataclass(frozen=True)
class Board:
    """``ram`` and ``flash``: bytes in all. ``source``: a link to who says so."""

    name: str
    ram: int
    flash: int
    source: str


def boards_of(params: MCUParams) -> list[Board]:
    return [
        Board(name, each["ram_kb"] * KB, each["flash_kb"] * KB, each["source"])
        for name, each in params.boards.items()
    ]


def verdict(board: Board, ram: int, flash: int) -> str:
    """'fits: 48 % of RAM, 62 % of flash', or 'no: flash by 1,484 KB'; needed are bytes."""
    if ram <= board.ram and flash <= board.flash:
        return f"fits: {ram / board.ram:.0%} of RAM, {flash / board.flash:.0%} of flash".replace(
            "%", " %"
        )
    over = {"RAM": ram - board.ram, "flash": flash - board.flash}
    lacking = [f"{name} by {-(-each // KB):,} KB" for name, each in over.items() if each > 0]
    return f"no: {', '.join(lacking)}"

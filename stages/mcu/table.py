"""Put RAM and flash of the networks beside those of real boards.

Reads   the JSON of ``mcu`` for every network
Writes  a Markdown page: accuracy and needs by network, a verdict for each network on each board
Params  mcu.*  (see MCUParams)
Raises  InputError when a JSON is missing
"""

import argparse
from pathlib import Path

from stages.common.core.accuracy import percent_text
from stages.common.core.cli import run
from stages.common.core.files import read_metrics, write_text
from stages.common.core.params import load_params
from stages.common.mcu.boards import KB, Board, boards_of, verdict
from stages.common.mcu.params import MCUParams
from stages.common.reporting.markdown import as_table, name_and_figures

UNSUPPORTED = "unsupported"  # the key of a network without a TFLite file
KERNELS = {"xnnpack": "LiteRT, for PCs", "fixed_point": "LiteRT, fixed point"}  # its two kinds
HEADS = ["network", "accuracy", *KERNELS.values(), "flash", "arena"]


def needs_table(found: dict[str, dict]) -> str:
    """``found``: the metrics of ``mcu`` by network."""
    rows = [
        [
            name,
            percent_text(each["accuracy"], each["images"]),
            *(agreement(each["litert"][kernels]) for kernels in KERNELS),
            f"{each['flash_bytes']:,}",
            f"{each['arena_bytes']:,}",
        ]
        for name, each in found.items()
    ]
    return as_table([HEADS, name_and_figures(HEADS), *rows])


def agreement(found: dict) -> str:
    """'99.7 % equal, off by 6', of one kind of LiteRT's kernels."""
    return f"{found['agreement']:g} % equal, off by {found['max_int8_difference']}"


def boards_table(found: dict[str, dict], params: MCUParams) -> str:
    heads = ["board", "RAM", "flash", *found]
    rows = [
        [
            f"[{board.name}]({board.source})",
            f"{board.ram // KB:,} KB",
            f"{board.flash // KB:,} KB",
            *(judged(board, each, params) for each in found.values()),
        ]
        for board in boards_of(params)
    ]
    return as_table([heads, ["---", "---:", "---:", *["---"] * len(found)], *rows])


def judged(board: Board, metrics: dict, params: MCUParams) -> str:
    """With what the program takes itself."""
    return verdict(
        board,
        ram=metrics["arena_bytes"] + params.program_ram_kb * KB,
        flash=metrics["flash_bytes"] + params.program_flash_kb * KB,
    )


def conditions(found: dict[str, dict], params: MCUParams) -> str:
    first = next(iter(found.values()))
    operators = sorted({kind for each in found.values() for kind in each["operators"]})
    return (
        "Flash: bytes of the INT8 TFLite file. Arena: the fewest bytes in which TensorFlow Lite "
        "Micro runs the network, by bisection. On the first "
        f"{first['images']:,} test images, beside LiteRT with its kernels for PCs "
        "(XNNPACK) and its fixed-point ones: equal predictions, and the "
        "largest difference of the int8 logits, in steps. Operators to register: "
        f"{', '.join(operators)}.\n\n"
        f"Measured on the host with tflite-micro {first['tflite_micro']}, compiled for 64 bits, "
        "and its reference kernels. On a device pointers have 32 bits, so the arena is a little "
        "smaller; optimized kernels (CMSIS-NN, ESP-NN) need scratch memory in it. Nothing was "
        "timed, and nothing ran on a board. A verdict adds what the program takes: "
        f"{params.program_ram_kb} KB of RAM and {params.program_flash_kb} KB of flash (assumed; "
        "`mcu.*` in params.yaml). KB are 1,024 bytes."
    )


def page(metrics: dict[str, dict], params: MCUParams) -> str:
    """``metrics``: by network; those without a TFLite file are named with the reason."""
    found = {name: each for name, each in metrics.items() if UNSUPPORTED not in each}
    lacking = [
        f"{name} has no TFLite file: {each[UNSUPPORTED]}."
        for name, each in metrics.items()
        if UNSUPPORTED in each
    ]
    if not found:
        return "\n\n".join(lacking) + "\n"
    parts = [needs_table(found), boards_table(found, params), conditions(found, params)]
    return "\n\n".join([*parts, *lacking]) + "\n"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True, help="folder of the JSONs")
    parser.add_argument("--network", action="append", required=True)
    parser.add_argument("--table", type=Path, required=True, help="Markdown page to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(MCUParams, args.params, section="mcu")
    metrics = {
        name: read_metrics(args.metrics / f"{name}.json", "'make mcu'") for name in args.network
    }
    text = page(metrics, params)
    write_text(args.table, text)
    print(text, end="")


if __name__ == "__main__":
    run(main)

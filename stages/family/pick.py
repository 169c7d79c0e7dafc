"""Name the best model of the family within so many bytes or milliseconds, and how to get it.

Reads   the JSON of the family that stages.family.frontier writes
Writes  nothing
Params  none
Raises  InputError when no limit is given, when no model is within it, when the JSON is missing

Milliseconds are those of the machine that timed the family, as INT8 and batch 1.
"""

import argparse
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import read_metrics
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.common.reporting.results import RUNTIMES

HEADS = ["model", "INT8 accuracy", "bytes", *(f"{title} INT8" for title in RUNTIMES.values())]


def pick(
    family: dict[str, dict], size_bytes: int | None, latency_ms: float | None, runtime: str | None
) -> str:
    """The name of the most accurate model within the limits, of equals the smallest.

    Raises ``InputError``, naming the smallest or fastest model, when none is.
    """
    fitting, which = family, "no model"
    if size_bytes is not None:
        fitting, which = within_bytes(family, size_bytes), f"no model of {size_bytes:,} bytes"
    if latency_ms is not None and runtime is not None:
        fitting = within_time(fitting, latency_ms, runtime, which)
    return max(fitting, key=lambda name: (fitting[name]["accuracy"], -fitting[name]["size_bytes"]))


def within_bytes(family: dict[str, dict], size_bytes: int) -> dict[str, dict]:
    found = {name: row for name, row in family.items() if row["size_bytes"] <= size_bytes}
    if not found:
        name, row = min(family.items(), key=lambda item: item[1]["size_bytes"])
        raise InputError(
            f"no model has at most {size_bytes:,} bytes; the smallest is {name}, with "
            f"{row['size_bytes']:,}"
        )
    return found


def within_time(
    family: dict[str, dict], latency_ms: float, runtime: str, which: str
) -> dict[str, dict]:
    """The models that take at most so long; a file that is wrong in the runtime is none.

    ``which``: the subject of the error, "no model".
    """
    timed = {name: row for name, row in family.items() if row["int8_ms"][runtime] is not None}
    found = {name: row for name, row in timed.items() if row["int8_ms"][runtime] <= latency_ms}
    if not timed:
        raise InputError(f"{which} was timed in {RUNTIMES[runtime]}")
    if not found:
        name, row = min(timed.items(), key=lambda item: item[1]["int8_ms"][runtime])
        raise InputError(
            f"{which} takes at most {latency_ms:g} ms in {RUNTIMES[runtime]}; the fastest is "
            f"{name}, with {row['int8_ms'][runtime]:.3f} ms"
        )
    return found


def described(name: str, row: dict, machine: str) -> str:
    """The model's row, its file, and the command that brings it."""
    cells = [
        name,
        f"{row['accuracy']:.2f} %",
        f"{row['size_bytes']:,}",
        *(milliseconds(row["int8_ms"][runtime]) for runtime in RUNTIMES),
    ]
    return (
        f"{as_table([HEADS, name_and_figures(HEADS), cells])}\n\nTimed on {machine}.\n"
        f"File: {row['origin']}\nGet it: dvc pull {row['origin']}"
    )


def milliseconds(value: float | None) -> str:
    return "wrong there" if value is None else f"{value:.2f} ms"


def main() -> None:
    args = parse_args()
    if args.bytes is None and args.ms is None:
        raise InputError("BYTES or MS is missing, e.g. make pick BYTES=350000")
    if (args.ms is None) != (args.runtime is None):
        raise InputError(
            f"MS and RUNTIME ({' or '.join(RUNTIMES)}) go together, e.g. "
            "make pick MS=0.6 RUNTIME=opencv"
        )
    content = read_metrics(args.frontier, "'make family'")
    family = content["family"]
    name = pick(family, args.bytes, args.ms, args.runtime)
    print(described(name, family[name], content["machine"]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frontier", type=Path, required=True, help="JSON of the family")
    parser.add_argument("--bytes", type=int, help="of the INT8 file, at most")
    parser.add_argument("--ms", type=float, help="of one image as INT8, at most")
    parser.add_argument("--runtime", choices=list(RUNTIMES), help="that is to take no longer")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

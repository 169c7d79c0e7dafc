"""Name the best model of the family within so many bytes or milliseconds, and how to get it.

Reads   the JSON of the family that stages.family.frontier writes
Writes  nothing
Params  none
Raises  InputError when no limit is given or one is no number above 0, when no model is within it,
        when the JSON is missing or damaged

Milliseconds are those of the machine that timed the family, as INT8 and batch 1.
"""

import argparse
import math
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import read_metrics
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.common.reporting.results import require_keys
from stages.common.reporting.runtimes import RUNTIMES
from stages.family.page.results import REMEDY

HEADS = ["model", "INT8 accuracy", "bytes", *(f"{title} INT8" for title in RUNTIMES.values())]


def pick(
    family: dict[str, dict], size_bytes: float | None, latency_ms: float | None, runtime: str | None
) -> str:
    """The name of the most accurate model within the limits, of equals the smallest.

    Raises ``InputError``, naming the smallest or fastest model, when none is.
    """
    fitting, which = family, "no model"
    if size_bytes is not None:
        fitting = within_bytes(family, size_bytes)
        which = f"no model of at most {size_bytes:,.0f} bytes"
    if latency_ms is not None and runtime is not None:
        fitting = within_time(fitting, latency_ms, runtime, which)
    return max(fitting, key=lambda name: (fitting[name]["accuracy"], -fitting[name]["size_bytes"]))


def within_bytes(family: dict[str, dict], size_bytes: float) -> dict[str, dict]:
    found = {name: row for name, row in family.items() if row["size_bytes"] <= size_bytes}
    if not found:
        name, row = min(family.items(), key=lambda item: item[1]["size_bytes"])
        raise InputError(
            f"no model has at most {size_bytes:,.0f} bytes; the smallest is {name}, with "
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


def read_family(path: Path) -> tuple[dict[str, dict], str]:
    """The models by name, and the machine that timed them."""
    content = read_metrics(path, REMEDY)
    require_keys(content, ("family", "machine"), path, REMEDY)
    family = content["family"]
    if not isinstance(family, dict) or not family:
        raise InputError(f"{path} names no model; delete it and run {REMEDY}")
    for name, row in family.items():
        require_keys(
            row, ("accuracy", "size_bytes", "int8_ms", "origin"), f"{path}: {name}", REMEDY
        )
        require_keys(row["int8_ms"], RUNTIMES, f"{path}: {name}: int8_ms", REMEDY)
    return family, content["machine"]


def limit(variable: str, text: str | None, example: str) -> float | None:
    """A variable of make as a number; None where it is not set."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{variable} is {text!r}; expected a number above 0, such as {example}")
    return value


def main() -> None:
    args = parse_args()
    size_bytes, latency_ms = limit("BYTES", args.bytes, "350000"), limit("MS", args.ms, "0.6")
    if size_bytes is None and latency_ms is None:
        raise InputError("BYTES or MS is missing, e.g. make pick BYTES=350000")
    if args.runtime is not None and args.runtime not in RUNTIMES:
        raise InputError(f"RUNTIME is {args.runtime!r}; expected {' or '.join(RUNTIMES)}")
    if (latency_ms is None) != (args.runtime is None):
        raise InputError(
            f"MS and RUNTIME ({' or '.join(RUNTIMES)}) go together, e.g. "
            "make pick MS=0.6 RUNTIME=opencv"
        )
    family, machine = read_family(args.frontier)
    name = pick(family, size_bytes, latency_ms, args.runtime)
    print(described(name, family[name], machine))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frontier", type=Path, required=True, help="JSON of the family")
    parser.add_argument("--bytes", help="of the INT8 file, at most")
    parser.add_argument("--ms", help="of one image as INT8, at most")
    parser.add_argument("--runtime", help=f"that is to take no longer: {' or '.join(RUNTIMES)}")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""Put the committed results into the README, so that no figure there is typed by hand.

Reads   the Markdown table of the compare stage, the README
Writes  the README, with the table between its two marks
Params  none
Raises  InputError when a file or a mark is missing
"""

import argparse
from pathlib import Path

from stages.common.cli import InputError, run
from stages.common.files import write_text

BEGIN = "<!-- results: begin (make readme) -->"
END = "<!-- results: end -->"


def with_results(readme: str, table: str) -> str:
    """The README's text with ``table`` between its marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"the README lacks the marks '{BEGIN}' and '{END}', in this order")
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro' first") from None


def main() -> None:
    args = parse_args()
    write_text(args.readme, with_results(read_text(args.readme), read_text(args.table)))
    print(f"{args.readme}: results from {args.table}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--readme", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

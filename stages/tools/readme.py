"""Put the committed results into the README, so that no figure there is typed by hand.

Reads   the README and the Markdown tables that it names
Writes  the README, with each table between the two marks that name its file:
        <!-- metrics/summary.md: begin (make readme) --> and <!-- metrics/summary.md: end -->
Params  none
Raises  InputError when a table is missing or the README has no marks
"""

import argparse
import re
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_text

PLACE = re.compile(
    r"(?P<begin><!-- (?P<path>\S+): begin \(make readme\) -->\n).*?"
    r"(?P<end><!-- (?P=path): end -->)",
    re.DOTALL,
)


def with_tables(readme: str, folder: Path) -> str:
    """The README's text with every table, as its file in ``folder`` has it, between its marks."""

    def filled(place: re.Match) -> str:
        return f"{place['begin']}\n{read_text(folder / place['path']).strip()}\n\n{place['end']}"

    content, count = PLACE.subn(filled, readme)
    if not count:
        raise InputError("the README lacks marks such as '<!-- FILE: begin (make readme) -->'")
    return content


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro' first") from None


def main() -> None:
    args = parse_args()
    write_text(args.readme, with_tables(read_text(args.readme), args.readme.parent))
    print(f"{args.readme}: every table as its file has it")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""Fill the committed tables into the pages, so that no table is typed by hand.

Reads   the pages (Markdown) and the files that their marks name
Writes  each page, with the table between the two marks that name its file:
        <!-- metrics/summary.md: begin (make readme) --> and <!-- metrics/summary.md: end -->
        A .md file is taken as it is; metrics/summary.json becomes the README's short table.
Params  none
Raises  InputError when a page has no marks, or a file that a mark names is missing
"""

import argparse
import json
import re
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_text
from stages.common.reporting.markdown import as_table, name_and_figures

PLACE = re.compile(
    r"(?P<begin><!-- (?P<path>\S+): begin \(make readme\) -->\n).*?"
    r"(?P<end><!-- (?P=path): end -->)",
    re.DOTALL,
)
HEADS = ["variant", "accuracy", "size", "MACs", "OpenCV DNN time", "ONNX Runtime time"]


def with_tables(page: str, folder: Path) -> str:
    """The page's text with every table, as its file in ``folder`` has it, between its marks."""

    def filled(place: re.Match) -> str:
        return f"{place['begin']}\n{table_in(folder / place['path'])}\n\n{place['end']}"

    content, count = PLACE.subn(filled, page)
    if not count:
        raise InputError("the page lacks marks such as '<!-- FILE: begin (make readme) -->'")
    return content


def table_in(path: Path) -> str:
    text = read_text(path)
    if path.suffix == ".json":
        return short_table(json.loads(text))
    return text.strip()


def short_table(summary: dict[str, dict]) -> str:
    """``summary``: metrics/summary.json, the base first. Sizes in MB of 10**6 bytes."""
    base = next(iter(summary))
    cells = [
        [
            variant,
            f"{block['accuracy']:.2f} %",
            f"{block['size_bytes'] / 1e6:.2f} MB",
            f"{block['macs'] / 1e6:.1f} M",
            ratio_cell(block["latency_ratio_to_base"]["opencv"], base),
            ratio_cell(block["latency_ratio_to_base"]["onnxruntime"], base),
        ]
        for variant, block in summary.items()
    ]
    return as_table([HEADS, name_and_figures(HEADS), *cells])


def ratio_cell(ratio: float | None, base: str) -> str:
    return "wrong here" if ratio is None else f"{ratio:.2f} × {base}"


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro' first") from None


def main() -> None:
    args = parse_args()
    for page in args.pages:
        write_text(page, with_tables(read_text(page), args.root))
        print(f"{page}: every table as its file has it")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--root", type=Path, default=Path("."), help="where the marks' paths begin")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""Put the robustness of all models side by side.

Reads   the JSON of ``robustness``
Writes  Markdown tables of it and a picture
Raises  InputError when the JSON is missing or damaged
"""

import argparse
from pathlib import Path

from stages.card.pages.chart import robustness_chart
from stages.card.pages.comparison import markdown_page
from stages.common.core.cli import run
from stages.common.core.files import read_metrics, write_text
from stages.common.reporting.style import save_png


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--robustness", type=Path, required=True, help="JSON of all models")
    parser.add_argument("--table", type=Path, required=True, help="Markdown to write")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    robustness = read_metrics(args.robustness, "'make card'")
    page = markdown_page(robustness)
    write_text(args.table, page)
    save_png(args.picture, robustness_chart(robustness))
    print(f"{args.table}:\n{page}", end="")


if __name__ == "__main__":
    run(main)

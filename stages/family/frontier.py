"""Put the family beside its peers, in accuracy, bytes and milliseconds.

Reads   the JSONs of evaluate (family) and quantize (peers), the benchmark's JSON of all of them
Writes  a JSON of every network, which pick.py reads; the same as a Markdown table, with
        what is worse than a peer and the conditions; a picture of three panels
Params  none
Raises  InputError when a file or a key is missing, when models saw different test images
"""

import argparse
import dataclasses
from pathlib import Path

from stages.common.core.cli import run
from stages.common.core.files import write_json, write_text
from stages.common.reporting.comparison_table import machine_note
from stages.common.reporting.style import save_png
from stages.family.page.chart import frontier_chart
from stages.family.page.comparison import verdict
from stages.family.page.results import Results, Row, read_results
from stages.family.page.table import markdown


def content(results: Results) -> dict:
    return {
        "machine": machine_note(results.environment),
        "images": results.images,
        "family": {row.name: fields(row) for row in results.family},
        "peers": {row.name: fields(row) for row in results.peers},
    }


def fields(row: Row) -> dict:
    return {key: each for key, each in dataclasses.asdict(row).items() if key != "name"}


def main() -> None:
    args = parse_args()
    results = read_results(args.evaluate, args.quantize, args.benchmark, args.models)
    note = (
        f"{machine_note(results.environment)}; squares: accuracies as published, of FP32 where "
        "none is of INT8. Axes are close-ups that do not start at 0; further left and up is better."
    )
    save_png(args.picture, frontier_chart(results.family, results.peers, note))
    write_text(args.table, markdown(results))
    write_json(args.json, content(results))
    print(verdict(results.family, results.peers))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("evaluate", "quantize", "benchmark", "models"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("json", "table", "picture"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

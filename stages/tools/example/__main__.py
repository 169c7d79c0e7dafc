"""Run an example in a copy of the repository, and put what it reached on its page.

Reads   examples/NAME/params.yaml (the keys that differ from params.yaml), the committed code, the
        photos at data.path, the cache of DVC
Writes  build/examples/NAME, the copy, with models, metrics and plots; a log beside it;
        examples/NAME/README.md, between the marks
        <!-- results: begin (make example) --> and <!-- results: end -->
Params  none
Raises  InputError for an example that is not there, photos that are missing, a page without marks,
        a run that fails: the stage has said why on stderr, where it comes through

    python -m stages.tools.example resnet20

The copy is a clone, brought to the present commit each time. A run that was interrupted goes on:
training from its last whole epoch, other stages from DVC's cache.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from stages.common.core.cli import run
from stages.common.core.files import write_text
from stages.tools.example.page import read_text, results, with_results
from stages.tools.example.working_copy import (
    PARAMS,
    bring_photos,
    bring_up_to_date,
    find_example,
    merged,
)
from stages.tools.quick_run import as_minutes, begun, place, run_dvc

COPIES = Path("build/examples")


def elapsed(lines: Iterable[str], stages: list[str], log: TextIO) -> Iterator[str]:
    """A line for each stage when it begins."""
    begin = time.monotonic()
    for done in begun(lines, stages, log):
        yield f"{place(done, stages):40} after {as_minutes(time.monotonic() - begin)}"


def main() -> None:
    args = parse_args()
    example, copy = find_example(args.name), COPIES / args.name
    changes, page = example / PARAMS, example / "README.md"
    with_results(read_text(page), "", page)
    commit = bring_up_to_date(copy)
    params = copy / PARAMS
    write_text(params, merged(params.read_text(), changes.read_text(), changes))
    bring_photos(copy, example)
    log, begin = copy.with_suffix(".log"), time.monotonic()
    run_dvc(["repro"], copy, log, elapsed)
    stages_run = log.read_text().count("Running stage '")
    text = results(copy / "metrics", commit, time.monotonic() - begin, stages_run)
    write_text(page, with_results(read_text(page), text, page))
    print(f"\n{text}\n\n{page} has this too; models, plots and metrics are in {copy}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a folder of examples/ that has a params.yaml")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""Run the pipeline with other params, as an experiment; a line a stage says how long it takes yet.

Reads   dvc.yaml of the folder that it is started in
Writes  what dvc.yaml names, and a log with everything that DVC and the stages print
Raises  InputError when the run fails: the stage has said why on stderr, where it comes through

    python -m stages.tools.quick_run --log build/quick.log -S train.epochs=3
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from dvc.repo import Repo

from stages.common.core.cli import InputError, run

# Seconds of each stage on two cores, for its share of the whole; OTHER for those not named.
SECONDS = {
    "prepare": 20.0,
    "teach": 30.0,
    "train": 25.0,
    "prune": 15.0,
    "npu": 15.0,
    "benchmark": 15.0,
}
OTHER = 3.0
DAMPING = 30.0
STAGE = re.compile(r"(?:Running stage|Stage) '(?P<name>[^']+)'")  # at the start of DVC's lines
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}  # lines of a pipe come when they are printed
BRACKETS = re.compile(r" (\(.*?\)|\[.*?\])")  # the interval, the weights that are not 0
# Of the lines that DVC prints, the stages, and a log to copy them to: the lines to show.
Report = Callable[[Iterable[str], list[str], TextIO], Iterator[str]]
PICTURES = ("accuracy_plot", "latency_comparison", "pareto")


def expected_seconds(stage: str) -> float:
    return SECONDS.get(stage.partition("@")[0], OTHER)


def progress(lines: Iterable[str], stages: list[str], log: TextIO) -> Iterator[str]:
    """Copy ``lines`` to ``log``; give one line for each of the ``stages`` when it begins."""
    begin = time.monotonic()
    for done in begun(lines, stages, log):
        left = seconds_left(stages, done[:-1], elapsed=time.monotonic() - begin)
        yield f"{place(done, stages):40} about {as_minutes(left)} left"


def begun(lines: Iterable[str], stages: list[str], log: TextIO) -> Iterator[list[str]]:
    """Copy ``lines`` to ``log``; give the stages that have begun whenever there is a new one."""
    done: list[str] = []
    for line in lines:
        log.write(line)
        found = STAGE.match(line)
        if found and found["name"] in stages and found["name"] not in done:
            done.append(found["name"])
            yield list(done)


def place(done: list[str], stages: list[str]) -> str:
    """'stage  3 of 21: train'."""
    return f"stage {len(done):2} of {len(stages)}: {done[-1]}"


def seconds_left(stages: list[str], done: list[str], elapsed: float) -> float:
    """For the stages that are not done, corrected by how long the others have taken; the first
    short ones say little, so the correction grows with what is done.
    """
    expected, left = (
        sum(expected_seconds(name) for name in stages if (name in done) is wanted)
        for wanted in (True, False)
    )
    return left * (elapsed + DAMPING) / (expected + DAMPING)


def as_minutes(seconds: float) -> str:
    """'2:05 minutes'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} minutes"


def run_experiment(arguments: list[str], log_path: Path) -> None:
    command = ["exp", "run", "--name", "quick", *arguments]
    run_dvc(command, Path(), log_path, progress)


def run_dvc(arguments: list[str], folder: Path, log_path: Path, report: Report) -> None:
    """Run a command of DVC in the folder; print what ``report`` makes of its output, which goes
    into the log.
    """
    with Repo(folder) as repository:
        stages = [stage.addressing for stage in repository.stage.load_all("dvc.yaml")]
    command = [sys.executable, "-m", "dvc", *arguments]
    pipe = subprocess.PIPE
    with (
        open(log_path, "w") as log,
        subprocess.Popen(command, cwd=folder, stdout=pipe, text=True, env=UNBUFFERED) as process,
    ):
        assert process.stdout is not None
        for line in report(process.stdout, stages, log):
            print(line, flush=True)
    if process.returncode:
        raise InputError(
            f"the run has failed (see above); all that it said is in {log_path.resolve()}"
        )


def closing_screen(page: str, folder: str) -> str:
    """The first table of a page, where the pictures are, and what to do next."""
    table = page.partition("\n\n")[0]
    pictures = "  ".join(f"{folder}/plots/{name}.png" for name in PICTURES)
    return f"""
{aligned(table)}

Times are of one image, then as a multiple of base's; more in {folder}/metrics/summary.md.
A small network on few images: it shows the way, not the result.

Pictures:  {pictures}
All plots: cd {folder} && ../../.venv/bin/dvc plots show
Next:      source .venv/bin/activate && dvc pull --allow-missing && dvc repro --pull
           (the committed models and their results, in seconds); README.md, Everyday commands"""


def aligned(table: str) -> str:
    """A Markdown table in columns, without its row of dashes and without brackets in cells."""
    heads, _, *rows = (line.strip("| ").split("|") for line in table.splitlines())
    cells = [[re.sub(BRACKETS, "", cell.strip()) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])])
        for first, *others in cells
    )


def main() -> None:
    args, arguments = parse_args()
    run_experiment(arguments, Path(args.log))
    print(closing_screen(Path("metrics/summary.md").read_text(), "build/quick"))


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    """Also the arguments for ``dvc exp run``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", required=True)
    return parser.parse_known_args()


if __name__ == "__main__":
    run(main)

"""Run a search: its trials up to the validation images, then its front to the end.

Every trial is an experiment of DVC, run by ``stages/tools/cluster/point.py`` in a clone of its own.
It ends before the test images are read and before anything is timed. The points of the front go on
from there: nothing is trained again.
"""

import csv
import fcntl
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from stages.common.core.cli import InputError
from stages.common.core.files import write_csv, write_text
from stages.common.reporting.style import save_png
from stages.common.studies.cluster.rounds import base_options
from stages.common.studies.cluster.tasks import Outcome
from stages.common.studies.front import (
    COSTS,
    TEST,
    VALIDATION,
    front_chart,
    front_table,
    rows_of,
)
from stages.common.studies.grid import RESULTS_STAGE, Experiment
from stages.common.studies.journal import Journal
from stages.common.studies.origin import UNTIMED, hosts_of, require_one_bench
from stages.common.studies.queue import dvc, head, json_at, revision, text_at
from stages.common.studies.search import BYTES, LATENCY, SECTION, SearchParams, Trial, front_of
from stages.common.studies.table import PREDICTED, Row

TRIAL_STAGES = {LATENCY: "prune", BYTES: "quantize@pruned"}  # of dvc.yaml: the last of a trial
REFUSED = r"exited with 2\b"  # of DVC, on a stage that refused its params; else something broke


@dataclass(frozen=True)
class Runner:
    """Runs experiments of one commit, each in a clone of its own."""

    program: Path  # point.py
    folder: Path  # of logs, clones and journals
    commit: str  # what experiments start from

    def run(self, name: str, *words: str) -> Outcome:
        """Run ``point.py``, which ends when this process does."""
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [
            sys.executable, str(self.program), "--origin", str(Path.cwd()), "--commit", self.commit,
            "--cache", dvc("cache", "dir").strip(), "--scratch", str(self.folder / "clones"),
            "--name", name, *words, "--end-with-parent",
        ]  # fmt: skip
        with open(log, "w") as file:
            process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait()
            finally:  # Ctrl-C
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return Outcome(name, code == 0, log.read_text(errors="replace"))

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def revision(self, name: str) -> str | None:
        """The commit of an experiment, or None; raises ``InputError`` after another checkout."""
        if head() != self.commit:
            raise InputError(
                f"the search is of commit {self.commit[:12]}, and another is checked out now; go "
                "back to it and give the same command again"
            )
        return revision(name)


@contextmanager
def only_search(folder: Path) -> Iterator[None]:
    """Raise ``InputError`` where another process has the folder; it ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "search.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("a search runs here already; wait for it, or end it") from None
        yield


def run_search(search: SearchParams, runner: Runner) -> tuple[Journal, list[Trial]]:
    """Run what is not done yet; the journal, and the front, all of which is measured.

    Raises ``InputError`` for an experiment that broke (a stage that refuses the params of a trial
    only ends that trial), and where no trial has a result.
    """
    journal = Journal(runner.folder / f"{runner.commit[:12]}.journal", search)
    with only_search(runner.folder):
        run_trials(journal, runner)
        front = front_of(journal.trials())
        if not front:
            raise InputError(
                f"none of {journal.failed()} trials has a result; their logs are in "
                f"{runner.folder}; mend {SECTION}.space and give the same command again"
            )
        for trial in front:
            measure(trial.experiment, runner)
    require_one_bench([hosts_of(trial.experiment.name) for trial in front])
    return journal, front


def run_trials(journal: Journal, runner: Runner) -> None:
    """Up to the budget, with a line for each."""
    search = journal.search
    while proposed := journal.next():
        number, experiment = proposed
        figures = figures_of_trial(experiment, search.cost, runner)
        journal.tell(number, figures)
        said = "no result" if figures is None else in_words(*figures, search.cost)
        count = len(journal.tried())
        print(f"trial {count} of {search.trials}, {experiment.name}: {said}", flush=True)


def in_words(accuracy: float, cost: float, kind: str) -> str:
    amount = f"{cost:.2f} ms" if kind == LATENCY else f"{cost:,.0f} bytes"
    return f"{accuracy:g} % of the validation images, {amount}"


def figures_of_trial(
    experiment: Experiment, cost: str, runner: Runner
) -> tuple[float, float] | None:
    """Accuracy and cost; the experiment is run if it is not done. None where a stage refuses it."""
    name = experiment.name + UNTIMED
    if done(experiment, runner) is None:
        words = ("--target", TRIAL_STAGES[cost], *base_options(experiment), *experiment.settings())
        outcome = runner.run(name, *words)
        if not outcome.succeeded:
            print(f"{name}: {why(outcome)} (log: {runner.log(name)})", flush=True)
            if not re.search(REFUSED, outcome.output):
                raise InputError(f"{name} broke; mend it and give the same command again")
            return None
    commit = done(experiment, runner)
    assert commit is not None
    require_same_params(experiment, commit)
    return figures_of(commit, cost)


def why(outcome: Outcome) -> str:
    """The words of the stage, without the command that ran it."""
    return outcome.reason().rpartition("' failed: ")[2]


def done(experiment: Experiment, runner: Runner) -> str | None:
    """The commit of the experiment, whether it is timed already or not."""
    names = (experiment.name, experiment.name + UNTIMED)
    return next(filter(None, map(runner.revision, names)), None)


def require_same_params(experiment: Experiment, commit: str) -> None:
    """Raise ``InputError`` for an experiment of that name with other params."""
    params = YAML(typ="safe").load(text_at(commit, "params.yaml"))
    for key, value in experiment.changes.items():
        section, name = key.split(".")
        if params[section][name] != value:
            raise InputError(
                f"the experiment {experiment.name} has {key} {params[section][name]!r}, this "
                f"search {value!r}; remove it (dvc exp remove) and give the same command again"
            )


def figures_of(commit: str, cost: str) -> tuple[float, float]:
    """Accuracy in percent of the validation images, and the cost.

    INT8 has the accuracy of the runtime in which it is lowest.
    """
    if cost == LATENCY:
        pruning = json_at(commit, "metrics/prune.json")
        return pruning["validation_accuracy"]["fine_tuned"], pruning[PREDICTED]["after"]
    report = json_at(commit, "metrics/quantize/pruned.json")
    runtimes = [each for each in report.values() if isinstance(each, dict)]
    accuracies = [each["int8_accuracy"] for each in runtimes if "int8_accuracy" in each]
    return min(accuracies), report["size_bytes"]


def measure(experiment: Experiment, runner: Runner) -> None:
    """Run the rest of the pipeline on a trial's models, test images and times included."""
    if runner.revision(experiment.name) is not None:
        return
    print(f"{experiment.name} is in the front: it is measured", flush=True)
    words = ("--after", experiment.name + UNTIMED, "--timed", "--target", RESULTS_STAGE)
    outcome = runner.run(experiment.name, *words, *base_options(experiment), *experiment.settings())
    if not outcome.succeeded:
        raise InputError(
            f"{experiment.name} could not be measured: {why(outcome)} (log: "
            f"{runner.log(experiment.name)}); mend it and give the same command again"
        )


def measured_row(experiment: Experiment, cost: str) -> Row:
    """The row of plots/tradeoff.csv that the cost is of."""
    text = text_at(revision(experiment.name), "plots/tradeoff.csv")
    rows = csv.DictReader(io.StringIO(text))
    return next(row for row in rows if row["variant"] == COSTS[cost].variant)


def write_front(
    journal: Journal, front: list[Trial], params: dict, csv_path: Path, table: Path, picture: Path
) -> str:
    """Write the CSV, the Markdown table and the picture; the table's text."""
    cost, last = journal.search.cost, revision(front[-1].experiment.name) or ""
    trials = journal.trials()
    timed = [each.experiment for each in trials if revision(each.experiment.name) is not None]
    measured = {experiment.name: measured_row(experiment, cost) for experiment in timed}
    rows = rows_of(trials, measured, cost)
    images = {
        VALIDATION: params["data"]["validation_images"],
        TEST: json_at(last, "metrics/evaluate/base.json")["images"],
    }
    note = note_of(journal, images, json_at(last, "metrics/benchmark.json")["environment"])
    text = front_table(front, rows, cost, images, note)
    write_csv(csv_path, rows, header=list(rows[0]))
    write_text(table, text)
    save_png(picture, front_chart(rows, cost, note))
    return text


def note_of(journal: Journal, images: dict[str, int], machine: dict) -> str:
    """How the front was found, and where it was timed."""
    search, failed = journal.search, journal.failed()
    without = f", {failed} of them without a result" if failed else ""
    return (
        f"{len(journal.tried())} trials{without}, proposed by Optuna's TPE sampler with seed "
        f"{search.seed}. The {images[VALIDATION]:,} validation images decide, and the best of many "
        f"looks better there than it is; the {images[TEST]:,} test images were read for the front "
        f"alone. Times: {machine['cpu']}, {machine['threads']} thread, OpenCV {machine['opencv']} "
        "in the faster of its engines."
    )

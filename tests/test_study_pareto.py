"""A search on the stub of the pipeline: what runs, what is read, and what a kill leaves."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.common.studies.front import VALIDATION
from tests.pipelines import ROOT
from tests.study_stub import SEARCH, make_repository
from tests.test_study_point import running, wait_for

optuna = pytest.importorskip("optuna", reason="needs optuna: make test-cluster")


def start_search(person, log: Path) -> subprocess.Popen:
    """The command of `make study NAME=pareto`; the stub's stages note in ``log`` what they do."""
    words = [
        sys.executable, str(ROOT / "stages" / "tools" / "study.py"), "--params", "params.yaml",
        "--name", "pareto", "--csv", "build/s.csv", "--table", "build/s.md", "--picture",
        "build/s.png",
    ]  # fmt: skip
    return subprocess.Popen(
        words, cwd=person.path, env={**os.environ, "PYTHONPATH": str(ROOT), "STUB_LOG": str(log)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def search(person, log: Path, code: int = 0) -> str:
    process = start_search(person, log)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == code, output
    return output


def noted(log: Path, event: str, stage: str) -> list[str]:
    """The amounts of prune at which a stage began or ended."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return [words[2] for words in lines if words[:2] == [event, stage]]


def test_a_search_goes_on_after_a_kill_and_only_its_front_is_measured(tmp_path):
    person, log = make_repository(tmp_path, amounts=[0.5], seconds=2), tmp_path / "log"
    process = start_search(person, log)
    wait_for(lambda: log.exists() and len(noted(log, "start", "prune")) == 3, seconds=300)
    assert noted(log, "start", "evaluate") == noted(log, "start", "benchmark") == []
    process.send_signal(signal.SIGKILL)
    early, _ = process.communicate(timeout=60)
    name = "pareto-0.95-1-untimed"
    assert f"{name}: amount is more than 0.9 (log: build/studies/{name}.log)" in early
    assert "trial 2 of 5, pareto-0.95-1: no result" in early
    wait_for(lambda: not running(str(person.path / "build")))

    output = search(person, log)
    assert "trial 2 of 5" not in output
    assert "trial 3 of 5, pareto-0.75-1: 88.38 % of the validation images, 0.50 ms" in output
    rows = list(csv.DictReader((person.path / "build" / "s.csv").open()))
    front = [row for row in rows if row["front"] == "yes"]
    assert len(rows) == SEARCH["trials"] - 1  # one was refused
    assert [row["experiment"] for row in front] == ["pareto-0.75-0", "pareto-0.65-0"]
    assert len(noted(log, "end", "prune")) == len(rows)  # none is trained twice
    assert len(noted(log, "start", "prune")) == SEARCH["trials"] + 1  # and the one that was killed
    assert sorted(noted(log, "end", "benchmark")) == ["0.65", "0.75"]
    assert set(noted(log, "start", "evaluate")) == {"0.65", "0.75"}
    assert len(noted(log, "start", "evaluate")) == 2 * len(front)  # the base, and what is pruned

    shown = person.dvc("exp", "list", "--name-only").split()
    assert sorted(shown) == sorted(row["experiment"] for row in rows)
    person.dvc("exp", "apply", front[0]["experiment"])
    applied = person.json("metrics/prune.json")["validation_accuracy"]["fine_tuned"]
    assert str(applied) == front[0][VALIDATION]
    person.run("git", "checkout", "--quiet", "--force", "main")

    before = log.read_text()
    table = (person.path / "build" / "s.md").read_text()
    assert "5 trials, 1 of them without a result, proposed by Optuna's TPE sampler" in table
    assert table.strip() in search(person, log)
    assert log.read_text() == before

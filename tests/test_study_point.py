"""The command of one point: a clone of its own, an experiment at the origin, models for others."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from tests.pipelines import stages_run
from tests.study_stub import command, experiments, make_repository, point, running, wait_for

# Starts the command in a group of its own, as Ray's worker does, and prints its process's id.
WORKER = """
import subprocess, sys
words = [*sys.argv[1:], "--end-with-parent"]
point = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL)
print(point.pid, flush=True)
point.wait()
"""
TRAIN = ("--name", "p-untimed", "--target", "evaluate", "-S", "prune.amount=0.3")
TIME = ("--name", "p", "--after", "p-untimed", "--timed", "-S", "prune.amount=0.3")


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("study"), amounts=[0.3, 0.6])


def cache(person) -> tuple[str, str]:
    """Its own, as where hosts share a disk."""
    return ("--cache", str(person.path.parent / "cache"))


def hosts(message: str) -> dict[str, str]:
    """Trailer and host of an experiment's message."""
    lines = [line.split(": ", maxsplit=1) for line in message.splitlines() if ": " in line]
    return {key: json.loads(text)["host"] for key, text in lines}


def test_one_host_trains_another_times_and_both_are_recorded(person, tmp_path):
    remote = ("--remote", str(tmp_path / "remote"))
    trained = point(person, *TRAIN, *remote, "--cache", str(tmp_path / "a"), STUB_HOST="trainer")
    assert trained.returncode == 0, trained.stderr
    assert {"prune", "evaluate@pruned"} <= stages_run(trained.stdout)
    assert hosts(experiments(person)["p-untimed"]) == {"Trained-On": "trainer"}
    timed = point(person, *TIME, *remote, "--cache", str(tmp_path / "b"), STUB_HOST="bench")
    assert timed.returncode == 0, timed.stderr
    assert stages_run(timed.stdout) == {"benchmark", "compare"}
    found = experiments(person)
    assert "p" in person.dvc("exp", "list", "--name-only").split()
    assert hosts(found["p"]) == {"Trained-On": "trainer", "Timed-On": "bench"}
    assert "p-untimed" not in found
    assert not list((person.path.parent / "scratch").iterdir())


def test_a_cache_that_hosts_share_needs_no_remote(person):
    words = ("-S", "prune.amount=0.31", *cache(person))
    point(person, "--name", "q-untimed", "--target", "evaluate", *words)
    timed = point(person, "--name", "q", "--after", "q-untimed", "--timed", *words)
    assert timed.returncode == 0, timed.stderr
    assert stages_run(timed.stdout) == {"benchmark", "compare"}


def test_two_experiments_pushed_at_once_both_land(person):
    def train(amount: float) -> None:
        words = ("--name", f"two-{amount}", "--target", "evaluate", "-S", f"prune.amount={amount}")
        point(person, *words, *cache(person))

    threads = [threading.Thread(target=train, args=(amount,)) for amount in (0.41, 0.42)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"two-0.41", "two-0.42"} <= experiments(person).keys()


def test_a_stage_that_fails_is_told_in_one_line_under_its_log(person):
    words = ("--name", "bad", "--target", "evaluate", "-S", "prune.amount=0.66")
    failed = point(person, *words, *cache(person))
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.endswith("failed: amount 0.66 breaks the stub\n")
    assert "Running stage 'prune'" in failed.stdout
    assert "bad" not in experiments(person)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--origin", "/no/such/origin"), "repository '/no/such/origin' does not exist"),
        (("--commit", "0" * 40), "unable to read tree|reference is not a tree"),
        (("--precision", "bfloat16"), "one would train in float32, the study is in bfloat16"),
    ],
)
def test_a_host_that_cannot_start_says_why_in_one_line(person, words, message):
    failed = point(person, *TRAIN, *words)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert re.search(message, failed.stderr), failed.stderr


def test_a_remote_that_cannot_be_written_is_refused_before_the_training(person, tmp_path):
    (tmp_path / "file").write_text("no folder")
    words = ("--name", "r", "--target", "evaluate", "-S", "prune.amount=0.37", *cache(person))
    refused = point(person, *words, "--remote", str(tmp_path / "file" / "remote"))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"({tmp_path}/file/remote) cannot be used: " in refused.stderr
    assert stages_run(refused.stdout) == set()


def test_a_remote_that_goes_away_leaves_no_experiment_and_the_next_try_goes_on(person, tmp_path):
    remote, log = tmp_path / "remote", tmp_path / "log"
    words = ("--name", "s", "--target", "evaluate", "-S", "prune.amount=0.39")
    words += ("--remote", str(remote), "-S", "prune.seconds=2", *cache(person))

    def take_away_while_training() -> None:
        wait_for(lambda: log.exists() and "start prune" in log.read_text())
        shutil.rmtree(remote)
        remote.write_text("no folder")

    taking_away = threading.Thread(target=take_away_while_training)
    taking_away.start()
    failed = point(person, *words, STUB_LOG=str(log))
    taking_away.join()
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "what is done stays in " in failed.stderr
    assert "s" not in experiments(person)
    remote.unlink()
    again = point(person, *words)
    assert again.returncode == 0, again.stderr
    assert "prune" not in stages_run(again.stdout)  # what was trained is kept
    assert "s" in experiments(person)


@pytest.mark.parametrize("whole_worker", [True, False], ids=["its worker", "the point alone"])
def test_a_point_that_was_killed_leaves_nothing_running_and_goes_on(person, tmp_path, whole_worker):
    name = f"killed-{whole_worker}"
    words = ("--name", name, "--target", "evaluate", "-S", "prune.amount=0.38", *cache(person))
    log = tmp_path / "log"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, *command(person, *words)],
        env={**os.environ, "STUB_LOG": str(log), "STUB_HOLD": str(tmp_path)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: log.exists() and "start prune" in log.read_text())
    os.kill(worker.pid if whole_worker else int(worker.stdout.readline()), signal.SIGKILL)
    worker.wait()
    wait_for(lambda: not running(str(person.path.parent / "scratch")), seconds=20)
    again = point(person, *words)
    assert again.returncode == 0, again.stderr
    assert name in experiments(person)

"""The command of one point: a clone of its own, an experiment at the origin, models for others."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stages.tools.cluster import point as program
from tests.pipelines import stages_run
from tests.study_stub import experiments, make_repository, point

TRAIN = ("--name", "p-untimed", "--target", "evaluate", "-S", "prune.amount=0.3")
TIME = ("--name", "p", "--after", "p-untimed", "--timed", "-S", "prune.amount=0.3")


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("study"), amounts=[0.3, 0.6])


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
    assert hosts(found["p"]) == {"Trained-On": "trainer", "Timed-On": "bench"}
    assert "p-untimed" not in found
    assert not list((person.path.parent / "scratch").iterdir())


def test_a_cache_that_hosts_share_needs_no_remote(person):
    cache = ("--cache", str(person.path.parent / "cache"))
    settings = ("-S", "prune.amount=0.31")
    point(person, "--name", "q-untimed", "--target", "evaluate", *settings, *cache)
    timed = point(person, "--name", "q", "--after", "q-untimed", "--timed", *settings, *cache)
    assert timed.returncode == 0, timed.stderr
    assert stages_run(timed.stdout) == {"benchmark", "compare"}


def test_two_experiments_pushed_at_once_both_land(person, tmp_path):
    def train(amount: float) -> None:
        words = ("--name", f"two-{amount}", "--target", "evaluate", "-S", f"prune.amount={amount}")
        point(person, *words, "--remote", str(tmp_path / "remote"))

    threads = [threading.Thread(target=train, args=(amount,)) for amount in (0.41, 0.42)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"two-0.41", "two-0.42"} <= experiments(person).keys()


def test_a_stage_that_fails_is_told_in_one_line_under_its_log(person):
    words = ("--name", "bad", "--target", "evaluate", "-S", "prune.amount=0.66")
    failed = point(person, *words)
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
    words = ("--name", "r", "--target", "evaluate", "-S", "prune.amount=0.37")
    refused = point(person, *words, "--remote", str(tmp_path / "file" / "remote"))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"({tmp_path}/file/remote) cannot be used: " in refused.stderr
    assert stages_run(refused.stdout) == set()


def test_a_remote_that_goes_away_leaves_no_experiment_and_the_next_try_goes_on(person, tmp_path):
    remote, log = tmp_path / "remote", tmp_path / "log"
    words = ("--name", "s", "--target", "evaluate", "-S", "prune.amount=0.39")
    words += ("--remote", str(remote), "-S", "prune.seconds=2")

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


def test_a_point_that_was_killed_goes_on_in_its_folder(person):
    scratch = person.path.parent / "scratch"
    words = ("--name", "k", "--target", "evaluate", "-S", "prune.amount=0.38")
    command = [sys.executable, "-c", CHILD, str(program.__file__)]
    arguments = ["--origin", str(person.path.parent / "origin"), "--scratch", str(scratch)]
    commit = person.run("git", "rev-parse", "HEAD").strip()
    log = person.path.parent / "log"
    parent = subprocess.Popen(
        [*command, *arguments, "--commit", commit, *words, "-S", "prune.seconds=60"],
        env={**os.environ, "STUB_LOG": str(log)},
    )
    wait_for(lambda: log.exists() and "start prune" in log.read_text())
    parent.kill()
    parent.wait()
    wait_for(lambda: not running(str(scratch)))
    again = point(person, *words)
    assert again.returncode == 0, again.stderr
    assert "k" in experiments(person)


# A parent that starts the command in a group of its own, as a worker does.
CHILD = (
    "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:], '--end-with-parent'],"
    " start_new_session=True)"
)


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def running(word: str) -> list[str]:
    """Processes whose command or folder has the word in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(errors="replace")
            if word in words or word in os.readlink(process / "cwd"):
                found.append(words)
        except OSError:
            continue  # it has ended
    return found

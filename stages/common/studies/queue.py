"""Experiments of the current commit, run one after the other in DVC's queue."""

import json
import subprocess
import sys

from stages.common.core.cli import InputError
from stages.common.studies.grid import RESULTS_STAGE, Experiment

NO_WORKER = "0 active, 0 idle"  # in what 'dvc queue status' says
GIT_GAVE_UP = "fatal: Could not read from remote repository."  # hints follow; the cause is before
POLL_SECONDS = 60  # seldom, because experiments are timed


def command(*words: str) -> str:
    """The output of a command; ``InputError`` with its reason when it fails."""
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode:
        raise InputError(f"'{' '.join(words)}' failed: {reason(result.stderr or result.stdout)}")
    return result.stdout


def reason(output: str) -> str:
    """DVC's first error, before its hints; of git over SSH what SSH said; else the last line."""
    lines = [line for line in output.splitlines() if line] or ["no output"]
    if GIT_GAVE_UP in lines[1:]:
        return lines[lines.index(GIT_GAVE_UP) - 1].removeprefix("fatal: ")
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return [*errors, lines[-1]][0]


def dvc(*words: str) -> str:
    return command(sys.executable, "-m", "dvc", *words)


def head() -> str:
    return command("git", "rev-parse", "HEAD").strip()


def reference(name: str = "") -> str:
    """Where DVC keeps an experiment of the current commit; without a name, the folder of all."""
    commit = head()
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def revision(name: str) -> str | None:
    """The commit of an experiment of the current commit, or None."""
    found = command("git", "for-each-ref", "--format=%(objectname)", reference(name))
    return found.strip() or None


def text_at(commit: str | None, path: str) -> str:
    """The content of a file in a commit."""
    return command("git", "show", f"{commit}:{path}")


def json_at(commit: str | None, path: str) -> dict:
    return json.loads(text_at(commit, path))


def run_all(experiments: list[Experiment]) -> None:
    """Queue what is not done yet and run it, one at a time.

    Raises ``InputError`` naming the experiments that have no result at the end.
    """
    missing = [each for each in experiments if revision(each.name) is None]
    print(f"{len(experiments) - len(missing)} of {len(experiments)} experiments are done already")
    if not missing:
        return
    queued = dvc("queue", "status")
    for each in missing:
        if f" {each.name} " in queued:  # left by a run that was stopped
            dvc("queue", "remove", each.name)
        dvc("exp", "run", RESULTS_STAGE, "--queue", "--name", each.name, *each.settings())
    for _ in missing:
        worked_to_the_end = follow_queue()
        if worked_to_the_end or all(revision(each.name) for each in missing):
            break
        print("DVC's queue stopped before its end; starting it again", flush=True)
    failed = [each.name for each in missing if revision(each.name) is None]
    if failed:
        raise InputError(
            f"experiments without a result: {', '.join(failed)}; 'dvc queue logs {failed[0]}' says "
            "why; mend it and give the same command again: what is done is kept"
        )


def follow_queue() -> bool:
    """Run what is queued, showing its output; False when the worker ended before the queue did.

    Celery's worker dies when it reads a task's file that is just being written (seen on a busy
    machine), and DVC's client then waits for ever.
    """
    client = subprocess.Popen([sys.executable, "-m", "dvc", "exp", "run", "--run-all"])
    polls_without_worker = 0
    while client.poll() is None:
        try:
            client.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            has_worker = NO_WORKER not in dvc("queue", "status")
            polls_without_worker = 0 if has_worker else polls_without_worker + 1
            if polls_without_worker == 2:  # once could be between two of them
                client.terminate()
                client.wait()
                return False
    return True

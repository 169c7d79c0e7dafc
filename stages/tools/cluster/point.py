"""Run one point of a study in a clone of its own, on any host, and push the experiment.

Reads   a commit of the shared origin; models from the shared DVC cache or remote
Writes  the experiment at the origin, its models in the shared cache or remote; a folder of the
        point under --scratch, which is removed when the experiment has been pushed
Raises  exits 2 with one line when a command fails; what that command printed stands above it

Needs Python's own library, git, and the Python that runs it must have DVC and the pipeline's
packages. Nothing of the repository is imported: `python - ARGUMENTS < point.py` will do on a host
that has no clone yet. A clone for each point, because DVC locks a repository while it runs in it.
After a failure the folder stays: the same command on the same host resumes training from it.
"""

import argparse
import configparser
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TRAINING_STAGE = "prune"  # its host is recorded as the one that trained
TRAINED, TIMED = "Trained-On", "Timed-On"  # trailers of the experiment's commit
NOT_TRAINED = json.dumps({"host": "the committed model"})  # the point equals the commit's params
TRAINED_HERE = ".git/study-trained-here"  # holds the host, in a clone that it trained in
READY = ".git/study-ready"  # in a clone that is whole
GIT_GAVE_UP = "fatal: Could not read from remote repository."  # hints follow; the cause is before
# A program that ends its process group soon after its parent, the process of its argument, ended.
WATCH = """
import os, signal, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.5)
os.killpg(0, signal.SIGKILL)
"""
REMOTE = "study"  # the name under which the clone knows a remote that is given as a URL


class Failed(Exception):
    """A command that failed, in one line."""


def run(
    *words: str, cwd: Path | None = None, quiet: bool = False, on_line: Callable = lambda _: None
) -> str:
    """Return the output, shown as it comes unless ``quiet``; raises ``Failed`` with its reason."""
    process = subprocess.Popen(
        words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        on_line(line)
        if not quiet:
            print(line, end="", flush=True)
    if process.wait():
        raise Failed(f"'{' '.join(words)}' failed: {reason(lines)}")
    return "".join(lines)


def reason(lines: list[str]) -> str:
    """The first error of DVC, git or a stage, before hints; the last line of other programs."""
    said = [line.strip() for line in lines if line.strip()] or ["no output"]
    if GIT_GAVE_UP in said[1:]:
        said = [said[said.index(GIT_GAVE_UP) - 1]]
    errors = [line for line in said if re.match(r"(ERROR|error|fatal): ", line)]
    return re.sub(r"^\w+: ", "", [*errors, said[-1]][0])


def dvc(folder: Path, *words: str, **options) -> str:
    return run(sys.executable, "-m", "dvc", *words, cwd=folder, **options)


def git(folder: Path, *words: str) -> str:
    return run("git", *words, cwd=folder, quiet=True).strip()


def settings(args: argparse.Namespace) -> list[str]:
    return [word for setting in args.set for word in ("-S", setting)]


def reference(commit: str, name: str) -> str:
    """Where DVC keeps an experiment that was started from the commit."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"


def prepare_clone(folder: Path, args: argparse.Namespace) -> None:
    """A clean checkout of the commit. In a folder that a killed or failed task left, finished
    stages and whole epochs stay.
    """
    if not (folder / READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        run("git", "clone", "--quiet", "--no-checkout", args.origin, str(folder))
        git(folder, "checkout", "--quiet", "--detach", args.commit)
        (folder / READY).touch()
    else:
        mend_clone(folder, args)
    git(folder, "update-ref", "-d", reference(args.commit, args.name))
    if not subprocess.run(["git", "config", "user.email"], cwd=folder, capture_output=True).stdout:
        git(folder, "config", "user.name", "study")
        git(folder, "config", "user.email", "study@localhost")


def mend_clone(folder: Path, args: argparse.Namespace) -> None:
    """Undo what a kill in the middle of git's or DVC's work leaves."""
    shutil.rmtree(folder / ".dvc" / "tmp", ignore_errors=True)  # DVC's locks
    (folder / ".git" / "index.lock").unlink(missing_ok=True)
    git(folder, "reset", "--quiet")  # what 'dvc exp run' had staged
    git(folder, "checkout", "--", "params.yaml")  # every setting is given again
    if deleted := git(folder, "ls-files", "-z", "--deleted"):  # while it stashes changes
        git(folder, "checkout", "--", *deleted.rstrip("\0").split("\0"))
    try:
        dvc(folder, "status", args.target, quiet=True)
    except Failed:  # dvc.lock was being written
        git(folder, "checkout", "--quiet", "--force", args.commit)


def configure_storage(folder: Path, args: argparse.Namespace) -> None:
    """The host's or the shared cache; the shared remote as default, once this host may use it."""
    cache = args.cache or args.scratch / "cache"
    dvc(folder, "cache", "dir", "--local", str(cache.resolve()), quiet=True)
    if args.remote is None:
        return
    name = args.remote
    if re.search(r"[/:]", args.remote):
        name = REMOTE
        dvc(folder, "remote", "add", "--local", "--force", name, args.remote, quiet=True)
    dvc(folder, "config", "--local", "core.remote", name, quiet=True)
    require_remote(folder)


def require_remote(folder: Path) -> None:
    """``Failed`` in the words of the clone's own program where its remote cannot be used."""
    words = (sys.executable, "-m", "stages.tools.cluster.remote")
    tried = subprocess.run(
        words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if tried.returncode:
        raise Failed(reason(tried.stderr.splitlines()))


@contextmanager
def explained_by_remote(folder: Path, args: argparse.Namespace) -> Iterator[None]:
    """Where a command fails and the remote is not there any more, that is the reason to tell."""
    try:
        yield
    except Failed:
        if args.remote is not None:
            try:
                require_remote(folder)
            except Failed as error:
                kept = f"what is done stays in {folder}: the same command on this host goes on"
                raise Failed(f"{error}; {kept}") from None
        raise


def bring_committed_models(folder: Path, args: argparse.Namespace) -> None:
    """From the commit's own remote, a folder of the repository as a rule, where another is used."""
    config = configparser.ConfigParser()
    config.read(folder / ".dvc" / "config")
    committed = config.get("core", "remote", fallback="")
    if committed and args.remote is not None:  # what it lacks is said by exp run
        dvc(folder, "pull", "--allow-missing", "--remote", committed, quiet=True)


def describe_host(folder: Path, args: argparse.Namespace) -> dict:
    """The host, its device and precision, by the clone's own code; refuses another precision."""
    words = (sys.executable, "-m", "stages.tools.cluster.host", "--params", "params.yaml")
    host = json.loads(run(*words, *settings(args), cwd=folder, quiet=True).strip().splitlines()[-1])
    if args.precision and host["precision"] != args.precision:
        raise Failed(
            f"{host['host']} would train in {host['precision']}, the study is in {args.precision}; "
            "set recipe.precision, or leave this host out"
        )
    return host


def take_over(folder: Path, args: argparse.Namespace) -> str | None:
    """Put the results of the experiment ``args.after`` into the clone; the host that trained them.

    None where there is no such experiment. DVC's run cache would not do: it leaves out stages
    with an output that is neither cached nor a metric.
    """
    ref = reference(args.commit, args.after or "")
    if not args.after or not git(folder, "ls-remote", "origin", ref):
        return None
    git(folder, "fetch", "--quiet", "origin", f"+{ref}:{ref}")
    git(folder, "restore", f"--source={ref}", "--worktree", ".")
    return git(folder, "log", "-1", f"--format=%(trailers:key={TRAINED},valueonly)", ref) or None


def record(folder: Path, args: argparse.Namespace, trailers: dict[str, str]) -> None:
    """Write the hosts into the message of the experiment's commit, as git's trailers."""
    ref = reference(args.commit, args.name)
    message = "\n".join([args.name, "", *(f"{key}: {text}" for key, text in trailers.items())])
    tree = git(folder, "rev-parse", f"{ref}^{{tree}}")
    commit = git(folder, "commit-tree", tree, "-p", args.commit, "-m", message)
    git(folder, "update-ref", ref, commit)


def push(folder: Path, args: argparse.Namespace) -> None:
    """Models first: an experiment that is at the origin is whole."""
    if args.remote is not None:
        dvc(folder, "push", "--with-deps", args.target)
    dvc(folder, "exp", "push", "--no-cache", "--force", "origin", args.name)
    if args.after:
        ref = reference(args.commit, args.after)
        if git(folder, "ls-remote", "origin", ref):
            git(folder, "push", "--quiet", "origin", f":{ref}")


def run_experiment(folder: Path, args: argparse.Namespace, host: dict) -> str:
    """Run the stages that are not done; the JSON of the host that trained."""
    trained_elsewhere = take_over(folder, args)
    note = folder / TRAINED_HERE

    def note_training(line: str) -> None:
        if f"Running stage '{TRAINING_STAGE}'" in line:
            note.write_text(json.dumps(host))

    if args.base:  # or DVC would train it anew
        dvc(folder, "pull", *args.base)
    words = ("--pull", "--name", args.name, *settings(args), args.target)
    dvc(folder, "exp", "run", *words, on_line=note_training)
    return note.read_text() if note.exists() else trained_elsewhere or NOT_TRAINED


def run_point(folder: Path, args: argparse.Namespace) -> None:
    prepare_clone(folder, args)
    host = describe_host(folder, args)
    configure_storage(folder, args)
    if args.probe:
        print(json.dumps(host))
        return
    with explained_by_remote(folder, args):
        bring_committed_models(folder, args)
        trailers = {TRAINED: run_experiment(folder, args, host)}
        if args.timed:
            trailers[TIMED] = json.dumps({"host": host["host"]})
        record(folder, args, trailers)
        push(folder, args)


def in_folder_of_its_own(args: argparse.Namespace) -> None:
    """One task at a time works on a point of a host; ``run_point`` in its folder."""
    args.scratch.mkdir(parents=True, exist_ok=True)
    folder = args.scratch / f"{args.commit[:12]}-{args.name}"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if args.end_with_parent:
            end_group_after_this(lock.fileno())
        run_point(folder, args)
        shutil.rmtree(folder)
        Path(lock.name).unlink()


def end_with_parent() -> None:
    """End this process and all that it started soon after the process that started it has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def end_group_after_this(lock: int) -> None:
    """End all that this process started soon after it has ended, however: a Ray worker that exits
    kills what it has started, and no more. Until then the lock, a file descriptor, is held.
    """
    subprocess.Popen(
        [sys.executable, "-c", WATCH, str(os.getpid())], pass_fds=[lock], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> None:
    args = parse_args()
    # The pipeline's commands say 'python': the one that runs this program.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if args.end_with_parent:
        end_with_parent()
    try:
        in_folder_of_its_own(args)
    except (Failed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one point of a study in its own clone.")
    parser.add_argument("--origin", required=True, help="what git clones, from every host")
    parser.add_argument("--commit", required=True, help="all 40 digits")
    parser.add_argument("--name", required=True, help="of the experiment")
    parser.add_argument("--target", default="compare", help="stage of dvc.yaml to run up to")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--base", action="append", default=[], metavar="STAGE",
        help="stage whose outputs must be in the cache or remote, not made here",
    )  # fmt: skip
    parser.add_argument("--after", help="experiment that this one completes; removed at the origin")
    parser.add_argument("--timed", action="store_true", help="record this host as the one of times")
    parser.add_argument("--precision", help="refuse to train in another: bfloat16 or float32")
    parser.add_argument("--cache", type=Path, help="DVC cache on a disk that hosts share")
    parser.add_argument("--remote", help="DVC remote that hosts share: a URL, or its global name")
    default = Path(tempfile.gettempdir()) / f"study-{os.getuid()}"
    parser.add_argument("--scratch", type=Path, default=default, help="a folder for clones")
    parser.add_argument("--probe", action="store_true", help="only say what this host trains with")
    parser.add_argument("--end-with-parent", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()

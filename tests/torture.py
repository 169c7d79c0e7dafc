"""Kill, interrupt and starve the pipeline at random moments; it must end in the same bytes.

    make torture                                  # 6 minutes on two cores beside other work
    python -m tests.torture --kills 5 --interrupts 2 --refusals 1    # 4 minutes
    python -m tests.torture --seed 7 --kills 100  # other moments, and more of them

A repository with tiny params and images that it makes itself (no network) is run with `dvc repro`
three times in a temporary folder, which is kept when something differs:

1. undisturbed: the reference;
2. with SIGKILL of the whole process group, and Ctrl-C, at moments spread over all stages; every
   fifth kill when DVC writes dvc.lock;
3. in a small file system of its own, which is full while some stages write, and then with the
   folder of a stage's output read-only. Linux only, and where `unshare --mount` may mount: for root
   or in a user namespace. Left out elsewhere, in one line.

After each event the same command is given again. It must go on; where DVC has left half of a file
of its own, after the remedy of CONTRIBUTING.md, Troubleshooting, and a line that says so. Ctrl-C,
a full disk and a read-only folder are one line of the stage each and no traceback of ours (a Ctrl-C
while Python is still importing shows Python's own). The end has the same files with the same bytes
as the reference, so no `.part` file and nothing in `.resume`; results that hold times are only
required to be there. A run is ended after --limit seconds (default 600), one that Ctrl-C should
have stopped after 120. Exit status 0, or 1 with what differs.
"""

import argparse
import atexit
import contextlib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dvc.repo import Repo

from stages.common.core.files import digest
from tests.conftest import prepare_repository

STAGE = re.compile(r"(?:Running stage|Stage) '([^']+)'")  # at the start of DVC's lines
# A function of ours in a traceback; where a module is all there is, Python was still importing.
OURS = re.compile(r'^  File ".*/stages/.*", line \d+, in (?!<module>)', re.MULTILINE)
INTERRUPTED = "interrupted: run the same command again to go on"
KILL, KILL_DVC, INTERRUPT = "kill", "kill at dvc.lock", "Ctrl-C"
FULL, READ_ONLY = "full disk", "read-only folder"
WRITING, TO_WRITE = "Updating lock file", 0.25  # DVC's line before it writes dvc.lock; seconds
INSIDE = "TORTURE_NAMESPACE"  # in the environment of the process whose mounts nobody else sees
READY = ("validate_params", "prepare")  # run before the reference
TIMED_STAGES = ("benchmark", "compare")  # their results are times, or are made from times
TIMED_FILES = {"metrics/train_speed.json", "dvc.lock"}
TO_STOP = 120.0  # seconds
DVC = [sys.executable, "-m", "dvc"]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONUNBUFFERED": "1",  # lines of a pipe come when they are printed
}


class TortureFailed(Exception):
    """The pipeline did not do what it must do."""


@dataclass
class Run:
    """One `dvc repro` in a process group of its own, and what it prints."""

    folder: Path
    limit: float
    output: str = ""
    times: dict[str, float] = field(default_factory=dict)  # when each stage began

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*DVC, "repro"],
            cwd=self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        atexit.register(self.signal, signal.SIGKILL)  # Ctrl-C here does not reach it
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def until(self, stage: str | None, limit: float | None = None) -> bool:
        """Whether DVC has come to the stage, or to ``WRITING``; None waits for its end, which
        is False.
        """
        end = time.monotonic() + limit if limit else self.begin + self.limit
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.signal(signal.SIGKILL)
                raise TortureFailed(f"still running after its time\n{self.output}") from None
            if line is None:
                self.process.wait()
                return False
            self.output += line
            if found := STAGE.match(line):
                self.times.setdefault(found[1], time.monotonic())
                if found[1] == stage:
                    return True
            if stage == WRITING and line.startswith(WRITING):
                return True

    def signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


# DVC writes these files in place: ended in that moment, it leaves half of one.
REMEDIES = {
    "Unable to read RWLock-file": ["rm", ".dvc/tmp/rwlock"],
    "'./dvc.lock' is invalid": ["git", "checkout", "--quiet", "dvc.lock"],
    "'./dvc.lock' validation failed": ["git", "checkout", "--quiet", "dvc.lock"],
}


def reach(folder: Path, stage: str | None, limit: float) -> Run:
    """Run until the stage begins, or to a good end for None.

    Raises ``TortureFailed`` when that does not come, nor after a remedy.
    """
    for _ in range(len(REMEDIES) + 1):
        run = Run(folder, limit)
        if run.until(stage) or (stage is None and run.process.returncode == 0):
            return run
        remedy = next((words for said, words in REMEDIES.items() if said in run.output), None)
        if not remedy:
            break
        say(f"DVC refused half of a file of its own: {' '.join(remedy)}")
        subprocess.run(remedy, cwd=folder, check=True)
    code = run.process.returncode
    raise TortureFailed(f"exit status {code} before {stage or 'the end'}\n{run.output}")


@dataclass(frozen=True)
class Event:
    """Something that happens at a share of a stage's time."""

    stage: str
    share: float
    name: str


def schedule(rng: random.Random, stages: list[str], names: list[str]) -> list[Event]:
    """Spread over all stages, in their order; several may hit one stage.

    Of two moments the later is taken: at first Python only imports.
    """
    rounds = len(names) // len(stages) + 1
    hit = [stage for _ in range(rounds) for stage in rng.sample(stages, len(stages))]
    rng.shuffle(names)
    events = [
        Event(stage, max(rng.random(), rng.random()), name)
        for stage, name in zip(hit[: len(names)], names, strict=True)
    ]
    return sorted(events, key=lambda event: (stages.index(event.stage), event.share))


def durations(run: Run) -> dict[str, float]:
    """Seconds from a stage's begin to the next one's, or to the end."""
    begins = [*run.times.values(), time.monotonic()]
    return {name: begins[index + 1] - begins[index] for index, name in enumerate(run.times)}


def stop(run: Run, event: Event, seconds: float) -> str:
    """Kill or interrupt it in the given stage; returns what happened, in words."""
    if event.name == KILL_DVC:
        run.until(WRITING)
        seconds = TO_WRITE
    delay = event.share * seconds
    time.sleep(delay)
    number = signal.SIGINT if event.name == INTERRUPT else signal.SIGKILL
    ended = run.process.poll() is not None
    run.signal(number)
    run.until(None, limit=TO_STOP)
    place = f"{event.name} in {event.stage} after {delay:.1f} s"
    if ended:
        return f"{place}: it had ended by then"
    if number == signal.SIGINT:
        place += f": {interrupted_in_one_line(run)}"
    return place


def interrupted_in_one_line(run: Run) -> str:
    """The line, or what Python or DVC said in its place; raises ``TortureFailed`` otherwise."""
    code, said = run.process.returncode, run.output.count(INTERRUPTED)
    if OURS.search(run.output) or code == 0 or said > 1:
        raise TortureFailed(f"Ctrl-C: exit status {code} and this output:\n{run.output}")
    if said:
        return INTERRUPTED
    return f"outside of a stage's work: {run.output.strip().splitlines()[-1]}"


def refuse(run: Run, event: Event, folder: Path) -> str:
    """Fill the file system, or make the folder read-only, when the stage begins; then undo it."""
    undo = fill(run.folder) if event.name == FULL else make_read_only(folder)
    try:
        run.until(None)
    finally:
        undo()
    place = f"{event.name} in {event.stage}"
    errors = [line for line in run.output.splitlines() if line.startswith("error: ")]
    if OURS.search(run.output) or run.process.returncode == 0 or len(errors) != 1:
        code = run.process.returncode
        raise TortureFailed(f"{place}: exit status {code} and this output:\n{run.output}")
    if left := [name for name in files(run.folder) if name.endswith(".part")]:
        raise TortureFailed(f"{place} left {', '.join(left)}")
    return f"{place}: {errors[0]}"


def fill(folder: Path) -> Callable[[], None]:
    """Leave no byte free; returns what makes room again."""
    ballast = folder / ".dvc" / "tmp" / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for block in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * block):
                    pass
    return ballast.unlink


def make_read_only(folder: Path) -> Callable[[], None]:
    """A read-only mount of the folder over itself, as rights do not stop root; returns its end."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("--bind", str(folder), str(folder))
    mount("-o", "remount,bind,ro", str(folder))
    return lambda: unmount(folder)


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def namespace() -> list[str]:
    """The words that start a program whose mounts nobody else sees; none where it is not allowed.

    The kernel takes the mounts away when the program has ended, however it ends.
    """
    words = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    test = [*words, "mount", "-t", "tmpfs", "-o", "size=1m", "torture", "/mnt"]
    allowed = shutil.which("unshare") and subprocess.run(test, capture_output=True).returncode == 0
    return words if allowed else []


def outputs(folder: Path) -> dict[str, list[str]]:
    """The names of each stage's outputs, relative to the folder."""
    with Repo(str(folder)) as repository:
        stages = repository.stage.load_all(str(folder / "dvc.yaml"))
        return {
            each.addressing.rpartition(":")[2]: [
                os.path.relpath(out.fs_path, folder) for out in each.outs
            ]
            for each in stages
        }


def files(folder: Path) -> list[str]:
    """All that are not git's, Python's or DVC's own."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not re.match(r"\.(dvc|git)/|(.*/)?__pycache__/", name))


def fingerprints(folder: Path, timed: set[str]) -> dict[str, str]:
    """SHA-256 of every file; that it is there, for those with times."""
    return {
        name: "there" if name in timed else digest(folder / name, "sha256")
        for name in files(folder)
    }


def check_end(folder: Path, reference: dict[str, str], timed: set[str]) -> None:
    """Raises ``TortureFailed`` when files are more, fewer or others than in the reference."""
    found = fingerprints(folder, timed)
    names = sorted(reference.keys() | found.keys())
    if changed := [name for name in names if reference.get(name) != found.get(name)]:
        raise TortureFailed(f"not as in the undisturbed run: {', '.join(changed)}")
    status = subprocess.run(
        [*DVC, "status", "dvc.yaml"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    if "up to date" not in status.stdout:
        raise TortureFailed(f"'dvc status' says\n{status.stdout}{status.stderr}")


def torture(args: argparse.Namespace, root: Path) -> str:
    """Returns what was done, in words; raises ``TortureFailed`` at the first thing gone wrong."""
    rng = random.Random(args.seed)
    base = root / "base"
    repository = prepare_repository(base)
    repository.commit("images")
    made = outputs(base)
    undisturbed = copy(base, root / "reference")
    run = reach(undisturbed, None, args.limit)
    seconds = durations(run)
    stages = [stage for stage in seconds if stage not in READY]
    say(f"undisturbed: {len(stages)} stages in {sum(seconds.values()):.0f} s")
    timed = TIMED_FILES.union(*(made[stage] for stage in TIMED_STAGES))
    reference = fingerprints(undisturbed, timed)

    stopped = copy(base, root / "stopped")
    names = [KILL_DVC if index % 5 == 4 else KILL for index in range(args.kills)]
    for event in schedule(rng, stages, names + [INTERRUPT] * args.interrupts):
        say(stop(reach(stopped, event.stage, args.limit), event, seconds[event.stage]))
    reach(stopped, None, args.limit)
    check_end(stopped, reference, timed)
    done = f"{args.kills} kills, {args.interrupts} interrupts"
    if INSIDE not in os.environ:
        say("full disk and read-only folder: left out, as this user may not mount here")
        return done

    refused = root / "refused"
    with small_file_system(refused, size=4 * size_of(undisturbed)):
        copy(base, refused)
        for event in schedule(rng, stages, [FULL, READ_ONLY] * args.refusals):
            written = (refused / made[event.stage][0]).parent
            say(refuse(reach(refused, event.stage, args.limit), event, written))
        reach(refused, None, args.limit)
        check_end(refused, reference, timed)
    return f"{done}, {args.refusals} full disks, {args.refusals} read-only folders"


def copy(base: Path, folder: Path) -> Path:
    return shutil.copytree(base, folder, symlinks=True, dirs_exist_ok=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def small_file_system(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "torture", str(folder))
    try:
        yield
    finally:
        unmount(folder)


def main() -> None:
    args = parse_args()
    if INSIDE not in os.environ and (words := namespace()):
        command = [*words, sys.executable, "-m", "tests.torture", *sys.argv[1:]]
        os.execvpe(words[0], command, {**os.environ, INSIDE: "1"})
    # A job in a shell's background ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(tempfile.mkdtemp(prefix="torture_"))
    try:
        done = torture(args, root)
    except TortureFailed as error:
        sys.exit(f"{error}\nseed {args.seed}; kept: {root}")
    shutil.rmtree(root)
    print(f"{done}: same bytes")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--interrupts", type=int, default=5)
    parser.add_argument("--refusals", type=int, default=3, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of one run")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""The points of a study as tasks of a Ray cluster: training on any host, timing on one.

Every task runs ``stages/tools/cluster/point.py``, whose text is sent along: hosts need the
packages, and no clone. First all points are trained, then they are timed on the host that has the
resource ``bench``: one at a time, with all of its cores, so that Ray starts nothing beside them.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError
from stages.common.core.files import write_text
from stages.common.studies.grid import RESULTS_STAGE, Experiment
from stages.common.studies.origin import UNTIMED, fetch_finished, head, origin
from stages.common.studies.queue import revision

BENCH = "bench"  # Ray resource of the one host that times
BASE = ("teach", "train")  # stages of dvc.yaml; hosts fetch their models
BASE_SECTIONS = ("data", "prepare", "network", "recipe", "teach", "train")  # of params, in BASE
TRAINED_STAGE = "evaluate"  # of dvc.yaml: all that a point needs and is not timed
RETRIES = 3  # of a task whose worker or host died
PROGRESS_SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    """The cluster, what a training takes of it, and what its hosts share."""

    address: str  # 'auto', or that of a running cluster
    cpus: float  # of one training
    gpus: float
    options: tuple[str, ...]  # of point.py, for storage: --cache, --remote, --scratch
    program: str  # the text of point.py
    logs: Path  # of points that fail


@dataclass(frozen=True)
class Outcome:
    """The end of one task."""

    name: str
    succeeded: bool
    output: str
    seconds: float


class Tasks:
    """A connection to a Ray cluster, on which ``point.py`` runs with different arguments."""

    def __init__(self, cluster: Cluster):
        try:
            import ray
        except ImportError:
            raise InputError(
                "CLUSTER needs Ray: python -m pip install -r requirements-cluster.txt"
            ) from None
        self.ray, self.cluster = ray, cluster
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            raise InputError(
                f"no Ray cluster at '{cluster.address}' ({said}); start one with 'ray start "
                "--head', see stages/tools/README.md"
            ) from None

        @ray.remote(max_retries=RETRIES)
        def run_point(program: str, arguments: list[str]) -> tuple[int, str, float]:
            import subprocess  # this function is sent to hosts without this module
            import sys
            import time

            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-", *arguments, "--end-with-parent"],
                input=program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", start_new_session=True,
            )  # fmt: skip
            return done.returncode, done.stdout, time.monotonic() - started

        self._run_point = run_point

    def nodes(self) -> list[dict]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def bench(self) -> dict:
        """The host that times; raises ``InputError`` unless there is exactly one."""
        benches = [node for node in self.nodes() if node["Resources"].get(BENCH, 0) >= 1]
        if len(benches) != 1:
            raise InputError(
                f"{len(benches)} hosts of the cluster have the resource '{BENCH}', and one must: "
                f"""start it with ray start --resources='{{"{BENCH}": 1}}'"""
            )
        return benches[0]

    def trainers(self) -> dict[str, int]:
        """Trainings that each host takes at once, by the host's id; raises where none takes one."""
        slots = {node["NodeID"]: self._slots(node["Resources"]) for node in self.nodes()}
        able = {node: count for node, count in slots.items() if count}
        if not able:
            raise InputError(
                f"no host of the cluster has {self.cluster.cpus:g} cores and {self.cluster.gpus:g} "
                "GPUs, which one training asks for; give CPUS=... and GPUS=..."
            )
        return able

    def _slots(self, resources: dict[str, float]) -> int:
        slots = resources.get("CPU", 0) // self.cluster.cpus
        if self.cluster.gpus:
            slots = min(slots, resources.get("GPU", 0) // self.cluster.gpus)
        return int(slots)

    def start(self, arguments: list[str], **where: Any) -> Any:
        words = [*arguments, *self.cluster.options]
        return self._run_point.options(**where).remote(self.cluster.program, words)

    def outcomes(self, started: dict[Any, str], slots: int, verb: str) -> Iterator[Outcome]:
        """The tasks as they end, with a line of progress for each and every minute."""
        waiting, total, begun = dict(started), len(started), time.monotonic()
        done: list[Outcome] = []
        while waiting:
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=PROGRESS_SECONDS)
            for task in ready:
                done.append(self._outcome(task, waiting.pop(task)))
                yield done[-1]
            running = min(len(waiting), slots)
            failed = sum(not each.succeeded for each in done)
            left = minutes_left(len(done), len(waiting), time.monotonic() - begun)
            print(
                f"{verb}: {len(done) - failed} of {total} points done, {running} running"
                f"{f', {failed} failed' if failed else ''}{left}",
                flush=True,
            )

    def _outcome(self, task: Any, name: str) -> Outcome:
        try:
            code, output, seconds = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[0]
            return Outcome(name, False, f"error: its worker or host died: {said}\n", 0)
        return Outcome(name, code == 0, output, seconds)

    def stop(self, started: dict[Any, str]) -> None:
        """End what still runs, and the connection."""
        for task in started:
            self.ray.cancel(task, force=True)
        self.ray.shutdown()


def minutes_left(done: int, waiting: int, seconds: float) -> str:
    """From the time that points took so far; empty before the first and after the last."""
    if not (done and waiting):
        return ""
    return f", about {max(1, round(seconds / done * waiting / 60))} min left"


def run_on_cluster(experiments: list[Experiment], cluster: Cluster, params: dict) -> None:
    """Train and time what is not done yet; at the end every point is an experiment here.

    Raises ``InputError`` naming the points that failed, with their logs, after the others are done.
    """
    source = origin()
    trained = fetch_finished()
    missing = [each for each in experiments if revision(each.name) is None]
    print(f"{len(experiments) - len(missing)} of {len(experiments)} experiments are done already")
    if not missing:
        return
    tasks = Tasks(cluster)
    started: dict[Any, str] = {}
    try:
        study = Study(tasks, ["--origin", source, "--commit", head()], params, started)
        study.run(missing, trained)
    finally:
        tasks.stop(started)
    fetch_finished()
    report_failures(study.failed, len(missing), cluster.logs)


class Study:
    """The two rounds of a study: train all points, then time them."""

    def __init__(self, tasks: Tasks, common: list[str], params: dict, started: dict[Any, str]):
        self.tasks, self.common, self.params = tasks, common, params
        self.started = started  # shared with who stops them
        self.failed: dict[str, Outcome] = {}

    def run(self, missing: list[Experiment], trained: set[str]) -> None:
        bench, trainers = self.tasks.bench(), self.tasks.trainers()
        self.precision = self.pin_precision(missing, trainers)
        untrained = [
            each
            for each in missing
            if each.name not in trained and not is_timed_in_training(each, self.params)
        ]
        self.train(untrained, slots=sum(trainers.values()))
        self.time([each for each in missing if each.name not in self.failed], bench)

    def pin_precision(self, missing: list[Experiment], trainers: dict[str, int]) -> str | None:
        """The precision of all hosts where params leave it to them ('auto'); else None.

        Raises ``InputError`` when hosts differ: their results would differ with the host.
        """
        if all(precision_of(each, self.params) != "auto" for each in missing):
            return None
        hosts = [json.loads(each.output.strip().splitlines()[-1]) for each in self.probe(trainers)]
        by_precision: dict[str, list[str]] = {}
        for host in hosts:
            by_precision.setdefault(host["precision"], []).append(host["host"])
        if len(by_precision) > 1:
            said = "; ".join(f"{key}: {', '.join(names)}" for key, names in by_precision.items())
            raise InputError(
                f"recipe.precision is auto, which differs over the hosts ({said}); set it to one, "
                "or leave hosts out"
            )
        return next(iter(by_precision))

    def probe(self, trainers: dict[str, int]) -> list[Outcome]:
        """One task on every host that trains; raises ``InputError`` for one that cannot start."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        probes = {}
        for node in trainers:
            words = [*self.common, "--name", f"probe-{node[:8]}", "--probe"]
            on_it = NodeAffinitySchedulingStrategy(node, soft=False)
            task = self.tasks.start(words, scheduling_strategy=on_it, **self.takes())
            self.started[task] = probes[task] = f"host {node[:8]}"
        outcomes = list(self.tasks.outcomes(probes, len(probes), verb="asking hosts"))
        for each in outcomes:
            if not each.succeeded:
                raise InputError(f"{each.name} cannot run points: {reason_of(each)}")
        return outcomes

    def takes(self) -> dict[str, float]:
        return {"num_cpus": self.tasks.cluster.cpus, "num_gpus": self.tasks.cluster.gpus}

    def train(self, experiments: list[Experiment], slots: int) -> None:
        rounds = {}
        for each in experiments:
            words = self.words(each, each.name + UNTIMED, TRAINED_STAGE)
            rounds[self.tasks.start(words, **self.takes())] = each.name
        self.follow(rounds, slots, verb="training")

    def time(self, experiments: list[Experiment], bench: dict) -> None:
        takes = {"num_cpus": bench["Resources"].get("CPU", 0), "num_gpus": 0}
        rounds = {}
        for each in experiments:
            words = self.words(each, each.name, RESULTS_STAGE)
            words += ["--after", each.name + UNTIMED, "--timed"]
            if is_timed_in_training(each, self.params):
                takes["num_gpus"] = self.tasks.cluster.gpus
            rounds[self.tasks.start(words, resources={BENCH: 1}, **takes)] = each.name
        self.follow(rounds, slots=1, verb="timing")

    def words(self, experiment: Experiment, name: str, target: str) -> list[str]:
        precision = ["--precision", self.precision] if self.precision else []
        words = [*self.common, "--name", name, "--target", target, *experiment.settings()]
        words += base_options(experiment)
        # A host that only times need not train in the study's precision.
        return [*words, *(precision if target == TRAINED_STAGE else [])]

    def follow(self, rounds: dict[Any, str], slots: int, verb: str) -> None:
        self.started.update(rounds)
        for outcome in self.tasks.outcomes(rounds, slots, verb):
            if outcome.succeeded:
                continue
            log = self.tasks.cluster.logs / f"{outcome.name}.log"
            write_text(log, outcome.output)
            self.failed[outcome.name] = outcome
            print(f"{outcome.name} failed: {reason_of(outcome)} (log: {log})", flush=True)


def base_options(experiment: Experiment) -> list[str]:
    """Options of ``point.py``: the base must be there, unless the experiment changes it."""
    if any(key.split(".")[0] in BASE_SECTIONS for key in experiment.changes):
        return []
    return [word for stage in BASE for word in ("--base", stage)]


def precision_of(experiment: Experiment, params: dict) -> str:
    return experiment.changes.get("recipe.precision", params["recipe"]["precision"])


def is_timed_in_training(experiment: Experiment, params: dict) -> bool:
    """True where pruning times candidates on its own host: networks other than the chain, to
    milliseconds. Such a point is trained where it is timed.
    """

    def value(section: str, key: str) -> Any:
        return experiment.changes.get(f"{section}.{key}", params[section][key])

    counts_ms = value("prune", "target") == "latency" or value("prune", "budget_ms") > 0
    return counts_ms and value("network", "factory") != "chain"


def reason_of(outcome: Outcome) -> str:
    """The last line of what ``point.py`` printed, without 'error: '."""
    return (outcome.output.strip() or "no output").splitlines()[-1].removeprefix("error: ")


def report_failures(failed: dict[str, Outcome], count: int, logs: Path) -> None:
    if failed:
        raise InputError(
            f"{len(failed)} of {count} points failed ({', '.join(failed)}); their logs are in "
            f"{logs}; mend it and give the same command again: what is done is kept"
        )

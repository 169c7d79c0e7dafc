"""A study on a Ray cluster: all points are trained on any host, then timed on one.

Timing waits for the last training, because what trains on the host that times would slow it down.
"""

import json
from collections.abc import Callable
from typing import Any

from stages.common.core.cli import InputError
from stages.common.core.files import write_text
from stages.common.network.params import CHAIN
from stages.common.studies.cluster.tasks import Cluster, Outcome, Tasks
from stages.common.studies.grid import RESULTS_STAGE, Experiment
from stages.common.studies.origin import UNTIMED, fetch_finished, origin
from stages.common.studies.queue import dvc, head, revision

BASE = ("teach", "train")  # stages of dvc.yaml; hosts fetch their models
BASE_SECTIONS = ("data", "prepare", "network", "recipe", "teach", "train")  # of params, in BASE
TRAINED_STAGE = "evaluate"  # of dvc.yaml: all that a point needs and is not timed


def run_on_cluster(experiments: list[Experiment], cluster: Cluster, params: dict) -> None:
    """Train and time what is not done yet; at the end every point is an experiment here.

    Raises ``InputError`` naming the points that failed, with their logs, after the others are done.
    """
    address = origin()
    trained = fetch_finished()
    missing = [each for each in experiments if revision(each.name) is None]
    print(f"{len(experiments) - len(missing)} of {len(experiments)} experiments are done already")
    if not missing:
        return
    tasks = Tasks(cluster)
    try:
        source = ["--origin", address, "--commit", head()]
        study = Study(tasks, [*source, *shared_storage(tasks)], params)
        study.run(missing, trained)
    finally:
        tasks.stop()
    fetch_finished()
    if study.failed:
        raise InputError(
            f"{len(study.failed)} of {len(missing)} points failed ({', '.join(study.failed)}); "
            f"their logs are in {cluster.logs}; mend it and give the same command again: what is "
            "done is kept"
        )


def shared_storage(tasks: Tasks) -> tuple[str, ...]:
    """The options of point.py for storage; this clone's DVC cache where one machine is all there
    is. Raises ``InputError`` where models could not reach the host that times.
    """
    storage = tasks.cluster.storage
    if "--cache" in storage or "--remote" in storage:
        return storage
    hosts = {node["NodeManagerAddress"] for node in tasks.nodes()}
    if len(hosts) > 1:
        raise InputError(
            f"the {len(hosts)} machines of the cluster must share their models: give CACHE=FOLDER, "
            "a DVC cache on a shared disk, or REMOTE=URL, a DVC remote"
        )
    return (*storage, "--cache", dvc("cache", "dir").strip())


class Study:
    """The two rounds of a study, and the points that failed in them."""

    def __init__(self, tasks: Tasks, common: list[str], params: dict):
        self.tasks, self.params = tasks, params
        self.common = common  # arguments of every task
        self.failed: dict[str, Outcome] = {}

    def run(self, missing: list[Experiment], trained: set[str]) -> None:
        """``trained``: names of experiments that only have to be timed."""
        self.require_hosts(missing)
        self.precision = self.pin_precision(missing)
        anywhere = [each for each in missing if not is_timed_in_training(each, self.params)]
        self.train([each for each in anywhere if each.name not in trained])
        self.time([each for each in missing if each.name not in self.failed])

    def require_hosts(self, missing: list[Experiment]) -> None:
        """Raise ``InputError`` where tasks would wait for a host that is not there."""
        bench, slots = self.tasks.bench(), self.tasks.slots()
        takes = f"{self.tasks.cluster.cpus:g} cores and {self.tasks.cluster.gpus:g} GPUs"
        if not slots:
            raise InputError(
                f"no host of the cluster has {takes}, which one training asks for; give CPUS=... "
                "and GPUS=..."
            )
        on_bench = [each.name for each in missing if is_timed_in_training(each, self.params)]
        if on_bench and bench["NodeID"] not in slots:
            raise InputError(
                f"the host that times lacks {takes}: {', '.join(on_bench)} must be trained there, "
                "because pruning times their network"
            )

    def pin_precision(self, missing: list[Experiment]) -> str | None:
        """The precision of all hosts where params leave it to them ('auto'); else None.

        Raises ``InputError`` when hosts differ: their results would differ with the host.
        """
        if all(precision_of(each, self.params) != "auto" for each in missing):
            return None
        hosts_by_precision: dict[str, list[str]] = {}
        for host in self.probe():
            hosts_by_precision.setdefault(host["precision"], []).append(host["host"])
        if len(hosts_by_precision) > 1:
            said = "; ".join(f"{key}: {', '.join(on)}" for key, on in hosts_by_precision.items())
            raise InputError(
                f"recipe.precision is auto, which differs over the hosts ({said}); set it to one, "
                "or leave hosts out"
            )
        return next(iter(hosts_by_precision))

    def probe(self) -> list[dict]:
        """Device and precision of each host; raises ``InputError`` for one that cannot."""
        names = {
            self.tasks.start_training(
                [*self.common, "--name", f"probe-{node[:8]}", "--probe"], node
            ): f"host {node[:8]}"
            for node in self.tasks.slots()
        }
        outcomes = list(self.tasks.outcomes(names, lambda: len(names), verb="asking hosts"))
        for each in outcomes:
            if not each.succeeded:
                raise InputError(f"{each.name} cannot run points: {each.reason()}")
        return [json.loads(each.output.strip().splitlines()[-1]) for each in outcomes]

    def train(self, experiments: list[Experiment]) -> None:
        names = {}
        for each in experiments:
            arguments = self.arguments(each, each.name + UNTIMED, TRAINED_STAGE)
            names[self.tasks.start_training([*arguments, *self.pinned()])] = each.name
        self.follow(names, lambda: sum(self.tasks.slots().values()), verb="training")

    def time(self, experiments: list[Experiment]) -> None:
        names = {}
        for each in experiments:
            arguments = self.arguments(each, each.name, RESULTS_STAGE)
            arguments += ["--after", each.name + UNTIMED, "--timed"]
            gpus = 0.0
            if is_timed_in_training(each, self.params):
                arguments, gpus = [*arguments, *self.pinned()], self.tasks.cluster.gpus
            names[self.tasks.start_timing(arguments, gpus)] = each.name
        self.follow(names, lambda: 1, verb="timing")

    def arguments(self, experiment: Experiment, name: str, target: str) -> list[str]:
        words = [*self.common, "--name", name, "--target", target]
        return [*words, *base_options(experiment), *experiment.settings()]

    def pinned(self) -> list[str]:
        """The option for tasks that train: a host that only times may have another precision."""
        return ["--precision", self.precision] if self.precision else []

    def follow(self, names: dict[Any, str], places: Callable[[], int], verb: str) -> None:
        for outcome in self.tasks.outcomes(names, places, verb):
            if outcome.succeeded:
                continue
            log = self.tasks.cluster.logs / f"{outcome.name}.log"
            write_text(log, outcome.output)
            self.failed[outcome.name] = outcome
            print(f"{outcome.name} failed: {outcome.reason()} (log: {log})", flush=True)


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
    return counts_ms and value("network", "factory") != CHAIN

"""Tasks of a Ray cluster: which host takes them, how they are followed, how they are stopped.

Every task runs ``stages/tools/cluster/point.py``, whose text is sent along: hosts need the
packages, and no clone.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError, first_line

BENCH = "bench"  # Ray resource of the one host that times
RETRIES = 3  # of a task whose worker or host died
PROGRESS_SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    """The cluster, what a training takes of it, and what its hosts share."""

    address: str  # 'auto', or that of a running cluster
    cpus: float  # of one training
    gpus: float
    storage: tuple[str, ...]  # options of point.py: --cache, --remote, --scratch
    program: str  # the text of point.py
    logs: Path  # of points that fail


@dataclass(frozen=True)
class Outcome:
    """The end of one task."""

    name: str
    succeeded: bool
    output: str

    def reason(self) -> str:
        """The last line of the output, without 'error: '."""
        lines = self.output.strip().splitlines() or ["it printed nothing"]
        return lines[-1].removeprefix("error: ")


class Tasks:
    """A connection to a Ray cluster, on which ``point.py`` runs with different arguments."""

    def __init__(self, cluster: Cluster):
        self.ray, self.cluster = connect(cluster.address), cluster
        self._unfinished: set[Any] = set()

        @self.ray.remote(max_retries=RETRIES)
        def run_point(program: str, arguments: list[str]) -> tuple[int, str]:
            import subprocess  # this function is sent to hosts without this module
            import sys

            done = subprocess.run(
                [sys.executable, "-", *arguments, "--end-with-parent"],
                input=program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", start_new_session=True,
            )  # fmt: skip
            return done.returncode, done.stdout

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

    def slots(self) -> dict[str, int]:
        """Trainings that each host takes at once, by the host's id; only those that take one."""
        slots = {node["NodeID"]: self._slots_of(node["Resources"]) for node in self.nodes()}
        return {node: count for node, count in slots.items() if count}

    def _slots_of(self, resources: dict[str, float]) -> int:
        slots = resources.get("CPU", 0) // self.cluster.cpus
        if self.cluster.gpus:
            slots = min(slots, resources.get("GPU", 0) // self.cluster.gpus)
        return int(slots)

    def start_training(self, arguments: list[str], node: str | None = None) -> Any:
        """A task on any host with cores and GPUs for it, or on the one with the id ``node``."""
        where: dict[str, Any] = {"num_cpus": self.cluster.cpus, "num_gpus": self.cluster.gpus}
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            where["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        return self._start(arguments, **where)

    def start_timing(self, arguments: list[str], gpus: float) -> Any:
        """A task on the host that times, with all of its cores: Ray starts nothing beside it."""
        cores = self.bench()["Resources"].get("CPU", 0)
        return self._start(arguments, num_cpus=cores, num_gpus=gpus, resources={BENCH: 1})

    def _start(self, arguments: list[str], **where: Any) -> Any:
        task = self._run_point.options(**where).remote(self.cluster.program, arguments)
        self._unfinished.add(task)
        return task

    def outcomes(self, names: dict[Any, str], places: Callable[[], int], verb: str) -> Iterator:
        """The ``Outcome`` of each task as it ends; a line of progress for each and every minute.

        ``names``: by task; ``places``: the number of tasks that the hosts take at once.
        """
        waiting, total, begun = dict(names), len(names), time.monotonic()
        done: list[Outcome] = []
        while waiting:
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=PROGRESS_SECONDS)
            for task in ready:
                self._unfinished.discard(task)  # cancelling it could fail a check within Ray
                done.append(self._outcome(task, waiting.pop(task)))
                yield done[-1]
            failed = sum(not each.succeeded for each in done)
            print(
                f"{verb}: {len(done) - failed} of {total} points done, "
                f"{min(len(waiting), places())} running{f', {failed} failed' if failed else ''}"
                f"{minutes_left(len(done), len(waiting), time.monotonic() - begun)}",
                flush=True,
            )

    def _outcome(self, task: Any, name: str) -> Outcome:
        try:
            code, output = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            return Outcome(name, False, f"error: its worker or host died: {first_line(error)}\n")
        return Outcome(name, code == 0, output)

    def stop(self) -> None:
        """End what still runs, and the connection."""
        for task in self._unfinished:
            self.ray.cancel(task, force=True)
        self.ray.shutdown()


def connect(address: str) -> Any:
    """The module ray, connected; raises ``InputError`` where it or the cluster is missing."""
    try:
        import ray
    except ImportError:
        raise InputError(
            "CLUSTER needs Ray: python -m pip install -r requirements-cluster.txt"
        ) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster can be used at '{address}' ({first_line(error)}); start one with 'ray "
            "start --head', see stages/tools/README.md"
        ) from None
    return ray


def minutes_left(done: int, waiting: int, seconds: float) -> str:
    """From the time that points took so far; empty before the first and after the last."""
    if not (done and waiting):
        return ""
    return f", about {max(1, round(seconds / done * waiting / 60))} min left"

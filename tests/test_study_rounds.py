"""The tasks that a study asks of a cluster: where, in which order; on a stand-in for Ray."""

import json
import sys
import types

import pytest

from stages.common.core.cli import InputError
from stages.common.studies import origin, queue
from stages.common.studies.cluster.rounds import Study, is_timed_in_training, shared_storage
from stages.common.studies.cluster.tasks import Cluster, Tasks
from stages.common.studies.grid import experiments_of
from stages.tools.cluster import point

PARAMS = {
    "recipe": {"precision": "auto"},
    "network": {"factory": "chain"},
    "prune": {"target": "macs", "budget_ms": 0},
}
COMMON = ["--origin", "/origin", "--commit", "c" * 40, "--cache", "/c"]


class FakeRay(types.ModuleType):
    """Runs no process: ``answer`` gives the end of a task from its arguments."""

    def __init__(self, nodes: list[dict], answer):
        super().__init__("ray")
        self._nodes, self.answer = nodes, answer
        self.tasks: list[tuple[list[str], dict]] = []
        self.exceptions = types.SimpleNamespace(RayError=RuntimeError)
        self.cancelled: list[int] = []
        self.is_shut_down = False

    def init(self, **_):
        if not self._nodes:
            raise ConnectionError("Could not find any running Ray instance.")

    def nodes(self):
        return self._nodes

    def remote(self, **_):
        def options(**where):
            def submit(program, arguments):
                self.tasks.append((arguments, where))
                return len(self.tasks) - 1

            return types.SimpleNamespace(remote=submit)

        return lambda function: types.SimpleNamespace(options=options)

    def wait(self, tasks, **_):
        return tasks[:1], tasks[1:]

    def get(self, task):
        return self.answer(self.tasks[task][0])

    def cancel(self, task, force):
        self.cancelled.append(task)

    def shutdown(self):
        self.is_shut_down = True


def node(name: str, cpus: int = 2, **resources: float) -> dict:
    address = {"NodeID": name, "NodeManagerAddress": f"address of {name}", "Alive": True}
    return {**address, "Resources": {"CPU": cpus, **resources}}


def works(arguments: list[str]) -> tuple[int, str]:
    host = {"host": arguments[arguments.index("--name") + 1], "precision": "float32"}
    return (0, json.dumps(host) + "\n")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Gives the tasks of a cluster with these hosts, and the stand-in that was asked."""

    def make(nodes, answer=works, gpus: float = 0, storage=()) -> tuple[Tasks, FakeRay]:
        ray = FakeRay(nodes, answer)
        strategies = types.ModuleType("ray.util.scheduling_strategies")
        strategies.NodeAffinitySchedulingStrategy = lambda host, soft: host
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.util", types.ModuleType("ray.util"))
        monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
        cluster = Cluster("auto", 1, gpus, storage, program="", logs=tmp_path / "logs")
        return Tasks(cluster), ray

    return make


def two_points():
    return experiments_of("sweep", [{"prune": {"amount": [0.3, 0.6]}}])


def named(arguments: list[str]) -> str:
    return arguments[arguments.index("--name") + 1]


def test_all_points_are_trained_before_the_first_is_timed_alone_on_its_host(fake):
    tasks, ray = fake([node("a"), node("b", cpus=4, bench=1)])
    study = Study(tasks, COMMON, PARAMS)
    study.run(two_points(), trained=set())
    names = [named(arguments) for arguments, _ in ray.tasks]
    assert names == [
        "probe-a", "probe-b", "sweep-0.3-untimed", "sweep-0.6-untimed", "sweep-0.3", "sweep-0.6",
    ]  # fmt: skip
    training, timing = ray.tasks[2], ray.tasks[4]
    assert training[1] == {"num_cpus": 1, "num_gpus": 0}
    assert training[0][training[0].index("--target") + 1] == "evaluate"
    assert training[0][training[0].index("--precision") + 1] == "float32"
    assert "--timed" not in training[0]
    assert timing[1] == {"num_cpus": 4, "num_gpus": 0, "resources": {"bench": 1}}
    assert timing[0][timing[0].index("--after") + 1] == "sweep-0.3-untimed"
    assert "--timed" in timing[0]
    assert all(arguments[: len(COMMON)] == COMMON for arguments, _ in ray.tasks)


def test_only_tasks_that_still_run_are_cancelled_at_the_end(fake):
    tasks, ray = fake([node("b", bench=1)])
    Study(tasks, COMMON, PARAMS).run(two_points(), trained=set())
    running = tasks.start_training([*COMMON, "--name", "more"])
    tasks.stop()
    assert ray.cancelled == [running]
    assert ray.is_shut_down


def test_what_is_trained_already_is_only_timed(fake):
    tasks, ray = fake([node("b", bench=1)])
    Study(tasks, COMMON, PARAMS).run(two_points(), trained={"sweep-0.3", "sweep-0.6"})
    assert [named(arguments) for arguments, _ in ray.tasks][1:] == ["sweep-0.3", "sweep-0.6"]


def test_a_point_that_fails_is_not_timed_and_leaves_its_log(fake, tmp_path):
    def answer(arguments):
        if named(arguments) == "sweep-0.3-untimed":
            return (2, "Running stage 'prune':\nerror: 'dvc exp run' failed: no memory\n")
        return works(arguments)

    tasks, ray = fake([node("b", bench=1)], answer)
    study = Study(tasks, COMMON, PARAMS)
    study.run(two_points(), trained=set())
    assert list(study.failed) == ["sweep-0.3"]
    assert "no memory" in (tmp_path / "logs" / "sweep-0.3.log").read_text()
    assert named(ray.tasks[-1][0]) == "sweep-0.6"


def test_a_task_whose_host_died_too_often_counts_as_failed(fake):
    def answer(arguments):
        if "--target" in arguments:
            raise RuntimeError("The worker died unexpectedly\nmore")
        return works(arguments)

    tasks, _ = fake([node("b", bench=1)], answer)
    study = Study(tasks, COMMON, PARAMS)
    study.run(two_points(), trained=set())
    reason = study.failed["sweep-0.6"].reason()
    assert reason == "its worker or host died: The worker died unexpectedly"


def test_hosts_that_train_in_different_precisions_are_refused_before_any_training(fake):
    def answer(arguments):
        name = named(arguments)
        precision = "bfloat16" if name == "probe-a" else "float32"
        return (0, json.dumps({"host": name, "precision": precision}))

    tasks, ray = fake([node("a"), node("b", bench=1)], answer)
    with pytest.raises(InputError, match="auto, which differs over the hosts .bfloat16: probe-a"):
        Study(tasks, COMMON, PARAMS).run(two_points(), trained=set())
    assert len(ray.tasks) == 2


def test_a_precision_that_params_name_needs_no_question(fake):
    tasks, ray = fake([node("b", bench=1)])
    params = {**PARAMS, "recipe": {"precision": "float32"}}
    Study(tasks, COMMON, params).run(two_points(), trained=set())
    assert len(ray.tasks) == 4


@pytest.mark.parametrize(
    ("nodes", "gpus", "message"),
    [
        ([node("a")], 0, "0 hosts of the cluster have the resource 'bench'"),
        ([node("a", bench=1), node("b", bench=1)], 0, "2 hosts of the cluster have"),
        ([node("a", bench=1)], 1, "no host of the cluster has 1 cores and 1 GPUs"),
    ],
)
def test_a_cluster_that_cannot_run_the_study_is_refused(fake, nodes, gpus, message):
    tasks, ray = fake(nodes, gpus=gpus)
    with pytest.raises(InputError, match=message):
        Study(tasks, COMMON, PARAMS).run(two_points(), trained=set())
    assert not ray.tasks


def test_no_cluster_is_one_line(fake):
    with pytest.raises(InputError, match="no Ray cluster can be used at 'auto' .*start one with"):
        fake([])


def test_networks_that_pruning_times_are_trained_where_they_are_timed(fake):
    [point, _] = two_points()
    own = {**PARAMS, "network": {"factory": "torchvision:mobilenet_v2"}}
    timed = {**own, "prune": {"target": "latency", "budget_ms": 0}}
    assert not is_timed_in_training(point, own)
    assert is_timed_in_training(point, timed)
    assert not is_timed_in_training(point, {**timed, "network": {"factory": "chain"}})
    tasks, ray = fake([node("a"), node("b", bench=1)])
    Study(tasks, COMMON, timed).run(two_points(), trained=set())
    assert all("resources" in where for arguments, where in ray.tasks[2:])
    tasks, ray = fake([node("a", GPU=1), node("b", bench=1)], gpus=1)
    with pytest.raises(InputError, match="host that times lacks 1 cores and 1 GPUs: sweep-0.3"):
        Study(tasks, COMMON, timed).run(two_points(), trained=set())


def test_the_points_done_running_and_failed_and_the_time_left_are_told(fake, capsys):
    def answer(arguments):
        return (2, "error: no memory\n") if named(arguments) == "sweep-0.6" else works(arguments)

    tasks, _ = fake([node("b", bench=1)], answer)
    Study(tasks, COMMON, PARAMS).run(two_points(), trained=set())
    told = capsys.readouterr().out.splitlines()
    assert "training: 1 of 2 points done, 1 running, about 1 min left" in told
    assert "training: 2 of 2 points done, 0 running" in told
    assert told[-1] == "timing: 1 of 2 points done, 0 running, 1 failed"


def test_several_machines_must_share_their_models(fake):
    tasks, _ = fake([node("a"), node("b", bench=1)])
    with pytest.raises(InputError, match="the 2 machines of the cluster must share their models"):
        shared_storage(tasks)
    tasks, _ = fake([node("a"), node("b", bench=1)], storage=("--remote", "team"))
    assert shared_storage(tasks) == ("--remote", "team")
    tasks, _ = fake([node("b", bench=1)], storage=("--scratch", "/fast"))
    assert shared_storage(tasks)[:3] == ("--scratch", "/fast", "--cache")


def row(name: str, host: str, cpu: str = "EPYC") -> dict[str, str]:
    cells = {"device": "cuda", "machine": "H200", "precision": "bfloat16", "torch": "2"}
    trained = {f"trained_{key}": value for key, value in cells.items()}
    timed = {"timed_host": host, "timed_cpu": cpu, "load_average_at_start": "0.2"}
    return {"experiment": name, "trained_host": "gpu", **trained, **timed}


def test_milliseconds_of_two_machines_are_refused():
    rows = [row("a", "one"), row("b", "one"), row("c", "two")]
    with pytest.raises(InputError, match="of 2 machines do not belong in one table; c ran on two"):
        origin.require_one_bench(rows)
    origin.require_one_bench(rows[:2])
    assert origin.hosts_in_words(rows[:2]) == (
        "Timed on one (EPYC, load average at most 0.2 before a benchmark). Trained: 2 on H200 in "
        "bfloat16."
    )


def test_an_origin_that_cannot_be_reached_is_told_by_its_cause_not_by_gits_hints():
    said = (
        "me@git.example.com: Permission denied (publickey).\n"
        "fatal: Could not read from remote repository.\n\n"
        "Please make sure you have the correct access rights\nand the repository exists.\n"
    )
    assert queue.reason(said) == "me@git.example.com: Permission denied (publickey)."
    assert point.reason(said.splitlines()) == "me@git.example.com: Permission denied (publickey)."

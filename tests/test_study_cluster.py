"""Studies on a Ray cluster of two raylets of this machine, one of which times (`bench`)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.common.core.files import read_rows
from tests.pipelines import ROOT
from tests.study_stub import make_repository
from tests.test_study_point import running, wait_for

ray = pytest.importorskip("ray", reason="needs ray: make test-cluster")
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs ray: make test-cluster")

AMOUNTS = [0.3, 0.6, 0.8]


@pytest.fixture(scope="module")
def cluster_log(tmp_path_factory) -> Path:
    """Where the stages of the stub note their begin and end."""
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def cluster(cluster_log):
    """A head that only schedules, a host that trains and one that times too."""
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "STUB_LOG": str(cluster_log)}
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster.add_node(**small, env_vars={"STUB_HOST": "trainer"})
    cluster.add_node(**small, env_vars={"STUB_HOST": "bench"}, resources={"bench": 1})
    yield cluster
    cluster.shutdown()
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


def start_study(person, cluster=None, **environment: str) -> subprocess.Popen:
    """The command of `make study`, in the person's repository."""
    folder = person.path.parent
    words = [
        sys.executable, str(ROOT / "stages" / "tools" / "study.py"), "--params", "params.yaml",
        "--name", "sweep", "--csv", "build/s.csv", "--table", "build/s.md", "--picture",
        "build/s.png",
    ]  # fmt: skip
    if cluster is not None:
        words += [
            "--cluster", cluster.address, "--hosts", "build/hosts.csv", "--cache",
            str(folder / "cache"), "--scratch", str(folder / "scratch"),
        ]  # fmt: skip
    return subprocess.Popen(
        words, cwd=person.path, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def study(person, cluster=None, code: int = 0, **environment: str) -> str:
    process = start_study(person, cluster, **environment)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def timings(log: Path) -> list[tuple[float, float, str]]:
    """Begin, end and host of every benchmark that the stub noted, in the order of time."""
    lines = [line.split() for line in log.read_text().splitlines()]
    found = [words for words in lines if words[1] == "benchmark"]
    ends = {words[2]: float(words[4]) for words in found if words[0] == "end"}
    begun = [words for words in found if words[0] == "start"]
    return sorted((float(words[4]), ends[words[2]], words[3]) for words in begun)


def test_two_hosts_make_the_table_of_the_serial_study_and_one_times(tmp_path, cluster, cluster_log):
    person = make_repository(tmp_path, AMOUNTS, seconds=1)
    cluster_log.unlink()  # of the base
    output = study(person, cluster)
    assert "0 of 3 experiments are done already" in output
    assert "training: 3 of 3 points done" in output
    assert "timing: 3 of 3 points done" in output
    hosts = read_rows(person.path / "build" / "hosts.csv", remedy="")
    assert {row["timed_host"] for row in hosts} == {"bench"}
    assert {row["trained_precision"] for row in hosts} == {"float32"}
    table, points = ((person.path / "build" / name).read_text() for name in ("s.md", "s.csv"))
    assert "Timed on bench (stub, load average at most" in table
    one, two, three = timings(cluster_log)
    assert one[1] <= two[0]
    assert two[1] <= three[0]
    assert {each[2] for each in (one, two, three)} == {"bench"}
    assert "3 of 3 experiments are done already" in study(person, cluster)
    (tmp_path / "serial").mkdir()
    alone = make_repository(tmp_path / "serial", AMOUNTS, seconds=0)
    study(alone)
    assert (alone.path / "build" / "s.csv").read_text() == points
    assert table.startswith((alone.path / "build" / "s.md").read_text().rstrip("\n"))


def test_a_point_that_fails_is_told_with_its_log_and_the_others_go_on(tmp_path, cluster):
    person = make_repository(tmp_path, [0.3, 0.66])
    output = study(person, cluster, code=2)
    assert "sweep-0.66 failed: " in output
    assert "amount 0.66 breaks the stub (log: build/studies/sweep-0.66.log)" in output
    assert "error: 1 of 2 points failed (sweep-0.66)" in output
    assert "Running stage 'prune'" in (person.path / "build/studies/sweep-0.66.log").read_text()
    assert "1 of 2 experiments are done already" in study(person, cluster, code=2)


def test_the_task_of_a_host_that_died_is_run_again(tmp_path, cluster):
    doomed = cluster.add_node(
        num_cpus=1, object_store_memory=80_000_000, env_vars={"STUB_HOST": "doomed"}
    )
    person = make_repository(tmp_path, AMOUNTS, seconds=8)
    process = start_study(person, cluster)
    wait_for(lambda: len(list((tmp_path / "scratch").glob("*untimed"))) == 3, seconds=90)
    time.sleep(3)
    cluster.remove_node(doomed, allow_graceful=False)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "timing: 3 of 3 points done" in output


def test_ctrl_c_ends_every_task_and_the_next_run_goes_on(tmp_path, cluster):
    person = make_repository(tmp_path, [0.3, 0.6], seconds=6)
    process = start_study(person, cluster)
    wait_for(lambda: running("stub.py\0prune") != [], seconds=90)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.endswith("interrupted: run the same command again to go on\n")
    wait_for(lambda: not running(str(tmp_path / "scratch")))
    assert "timing: 2 of 2 points done" in study(person, cluster)


def test_hosts_whose_precision_differs_are_refused(tmp_path, cluster):
    other = cluster.add_node(
        num_cpus=1, object_store_memory=80_000_000,
        env_vars={"STUB_HOST": "gpu", "STUB_PRECISION": "bfloat16"},
    )  # fmt: skip
    person = make_repository(tmp_path, [0.3, 0.6])
    output = study(person, cluster, code=2)
    cluster.remove_node(other)
    assert "recipe.precision is auto, which differs over the hosts" in output
    assert "bfloat16: gpu" in output


def test_a_commit_that_is_not_at_the_origin_is_refused(tmp_path, cluster):
    person = make_repository(tmp_path, [0.3, 0.6])
    person.run("git", "commit", "--quiet", "--allow-empty", "--message", "later")
    assert "is not at origin, from which every host clones it" in study(person, cluster, code=2)


def test_nothing_is_left_running(tmp_path, cluster):
    """The last of the file: the processes of the studies above have ended."""
    wait_for(lambda: not running("--end-with-parent"))

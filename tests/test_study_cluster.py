"""Studies on a Ray cluster of two raylets of this machine, one of which times (`bench`)."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.common.core.files import read_rows
from tests.study_stub import (
    add_host,
    experiments,
    local_cluster,
    make_repository,
    running,
    start_study,
    wait_for,
)

pytest.importorskip("ray", reason="needs ray: make test-cluster")

AMOUNTS = [0.3, 0.6, 0.8]


@pytest.fixture(scope="module")
def cluster_log(tmp_path_factory) -> Path:
    """Where the stages of the stub note their begin and end."""
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def hold(tmp_path_factory) -> Path:
    """While the file exists, no training of the stub comes to its end."""
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def cluster(cluster_log, hold):
    """A host that trains and one that times too."""
    with local_cluster(STUB_LOG=str(cluster_log), STUB_HOLD=str(hold)) as cluster:
        add_host(cluster, "trainer")
        add_host(cluster, "bench", resources={"bench": 1})
        yield cluster


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a study, which a test that fails does not leave running."""
    started = []

    def start(person, cluster) -> subprocess.Popen:
        started.append(start_study(person, cluster))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def study(person, cluster=None, code: int = 0, **environment: str) -> str:
    process = start_study(person, cluster, **environment)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def events(log: Path, stage: str) -> list[tuple[str, str, str]]:
    """('start' or 'end', amount, host) of what the stub noted, in the order of time."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return [(event, amount, host) for event, name, amount, host in lines if name == stage]


def test_two_hosts_make_the_table_of_the_serial_study_and_one_times(tmp_path, cluster, cluster_log):
    person = make_repository(tmp_path, AMOUNTS, seconds=1)
    cluster_log.write_text("")  # the base was timed too
    output = study(person, cluster)
    assert "0 of 3 experiments are done already" in output
    assert "training: 3 of 3 points done" in output
    assert "timing: 3 of 3 points done" in output
    hosts = read_rows(person.path / "build" / "hosts.csv", remedy="")
    assert {row["timed_host"] for row in hosts} == {"bench"}
    assert {row["trained_host"] for row in hosts} <= {"trainer", "bench"}
    assert {row["trained_precision"] for row in hosts} == {"float32"}
    table, points = ((person.path / "build" / name).read_text() for name in ("s.md", "s.csv"))
    assert "Timed on bench (stub, load average at most" in table
    timed = events(cluster_log, "benchmark")
    assert [event for event, _, _ in timed] == ["start", "end"] * 3  # never two at once
    assert {host for _, _, host in timed} == {"bench"}
    assert experiments(person).keys() == {"sweep-0.3", "sweep-0.6", "sweep-0.8"}
    assert not list((tmp_path / "scratch").iterdir())
    assert "3 of 3 experiments are done already" in study(person, cluster)
    (tmp_path / "serial").mkdir()
    alone = make_repository(tmp_path / "serial", AMOUNTS)
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


def test_the_task_of_a_host_that_died_is_run_again(tmp_path, cluster, cluster_log, start):
    doomed = add_host(cluster, "doomed", STUB_HOLD=str(tmp_path))  # it trains for ever
    person = make_repository(tmp_path, AMOUNTS, seconds=2)  # so that each host gets a point
    cluster_log.write_text("")
    process = start(person, cluster)
    wait_for(lambda: "doomed" in [host for _, _, host in events(cluster_log, "prune")])
    cluster.remove_node(doomed, allow_graceful=False)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "timing: 3 of 3 points done" in output
    ends = [each for each in events(cluster_log, "prune") if each[0] == "end"]
    assert {amount for _, amount, _ in ends} == {"0.3", "0.6", "0.8"}
    assert "doomed" not in {host for _, _, host in ends}
    wait_for(lambda: not running(str(tmp_path / "scratch")), seconds=20)


def test_ctrl_c_ends_every_task_and_the_next_run_goes_on(
    tmp_path, cluster, cluster_log, hold, start
):
    person = make_repository(tmp_path, [0.3, 0.6])
    cluster_log.write_text("")
    hold.touch()
    process = start(person, cluster)
    wait_for(lambda: len(events(cluster_log, "prune")) == 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert output.endswith("interrupted: run the same command again to go on\n")
    wait_for(lambda: not running(str(tmp_path / "scratch")), seconds=20)
    hold.unlink()
    assert "timing: 2 of 2 points done" in study(person, cluster)


def test_hosts_whose_precision_differs_are_refused(tmp_path, cluster):
    other = add_host(cluster, "gpu", STUB_PRECISION="bfloat16")
    person = make_repository(tmp_path, [0.3, 0.6])
    output = study(person, cluster, code=2)
    cluster.remove_node(other)
    assert "recipe.precision is auto, which differs over the hosts" in output
    assert "bfloat16: gpu" in output


def test_a_commit_that_is_not_at_the_origin_is_refused(tmp_path, cluster):
    person = make_repository(tmp_path, [0.3, 0.6])
    person.run("git", "commit", "--quiet", "--allow-empty", "--message", "later")
    assert "is not at origin, from which every host clones it" in study(person, cluster, code=2)


def test_nothing_is_left_running(tmp_path_factory, cluster):
    """The last of the file: the processes of the studies above have ended."""
    wait_for(lambda: not running(str(tmp_path_factory.getbasetemp())))

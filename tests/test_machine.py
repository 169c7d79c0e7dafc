"""The cores that a process may keep busy: its affinity, and the quota of its control groups."""

from pathlib import Path

import pytest

from stages.common.core.cli import InputError
from stages.common.measuring import interleaved_timing, machine


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write /proc/self/cgroup and files under /sys/fs/cgroup, for a process with 8 cores."""

    def write(process: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(process)
        for name, content in files.items():
            path: Path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")

    monkeypatch.setattr(machine, "CGROUP_OF_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(machine, "allowed_cores", lambda: 8)
    monkeypatch.setattr(interleaved_timing, "allowed_cores", lambda: 8)
    return write


def test_without_control_groups_there_is_no_quota(groups):
    assert machine.cpu_quota() is None
    assert machine.available_cores() == 8


def test_version_2_in_a_container(groups):
    """docker run --cpus=1.5 gives the container its own root."""
    groups("0::/\n", {"cpu.max": "150000 100000"})
    assert machine.cpu_quota() == 1.5
    assert machine.available_cores() == 1


def test_version_2_without_a_limit(groups):
    groups("0::/user.slice\n", {"user.slice/cpu.max": "max 100000"})
    assert machine.cpu_quota() is None


def test_the_least_of_nested_groups_counts(groups):
    files = {
        "system.slice/cpu.max": "200000 100000",
        "system.slice/job.service/cpu.max": "400000 100000",
        "system.slice/job.service/step/cpu.max": "max 100000",
        "other.slice/cpu.max": "1000 100000",
    }
    groups("0::/system.slice/job.service/step\n", files)
    assert machine.cpu_quota() == 2
    assert machine.available_cores() == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_version_1(groups, folder):
    files = {
        f"{folder}/docker/abc/cpu.cfs_quota_us": "50000",
        f"{folder}/docker/abc/cpu.cfs_period_us": "100000",
        f"{folder}/cpu.cfs_quota_us": "-1",
        f"{folder}/cpu.cfs_period_us": "100000",
    }
    groups("5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n", files)
    assert machine.cpu_quota() == 0.5
    assert machine.available_cores() == 1


@pytest.mark.parametrize("path", ["/docker/abc", "/../../docker/abc"])
def test_a_path_of_the_host_that_the_container_does_not_see(groups, path):
    files = {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}
    groups(f"2:cpu:{path}\n", files)
    assert machine.cpu_quota() == 3


def test_version_2_beside_version_1(groups):
    groups("1:name=systemd:/\n0::/job\n", {"unified/job/cpu.max": "250000 100000"})
    assert machine.cpu_quota() == 2.5


def test_a_quota_below_the_cores_is_a_warning(groups, capsys):
    groups("0::/\n", {"cpu.max": "100000 100000"})
    interleaved_timing.warn_if_busy(load=0.0, threads=1)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: a CPU quota of 1 on 8 cores")


def test_a_quota_of_all_cores_is_no_warning(groups, capsys):
    groups("0::/\n", {"cpu.max": "800000 100000"})
    interleaved_timing.warn_if_busy(load=0.0, threads=1)
    assert capsys.readouterr().out == ""


def test_more_threads_than_the_quota_allows_are_refused(groups):
    groups("0::/\n", {"cpu.max": "200000 100000"})
    interleaved_timing.require_cores(2, "benchmark.threads")
    with pytest.raises(InputError, match=r"benchmark\.threads is 3; allowed: 1 to 2, the cores"):
        interleaved_timing.require_cores(3, "benchmark.threads")

"""The machine that a latency belongs to: its processor, its cores and its libraries."""

import math
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import onnxruntime

CPUINFO = Path("/proc/cpuinfo")
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
# Processor flags of Linux (x86, then Arm) for 8-bit dot products; without one, INT8 may be slower.
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")


def describe_machine() -> dict:
    """The conditions that a latency depends on, as flat text and numbers."""
    return {
        "cpu": cpu_model(),
        "int8_instructions": int8_instructions(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def available_cores() -> int:
    """Cores that this process may keep busy: those it may run on, and no more than its quota."""
    quota = cpu_quota()
    cores = allowed_cores()
    return cores if quota is None else min(cores, max(1, math.floor(quota)))


def allowed_cores() -> int:
    """Cores that this process may run on; containers are often given fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Cores' worth of time that Linux's control groups allow (``docker run --cpus=1.5``: 1.5).

    The least of this process's group and of all groups around it; None without a limit. When it is
    used up, the kernel pauses the process until the next period, usually 0.1 s long.
    """
    quotas = [quota for folder in cpu_groups() if (quota := quota_of(folder)) is not None]
    return min(quotas, default=None)


def cpu_groups() -> Iterator[Path]:
    """Folders that may limit the CPU: this process's group and those around it, version 1 and 2."""
    try:
        lines = CGROUP_OF_PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", maxsplit=2)
        if controllers == "":  # version 2, alone or beside version 1
            roots = [CGROUPS, CGROUPS / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [CGROUPS / controllers, CGROUPS / "cpu"]
        else:
            continue
        # In a container the path may be one of the host: then only the root is there.
        parts = Path(group).relative_to("/").parts
        for root in roots:
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def quota_of(folder: Path) -> float | None:
    """The group's own limit in cores; None where it has none, or where there is no such group."""
    try:
        if (folder / "cpu.max").is_file():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError):  # no file, or "max"
        return None


def cpu_model() -> str:
    """The processor's name: from Linux (x86, then Arm boards), from macOS, or its architecture."""
    fields = cpuinfo_fields()
    if "model name" in fields or "Model" in fields:
        return fields.get("model name") or fields["Model"]
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def int8_instructions() -> str:
    """Names of the 8-bit dot-product instructions; 'none', or 'unknown' where Linux is not."""
    fields = cpuinfo_fields()
    flags = fields.get("flags", fields.get("Features"))
    if flags is None:
        return "unknown"
    return " ".join(flag for flag in INT8_FLAGS if flag in flags.split()) or "none"


def cpuinfo_fields() -> dict[str, str]:
    """Linux's description of the first core, and of the board; empty on other systems."""
    if not CPUINFO.exists():
        return {}
    fields: dict[str, str] = {}
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields

"""The machine that a latency belongs to: its processor, its libraries and its peak speed."""

import os
import platform
import subprocess
from pathlib import Path

import cv2
import onnxruntime

CPUINFO = Path("/proc/cpuinfo")
# Processor flags of Linux (x86, then Arm) for 8-bit dot products; without one, INT8 may be slower.
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")


def describe_machine() -> dict:
    """What a latency depends on, as flat text and numbers."""
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
    """Cores that this process may use; containers are often given fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


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
    """Names of the 8-bit dot-product instructions; 'none' or 'unknown' where Linux is not."""
    fields = cpuinfo_fields()
    flags = fields.get("flags", fields.get("Features"))
    if flags is None:
        return "unknown"
    return " ".join(flag for flag in INT8_FLAGS if flag in flags.split()) or "none"


def cpuinfo_fields() -> dict[str, str]:
    """Linux's description of the first core, and of the board; empty on other systems."""
    if not CPUINFO.exists():
        return {}
    fields = {}
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields

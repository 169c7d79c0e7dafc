"""The speed of a training step, and of the machine's own matrix product for comparison."""

import ctypes
import dataclasses
import platform
import statistics
import time
from dataclasses import dataclass

import torch

PRODUCT_SIZE = 2048  # 17 GFLOP in float32: large enough for all cores
# From glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let the process keep what it frees, where the C library is glibc; else do nothing.

    glibc gives every freed tensor of more than 32 MB back to the system, and the next step's
    first touch of each of its pages is a page fault: 140,000 of them, a fifth of a step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_TOP_PAD, 2**27)


@dataclass
class Stopwatch:
    """The seconds of a training by what they were spent on, and the machine's rate meanwhile."""

    steps: list[float] = dataclasses.field(default_factory=list)  # one number a training step
    loading: float = 0.0  # making views, picking and converting batches
    validation: float = 0.0
    matmul_gflops: list[float] = dataclasses.field(default_factory=list)  # one number an epoch

    def summary(self, step_flops: int) -> dict:
        """Medians, so that other work that ran for a while does not count."""
        step = statistics.median(self.steps)
        matmul = statistics.median(self.matmul_gflops)
        gflops = step_flops / step / 1e9
        return {
            "seconds": round(sum(self.steps) + self.loading + self.validation, 1),
            "steps": len(self.steps),
            "step_seconds_median": round(step, 4),
            "step_gflops": round(gflops, 1),
            "matmul_gflops": round(matmul, 1),
            "step_share_of_matmul": round(gflops / matmul, 3),
            "loading_share": round(self.loading / (sum(self.steps) + self.loading), 4),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }


def matmul_gflops(device: torch.device) -> float:
    """Billions of operations a second in a large float32 product: the best of three."""
    left, right = torch.rand(2, PRODUCT_SIZE, PRODUCT_SIZE, device=device)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        float(torch.mm(left, right)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * PRODUCT_SIZE**3 / min(seconds) / 1e9

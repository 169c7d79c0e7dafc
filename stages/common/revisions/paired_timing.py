"""Two files of one network timed side by side, in blocks in which both are loaded anew."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.inference.sessions import Session
from stages.common.measuring.interleaved_timing import time_interleaved
from stages.common.revisions.changes import (
    CompareRevisionsParams,
    LatencyChange,
    judge_latency,
)


def compare_latency(
    base: Path,
    head: Path,
    shape: tuple[int, int, int],
    engines: dict[str, str],
    params: CompareRevisionsParams,
) -> dict[str, LatencyChange]:
    """By runtime, for images of this shape (channels, height, width); ``engines``: by runtime."""
    samples_ms = time_blocks(base, head, shape, engines, params)
    return {
        runtime: judge_latency(samples_ms[:, :, index, 0], samples_ms[:, :, index, 1], params)
        for index, runtime in enumerate(engines)
    }


def time_blocks(
    base: Path,
    head: Path,
    shape: tuple[int, int, int],
    engines: dict[str, str],
    params: CompareRevisionsParams,
) -> np.ndarray:
    """(blocks, rounds, runtimes, 2, calls) milliseconds; the axis of two is BASE, HEAD.

    Everything that could tell the two apart but the files is drawn anew in each block: who is
    loaded first, and who is timed first in a round.
    """
    rng = np.random.default_rng(params.seed)
    blob = rng.integers(256, size=(1, *shape)).astype(np.float32)
    contestants = [(runtime, path) for runtime in engines for path in (base, head)]
    samples_ms = np.empty((params.blocks, params.rounds, len(contestants), params.calls))
    for block in tqdm(range(params.blocks), desc=head.stem, unit="block"):
        order = rng.permutation(len(contestants))
        sessions: list[Callable[[], object]] = []
        for runtime, path in (contestants[index] for index in order):
            sessions.append(
                partial(load(runtime, path, engines[runtime], params.threads).logits, blob)
            )
        samples_ms[block][:, order] = time_interleaved(
            sessions,
            rounds=params.rounds,
            calls=params.calls,
            warmup=params.warmup,
            seed=int(rng.integers(2**31)),
            progress=None,
        )
    return samples_ms.reshape(params.blocks, params.rounds, len(engines), 2, params.calls)


def load(runtime: str, path: Path, engine: str, threads: int) -> Session:
    if runtime == "opencv":
        return OpenCVSession(path, engine=engine, threads=threads)
    return OnnxRuntimeSession(path, threads=threads)

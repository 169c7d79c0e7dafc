"""The latency of a network with other widths, measured on this machine.

For networks without a profile of their layers: each candidate is cut, exported and timed in OpenCV
DNN in turn with the base, so that a change of the machine's speed concerns both and cancels in
their ratio. What is pruned by these times depends on the machine that measured them.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from stages.common.core.cli import InputError
from stages.common.inference.runtimes.opencv import (
    NAMED_ENGINES,
    OpenCVSession,
    installed_engines,
)
from stages.common.inference.sessions import predict
from stages.common.measuring.interleaved_timing import (
    load_average,
    time_interleaved,
    warn_if_busy,
)
from stages.common.measuring.machine import describe_machine
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.network.size import size_of
from stages.common.pruning.cut import keep_channels
from stages.common.pruning.groups import channel_groups
from stages.common.pruning.plan.goals import Cost
from stages.common.training.checkpoints import EpochStore, work_key

THREADS = 1  # as in the profiles of devices
ROUNDS, CALLS = 12, 8  # in each round, base and candidate have a turn of so many timed calls
QUANTILE = 0.1  # of the calls' times: hardly disturbed where other programs run, unlike the median
WARMUP = 3  # untimed calls before them
TOLERANCE = 0.01  # of the largest logit: an engine further off PyTorch is wrong, and not timed


class CandidateTimer:
    """Times the base with other widths; each widths once, and after a kill not again.

    Raises ``InputError`` where no engine of OpenCV runs the base rightly.
    """

    def __init__(self, base: ImportedNetwork, keep_whole: Sequence[str], store: EpochStore):
        self.base = base
        self.store = store
        self.groups = channel_groups(base, keep_whole=keep_whole)
        self.machine = describe_machine()
        self.key = work_key(base, torch.device("cpu"), machine=self.machine, whole=[*keep_whole])
        self.candidates: dict[tuple[int, ...], float] = {}  # milliseconds by widths
        warn_if_busy(load_average(), THREADS)
        self.engine, self.base_ms = self.faster_engine()

    def cost(self) -> Cost:
        """FP32 milliseconds of one image."""
        return Cost(self.ms, self.base_ms, unit="ms measured here", measured=True)

    def ms(self, widths: list[int]) -> float:
        if widths == [group.width for group in self.groups]:
            return self.base_ms
        if tuple(widths) not in self.candidates:
            self.candidates[tuple(widths)] = self.measured(widths)
        return self.candidates[tuple(widths)]

    def measured(self, widths: list[int]) -> float:
        plan = {group.name: width for group, width in zip(self.groups, widths, strict=True)}
        candidate = keep_channels(self.base, self.groups, plan)
        name = hashlib.sha256(str(widths).encode()).hexdigest()[:16]
        ratio = float(self.store.array(f"{self.key}-{name}", lambda: self.ratio(candidate)))
        share = size_of(candidate).macs / size_of(self.base).macs
        print(
            f"candidate {len(self.candidates) + 1}: {share:.1%} of the MACs, "
            f"{ratio * self.base_ms:.3f} ms, {ratio:.1%} of the base's time"
        )
        return ratio * self.base_ms

    def ratio(self, candidate: Network) -> np.ndarray:
        """The candidate's time as a share of the base's, a scalar float64."""
        sessions = [self.base_session, session_of(candidate, self.engine)]
        base_ms, candidate_ms = quick_ms(sessions)
        return np.array(candidate_ms / base_ms)

    @cached_property
    def base_session(self) -> OpenCVSession:
        return session_of(self.base, self.engine)

    def faster_engine(self) -> tuple[str, float]:
        """The engine that runs the base in the least time, of those that are right, and its
        milliseconds.
        """
        engines = right_engines(self.base)
        found = self.store.array(
            f"{self.key}-base",
            lambda: np.array(quick_ms([session_of(self.base, engine) for engine in engines])),
        )
        best = int(found.argmin())
        print(f"base: {found[best]:.3f} ms in OpenCV's engine '{engines[best]}'")
        return engines[best], float(found[best])

    def report(self, widths: list[int]) -> dict:
        """Milliseconds before and after, and where and how often was measured."""
        return {
            "before": round(self.base_ms, 4),
            "after": round(self.ms(widths), 4),
            "device": self.machine["cpu"],
            "engine": f"OpenCV {self.machine['opencv']}, {self.engine}",
            "candidates": len(self.candidates),
        }


def quick_ms(sessions: list[OpenCVSession]) -> list[float]:
    """The milliseconds of one image in each of the sessions, timed in turn: a low quantile."""
    image = np.random.default_rng(0).uniform(0, 255, (1, *sessions[0].shape)).astype(np.float32)
    calls: list[Callable[[], object]] = [partial(each.logits, image) for each in sessions]
    times = time_interleaved(calls, ROUNDS, CALLS, WARMUP, seed=0, progress=None)
    return [float(each) for each in np.quantile(times, QUANTILE, axis=(0, 2))]


def right_engines(model: Network) -> list[str]:
    """The engines of the installed OpenCV that agree with PyTorch; a line names each other one."""
    shape = (2, *model.input_shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(pixels).float()).numpy()
    engines = []
    for engine in installed_engines(NAMED_ENGINES):
        try:
            found = np.concatenate(
                [predict(session_of(model, engine), pixels[[n]], 1) for n in range(len(pixels))]
            )
        except InputError as error:
            print(f"not timed: {error}")
            continue
        difference = float(np.abs(found - expected).max() / np.abs(expected).max())
        if difference <= TOLERANCE:
            engines.append(engine)
        else:
            print(f"not timed: OpenCV's engine '{engine}' is wrong here by {difference:.1%}")
    if not engines:
        raise InputError(
            "prune.target latency and prune.budget_ms need a right engine of OpenCV to measure "
            "candidates in; none is: set prune.target to macs or params, and prune.budget_ms to 0"
        )
    return engines


def session_of(model: Network, engine: str) -> OpenCVSession:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.onnx"
        write_onnx(model, path)
        return OpenCVSession(path, engine, THREADS)


def write_onnx(model: Network, path: Path) -> None:
    """Of a fixed batch of one, by the exporter through TorchScript: it takes a twentieth of the
    time of that which writes the deployed files, and OpenCV runs both in the same time.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, *model.input_shape),),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=["logits"],
            opset_version=18,
        )

"""Checkpoints of unfinished work, which resumes after its last whole epoch with the same bits."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stages.common.core.files import write_bytes
from stages.common.training.throughput import Stopwatch


@dataclass
class Progress:
    """The state of a training: rows of its curve, floating-point operations and times."""

    history: list[dict] = dataclasses.field(default_factory=list)
    flops: int = 0
    step_flops: int = 0
    times: Stopwatch = dataclasses.field(default_factory=Stopwatch)


class EpochStore:
    """Epoch checkpoints and computed arrays of unfinished work, a file for each key, outside DVC's
    outputs.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.used: set[Path] = set()

    def load(self, key: str, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Progress:
        """Restore model and optimizers in place; returns empty progress where nothing is stored."""
        path = self.path(key)
        if not path.exists():
            return Progress()
        content = torch.load(path, weights_only=True)
        model.load_state_dict(content["model"])
        for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        progress = content["progress"]
        return Progress(**{**progress, "times": Stopwatch(**progress["times"])})

    def save(
        self,
        key: str,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        progress: Progress,
    ) -> None:
        buffer = io.BytesIO()
        content = {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "progress": dataclasses.asdict(progress),
        }
        torch.save(content, buffer)
        write_bytes(self.path(key), buffer.getvalue())

    def array(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array stored under this key, else the one that ``make`` returns, which is stored."""
        path = self.path(key, ".npy")
        if not path.exists():
            buffer = io.BytesIO()
            np.save(buffer, make())
            write_bytes(path, buffer.getvalue())
        return np.load(path)

    def clear(self) -> None:
        """Remove what this run stored; call it once the results are written."""
        for path in self.used:
            path.unlink(missing_ok=True)

    def path(self, key: str, ending: str = ".pt") -> Path:
        """The file of this key, which ``clear`` then removes."""
        path = self.directory / f"{key}{ending}"
        self.used.add(path)
        return path


def work_key(model: nn.Module, device: torch.device, **facts: object) -> str:
    """A digest of all that decides the result's bits: start, library, device and ``facts``."""
    everything = {
        **facts,
        "start": model_digest(model),
        "torch": torch.__version__,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def model_digest(model: nn.Module) -> str:
    """SHA-256 of a model's weights, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

"""Batches in a runtime that takes one image a call."""

from collections.abc import Callable

import numpy as np


def one_by_one(run: Callable[[np.ndarray], np.ndarray], blob: np.ndarray) -> np.ndarray:
    """Logits (N, classes) of a blob (N, 3, H, W), where ``run`` takes (1, 3, H, W)."""
    if len(blob) == 1:
        return run(blob)
    return np.concatenate([run(blob[index : index + 1]) for index in range(len(blob))])

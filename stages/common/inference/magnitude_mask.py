"""Unstructured pruning by magnitude: the smallest weights of all layers together are removed."""

import numpy as np


def smallest(magnitudes: list[np.ndarray], surplus: int) -> list[np.ndarray]:
    """Masks of the ``surplus`` smallest non-zero weights and of every 0: bool, of the same shapes.

    Ties are broken by position.
    """
    size = np.concatenate([each.ravel() for each in magnitudes])
    zeros = int(np.count_nonzero(size == 0))
    count = min(max(surplus, 0) + zeros, size.size)
    chosen = np.zeros(size.size, bool)
    chosen[np.argsort(size, kind="stable")[:count]] = True
    ends = np.cumsum([each.size for each in magnitudes])[:-1]
    parts = np.split(chosen, ends)
    return [part.reshape(each.shape) for part, each in zip(parts, magnitudes, strict=True)]

"""Which weights go when only so many are to be left: the smallest of all layers together."""

import numpy as np


def smallest(magnitudes: list[np.ndarray], surplus: int) -> list[np.ndarray]:
    """Where the ``surplus`` smallest weights that are not 0 are, and every 0: bool, shaped alike.

    Equals go in the order in which they stand.
    """
    size = np.concatenate([each.ravel() for each in magnitudes])
    zeros = int(np.count_nonzero(size == 0))
    count = min(max(surplus, 0) + zeros, size.size)
    chosen = np.zeros(size.size, bool)
    chosen[np.argsort(size, kind="stable")[:count]] = True
    ends = np.cumsum([each.size for each in magnitudes])[:-1]
    parts = np.split(chosen, ends)
    return [part.reshape(each.shape) for part, each in zip(parts, magnitudes, strict=True)]

"""The batches of CIFAR-10's Python version, read without running what a pickle asks for.

A pickle names functions that are to be called; ``pickle.load`` calls whatever it names. Here the
few names that a NumPy array needs stand for classes of this file that only keep their arguments,
and any other name is refused.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.cli import InputError

PIXELS = 3 * 32 * 32
BROKEN = (  # raised by `pickle` for a file that is cut or is no pickle
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip


class PickledArray:
    """The pickled state of an array: (version, shape, dtype, Fortran order, bytes)."""

    state: tuple = ()

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class PickledDtype(PickledArray):
    """The name of a pickled dtype, such as 'u1'."""

    def __init__(self, *arguments: Any):
        self.name = arguments[0] if arguments else None


def text_as_bytes(text: str, encoding: str) -> bytes:
    """Bytes, which Python 3 writes as a text in pickles of protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode(encoding)


ALLOWED: dict[tuple[str, str], Callable] = {
    ("numpy.core.multiarray", "_reconstruct"): PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): PickledArray,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledDtype,
    ("_codecs", "encode"): text_as_bytes,
}


class BatchUnpickler(pickle.Unpickler):
    """Knows dictionaries, lists, numbers, texts and what ``ALLOWED`` names."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which is not run") from None


def read_batch(path: Path) -> np.ndarray:
    """(N, 3073) uint8: a label and the red, green and blue plane of every image.

    Raises ``InputError`` with a reason for what is no batch of CIFAR-10.
    """
    try:
        with open(path, "rb") as file:
            batch = BatchUnpickler(file, encoding="bytes").load()
    except BROKEN as error:
        raise InputError(
            f"{path.name} is no pickled batch: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(batch, dict):
        raise InputError(f"{path.name} is no pickled batch: it holds no dictionary")
    entries = {key.encode() if isinstance(key, str) else key: batch[key] for key in batch}
    planes, labels = planes_of(entries.get(b"data")), entries.get(b"labels")
    if planes is None:
        raise InputError(f"{path.name} has no 'data' of N x {PIXELS} uint8; CIFAR-10 has")
    if not isinstance(labels, list) or not all(type(x) is int and 0 <= x < 10 for x in labels):
        raise InputError(f"{path.name} has no list 'labels' from 0 to 9; CIFAR-10 has")
    if len(labels) != len(planes):
        raise InputError(f"{path.name} has {len(labels)} labels for {len(planes)} images")
    return np.hstack([np.array(labels, dtype=np.uint8)[:, None], planes])


def planes_of(array: Any) -> np.ndarray | None:
    """(N, 3072) uint8 in C order; None for anything else."""
    if not isinstance(array, PickledArray) or len(array.state) != 5:
        return None
    _, shape, dtype, is_fortran, content = array.state
    is_uint8 = isinstance(dtype, PickledDtype) and dtype.name in (b"u1", "u1")
    if not is_uint8 or is_fortran or not isinstance(content, bytes) or len(content) % PIXELS:
        return None
    planes = np.frombuffer(content, dtype=np.uint8).reshape(-1, PIXELS)
    return planes if shape == planes.shape else None

"""TFLite files in TensorFlow Lite Micro's own interpreter, as its Python package compiles it.

The package (tflite-micro) has the reference kernels and runs on this machine's processor: integers
are those of a microcontroller with the same kernels, times are not.
"""

import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.cli import InputError
from stages.common.inference.runtimes.litert import to_integers, to_reals
from stages.common.inference.sessions import blank_image, require_file
from stages.common.inference.tflite.file import load_tflite, read_metadata
from stages.common.mcu.structure import structure_of

PACKAGE = "tflite_micro"
MOST_BYTES = 2**26  # of an arena: far more than a microcontroller has


def require_tflite_micro() -> None:
    """Raise ``InputError`` where the package is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(
            "tflite-micro is missing, which runs TFLite files as a microcontroller does; run: pip "
            "install -r requirements-mcu.txt, or make mcu (Linux on x86-64 alone has its wheels)"
        )


class TFLiteMicroSession:
    """``arena_bytes``: of the tensor arena.

    Raises ``InputError`` when the file is missing, or when the interpreter refuses it or needs a
    larger arena.
    """

    def __init__(self, path: str | Path, arena_bytes: int = MOST_BYTES):
        require_file(path)
        try:
            self._interpreter = opened(Path(path).read_bytes(), arena_bytes)
        except RuntimeError as error:
            raise InputError(
                f"{path}: TensorFlow Lite Micro refuses this model in an arena of {arena_bytes:,} "
                f"bytes ({error}); what it lacks is said above"
            ) from None
        self._input = tensor_of(self._interpreter.get_input_details(0))
        self._output = tensor_of(self._interpreter.get_output_details(0))
        self._mean = np.float32(read_metadata(path).get("input", {}).get("subtract", 0))
        height, width, channels = (int(side) for side in self._input["shape"][1:])
        self.shape = channels, height, width
        self.logits(blank_image(self.shape))

    def logits(self, blob: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32 -> (N, classes) float32, one image after the other."""
        pixels = blob.transpose(0, 2, 3, 1)  # NHWC
        integers = to_integers(pixels - self._mean, self._input)
        return to_reals(np.concatenate([self._run(image) for image in integers]), self._output)

    def _run(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) int8 -> (1, classes) int8."""
        self._interpreter.set_input(image[None], 0)
        self._interpreter.invoke()
        return self._interpreter.get_output(0).reshape(1, -1)


def opened(model: bytes, arena_bytes: int) -> Any:
    """The package's interpreter. Raises ``RuntimeError`` when it refuses the model or the arena."""
    from tflite_micro import runtime

    with redirect_stdout(io.StringIO()):  # it prints a line for every interpreter
        return runtime.Interpreter.from_bytes(model, arena_size=arena_bytes)


def tensor_of(details: dict) -> dict:
    """As LiteRT describes it: (scale, zero point) under "quantization"."""
    found = details["quantization_parameters"]
    scale, zero_point = found["scales"][0], found["zero_points"][0]
    return {**details, "quantization": (float(scale), int(zero_point))}


def smallest_arena(path: Path) -> int:
    """The fewest bytes in which the interpreter allocates its tensors, by bisection.

    It begins at the estimate and tries nothing below the activations alone: in a much smaller arena
    the interpreter would crash, not fail. What fails says so on the console of C, silenced here.
    """
    model, structure = path.read_bytes(), structure_of(load_tflite(path))

    def is_enough(arena_bytes: int) -> bool:
        try:
            opened(model, arena_bytes)
        except RuntimeError:
            return False
        return True

    with silenced(2):
        return smallest(is_enough, structure.estimated_arena(), structure.activation_bytes())


def smallest(is_enough: Callable[[int], bool], estimate: int, floor: int) -> int:
    """The smallest number above ``floor`` that is enough, sought from the estimate on."""
    step, high = 1, estimate
    while not is_enough(high):
        floor, high, step = high, high + step, 2 * step
    step = 1
    while high - step > floor and is_enough(high - step):
        high, step = high - step, 2 * step
    low = max(high - step, floor)  # not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


@contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Within, C's output to that file descriptor is dropped."""
    kept = os.dup(descriptor)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)

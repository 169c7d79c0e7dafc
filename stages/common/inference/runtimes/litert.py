"""TFLite files in LiteRT on the CPU."""

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from stages.common.core.cli import InputError
from stages.common.inference.sessions import blank_image, one_line, require_file
from stages.common.inference.tflite.file import read_metadata

KERNELS = {
    "xnnpack": OpResolverType.AUTO,  # what LiteRT chooses on a phone or a PC
    # Integers only, as on a microcontroller: a scale is a 32-bit fixed-point number and a shift.
    "fixed_point": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


class LiteRTSession:
    """``kernels`` is one of KERNELS. Raises ``InputError`` when the file is missing or refused."""

    def __init__(self, path: str | Path, threads: int, kernels: str):
        require_file(path)
        try:
            self._interpreter = Interpreter(
                str(path),
                num_threads=threads,
                experimental_op_resolver_type=KERNELS[kernels],
            )
            self._interpreter.allocate_tensors()
            self._input = self._interpreter.get_input_details()[0]
            self._output = self._interpreter.get_output_details()[0]
            self._mean = np.float32(read_metadata(path).get("input", {}).get("subtract", 0))
            height, width, channels = (int(side) for side in self._input["shape"][1:])
            self.shape = channels, height, width
            self.logits(blank_image(self.shape))
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{path}: LiteRT refuses this model ({one_line(str(error))}); delete the file and "
                "run 'dvc repro'"
            ) from None

    def logits(self, blob: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32 -> (N, classes) float32, the file's integers times their scale."""
        found = self.run(self.prepared(blob))
        return to_reals(found.reshape(len(blob), -1), self._output)

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest logit that the file can put out."""
        if self._output["dtype"] == np.float32:
            return -np.inf, np.inf
        integers = np.iinfo(self._output["dtype"])
        low, high = to_reals(np.array([integers.min, integers.max]), self._output)
        return float(low), float(high)

    def prepared(self, blob: np.ndarray) -> np.ndarray:
        """The blob as the file takes it: (N, H, W, 3), integers where it is INT8."""
        pixels = blob.transpose(0, 2, 3, 1)
        return to_integers(pixels - self._mean, self._input)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        """The file's output, integers where it is INT8, of a prepared blob."""
        index = self._input["index"]
        if len(prepared) != self._interpreter.get_input_details()[0]["shape"][0]:
            self._interpreter.resize_tensor_input(index, prepared.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(index, prepared)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])


def to_integers(values: np.ndarray, tensor: dict) -> np.ndarray:
    """Quantize as the tensor says; FP32 tensors take the values as they are."""
    if tensor["dtype"] == np.float32:
        return np.ascontiguousarray(values)
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    integers = np.rint(values / np.float32(scale)) + zero_point
    return integers.clip(limits.min, limits.max).astype(tensor["dtype"])


def to_reals(integers: np.ndarray, tensor: dict) -> np.ndarray:
    if tensor["dtype"] == np.float32:
        return integers
    scale, zero_point = tensor["quantization"]
    return (integers.astype(np.float32) - zero_point) * np.float32(scale)

"""One way to turn images into predictions for each runtime: OpenCV DNN and ONNX Runtime.

A blob is what both take: RGB pixels (N, 3, 32, 32) float32 in 0-255, which is exactly what
``cv2.dnn.blobFromImages(images, scalefactor=1, swapRB=True)`` makes of 32x32 BGR images. N may
change from call to call. The model itself holds the normalization.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import IMAGE_SHAPE, Images

ENGINE_CODES = {
    "classic": cv2.dnn.ENGINE_CLASSIC,
    "new": cv2.dnn.ENGINE_NEW,
    "auto": cv2.dnn.ENGINE_AUTO,  # the new engine, and silently the classic one if that fails
}
ENGINES = tuple(ENGINE_CODES)
ONNX_RUNTIME_ERRORS = (  # they share no base class but Exception
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
BATCH_SIZE = 250  # where a stage compares runtimes: it bounds memory and shapes no result
PROBE = np.zeros((1, *IMAGE_SHAPE), np.float32)  # a model that loads may still fail to run


class Session(Protocol):
    """A loaded model."""

    def logits(self, blob: np.ndarray) -> np.ndarray:
        """(N, 3, 32, 32) float32 -> (N, classes) float32."""


class OpenCVSession:
    """A model in OpenCV DNN on the CPU.

    ``threads`` holds for the whole process (``cv2.setNumThreads``): the last session made sets
    it for all. Raises ``InputError`` when the file is missing or the engine refuses the model.
    """

    def __init__(self, path: str | Path, engine: str, threads: int):
        require_file(path)
        cv2.setNumThreads(threads)
        try:
            with silent_opencv():
                self._net = cv2.dnn.readNetFromONNX(str(path), ENGINE_CODES[engine])
                self.logits(PROBE)
        except cv2.error as error:
            # The new engine answers an operator it does not know with an empty network.
            reason = "an operator it does not know" if error.err == "!empty()" else error.err
            raise InputError(
                f"{path}: the engine '{engine}' of OpenCV {cv2.__version__} refuses this model "
                f"({one_line(reason)}); choose another engine in params.yaml (evaluate.engine, "
                "benchmark.engines_*) or, if the file is damaged, delete it and run 'dvc repro'"
            ) from None

    def logits(self, blob: np.ndarray) -> np.ndarray:
        self._net.setInput(blob)
        return self._net.forward()


class OnnxRuntimeSession:
    """A model in ONNX Runtime on the CPU, one operator at a time.

    Raises ``InputError`` when the file is missing or ONNX Runtime refuses the model.
    """

    def __init__(self, path: str | Path, threads: int):
        require_file(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # fatal only: what is wrong is in the exception
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            self._input = self._session.get_inputs()[0].name
            self.logits(PROBE)
        except ONNX_RUNTIME_ERRORS as error:
            raise InputError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} refuses this model "
                f"({one_line(str(error))}); delete the file and run 'dvc repro'"
            ) from None

    def logits(self, blob: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: blob})[0]


def predict(session: Session, images: Images | np.ndarray, batch_size: int) -> np.ndarray:
    """Logits (N, classes) float32 of images, or of their pixels (N, 3, 32, 32) uint8.

    The prediction is the ``argmax`` of a row.
    """
    pixels = images.pixels if isinstance(images, Images) else images
    starts = range(0, len(pixels), batch_size)
    return np.concatenate(
        [session.logits(to_blob(pixels[start : start + batch_size])) for start in starts]
    )


def to_blob(pixels: np.ndarray) -> np.ndarray:
    """RGB pixels (N, 3, 32, 32) uint8 -> the float32 in 0-255 that every model here takes."""
    return pixels.astype(np.float32)


def require_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise InputError(f"{path} is missing; run 'dvc repro' (or 'dvc pull')")


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV's own error log off stderr: what is wrong is in the exception."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def one_line(text: str) -> str:
    return " ".join(text.split())

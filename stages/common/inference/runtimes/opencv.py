"""ONNX files in OpenCV DNN on the CPU, in one of its engines.

Releases after 5.0.0 are without the classic engine (github.com/opencv/opencv/pull/29341), so
engines are looked up in the OpenCV that is installed.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import image_shape, load_model
from stages.common.inference.sessions import blank_image, one_line, require_file

ENGINES = ("classic", "new", "auto")  # auto: the new one and, if it fails, silently the classic one
NAMED_ENGINES = ("classic", "new")  # their names say which code ran


class OpenCVSession:
    """A model in OpenCV DNN; ``engine`` is one of ENGINES.

    ``threads`` holds for the whole process (``cv2.setNumThreads``): the last session made sets
    it for all. Raises ``InputError`` when the file is missing, when this OpenCV lacks the engine,
    or when the engine refuses the model.
    """

    def __init__(self, path: str | Path, engine: str, threads: int):
        require_file(path)
        code = engine_code(engine)
        if code is None:
            raise InputError(f"{lacks(engine)}; choose another one in params.yaml")
        cv2.setNumThreads(threads)
        self._read = partial(cv2.dnn.readNetFromONNX, str(path), code)
        self._batch = 1  # the largest so far
        try:
            with silent_opencv():
                self._net = self._read()
                self.shape = image_shape(load_model(path), path)
                self.logits(blank_image(self.shape))
        except cv2.error as error:
            # The new engine answers an operator it does not know with an empty network.
            reason = "an operator it does not know" if error.err == "!empty()" else error.err
            raise InputError(
                f"{path}: the engine '{engine}' of OpenCV {cv2.__version__} refuses this model "
                f"({one_line(reason)}); choose another engine in params.yaml (evaluate.engine, "
                "benchmark.engines_*) or, if the file is damaged, delete it and run 'dvc repro'"
            ) from None

    def logits(self, blob: np.ndarray) -> np.ndarray:
        if len(blob) > self._batch:
            # OpenCV 5.0.0 writes beyond the memory of a MatMul that ran on a smaller batch before.
            self._net = self._read()
        self._batch = max(self._batch, len(blob))
        self._net.setInput(blob)
        return self._net.forward()


def engine_code(engine: str) -> int | None:
    """The constant that selects the engine; None when the installed OpenCV lacks it."""
    return getattr(cv2.dnn, f"ENGINE_{engine.upper()}", None)


def installed_engines(wanted: Iterable[str], key: str = "") -> list[str]:
    """Those of the wanted engines that this OpenCV has; a printed line names each that it lacks.

    ``key``: the params key that names them, for the lines. Raises ``InputError`` if none is left.
    """
    found = []
    where = f"{key}: " if key else ""
    for engine in wanted:
        if engine_code(engine) is None:
            print(f"{where}{lacks(engine)}; it is left out")
        else:
            found.append(engine)
    if not found:
        raise InputError(f"{where}no engine is left; name one that OpenCV {cv2.__version__} has")
    return found


def lacks(engine: str) -> str:
    return f"OpenCV {cv2.__version__} has no engine '{engine}'"


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV's own error log off stderr: what is wrong is in the exception."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)

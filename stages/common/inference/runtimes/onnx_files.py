"""Every runtime that takes ONNX files.

A new one is a file beside this with a session of its own, and a line in ``onnx_runtimes``.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from stages.common.data.dataset import Images
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.inference.sessions import BATCH_SIZE, OpenSession, predict

ONLY_ENGINE = "cpu"  # of a runtime that has no choice of engines


def onnx_runtimes(opencv_engines: Iterable[str]) -> dict[tuple[str, str], OpenSession]:
    """(runtime, engine) -> what loads a file in it."""
    return {
        **{("opencv", engine): partial(OpenCVSession, engine=engine) for engine in opencv_engines},
        ("onnxruntime", ONLY_ENGINE): OnnxRuntimeSession,
    }


def logits_by_runtime(
    path: Path, images: Images, opencv_engines: Iterable[str]
) -> dict[str, np.ndarray]:
    """Logits (N, classes) float32 in every runtime and engine: "onnxruntime", "opencv_new", ..."""
    found = {}
    for (runtime, engine), load in sorted(onnx_runtimes(opencv_engines).items()):
        name = runtime if engine == ONLY_ENGINE else f"{runtime}_{engine}"
        session = load(path, threads=cv2.getNumberOfCPUs())
        found[name] = predict(session, images, BATCH_SIZE)
    return found

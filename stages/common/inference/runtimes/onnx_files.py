"""Every runtime that takes ONNX files.

A new one is a file beside this with a session of its own, and a line in ``onnx_runtimes``.
"""

from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.cli import InputError
from stages.common.core.files import read_metrics
from stages.common.data.dataset import Images
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, OpenCVSession, engine_code
from stages.common.inference.sessions import BATCH_SIZE, OpenSession, Session, predict

WRONG = "wrong_here"  # key of a check's JSON, there only where something is wrong: name -> why
ONLY_ENGINE = "cpu"  # of a runtime that has no choice of engines


def onnx_runtimes(opencv_engines: Iterable[str]) -> dict[tuple[str, str], OpenSession]:
    """(runtime, engine) -> what loads a file in it."""
    return {
        **{("opencv", engine): partial(OpenCVSession, engine=engine) for engine in opencv_engines},
        ("onnxruntime", ONLY_ENGINE): OnnxRuntimeSession,
    }


def runtime_name(runtime: str, engine: str) -> str:
    """ "onnxruntime", "opencv_new", ..."""
    return runtime if engine == ONLY_ENGINE else f"{runtime}_{engine}"


def logits_by_runtime(
    path: Path, images: Images, opencv_engines: Iterable[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Logits (N, classes) float32 by the name of the runtime; the others' names, which refuse the
    file, with that in words.

    Raises ``InputError``, the first refusal, when all of them do.
    """
    found, refused = {}, {}
    first = None
    for (runtime, engine), load in sorted(onnx_runtimes(opencv_engines).items()):
        name = runtime_name(runtime, engine)
        try:
            session = load(path, threads=cv2.getNumberOfCPUs())
        except InputError as error:
            first = first or error
            refused[name] = "refuses the file"
        else:
            found[name] = predict(session, images, BATCH_SIZE)
    if first and not found:
        raise first
    return found, refused


def open_right(path: Path, opencv_engine: str, wrong: Collection[str]) -> tuple[str, Session]:
    """The name of a runtime that is right, and a session in it: OpenCV's wanted engine, or else
    its others, or else ONNX Runtime.

    Raises ``InputError`` when the wanted engine is not installed, or nothing is right.
    """
    engines = [opencv_engine, *(each for each in NAMED_ENGINES if engine_code(each) is not None)]
    for (runtime, engine), load in onnx_runtimes(engines).items():
        used = "new" if engine == "auto" else engine  # auto begins with the new one
        if runtime_name(runtime, used) not in wrong:
            return runtime_name(runtime, engine), load(path, threads=cv2.getNumberOfCPUs())
    raise InputError(f"{path}: no runtime is right here ({', '.join(sorted(wrong))} are wrong)")


def read_wrong(check: Path | None) -> set[str]:
    """The names that the check of a file, a JSON, found wrong; none without a check."""
    return set() if check is None else set(read_metrics(check, "'dvc repro'").get(WRONG, {}))

"""The runtimes, in the order of the table's columns, and how each opens a model.

Each opens the ONNX file, but LiteRT: it takes a .tflite, which is written where there is none.
"""

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError
from stages.common.inference.layer_graph.graph import (
    Graph,
    quantization_between,
    require_int8,
    with_output,
)
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.runtimes.expected import sample_pictures
from stages.common.inference.runtimes.litert import LiteRTSession
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import OpenCVSession, engine_code, lacks
from stages.common.inference.sessions import Session, predict
from stages.common.inference.tflite.file import why_none
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.measuring.latency_rows import Variant

OPENCV = "opencv_"  # begins the names of OpenCV's engines
REFERENCE = "onnxruntime"  # the runtime that the others' logits are compared with


@dataclass(frozen=True)
class Model:
    """An ONNX file, and the .tflite that the pipeline made of it, if any."""

    variant: Variant
    tflite: Path | None = None

    @property
    def onnx(self) -> Path:
        return Path(self.variant.path)


@dataclass(frozen=True)
class Runtime:
    """A column: its title, what opens a model in so many threads, and the packages that it needs
    besides those of requirements.txt.

    ``open`` raises ``InputError`` where the runtime refuses the model. ``takes_onnx``: the file as
    it is, not only what is made of it; ``takes_qdq``: an INT8 one as well.
    """

    title: str
    open: Callable[[Model, int], Session]
    packages: tuple[str, ...] = ()
    takes_onnx: bool = True
    takes_qdq: bool = True


def in_onnxruntime(model: Model, threads: int) -> Session:
    return OnnxRuntimeSession(model.onnx, threads)


def in_opencv(model: Model, threads: int, engine: str) -> Session:
    return OpenCVSession(model.onnx, engine, threads)


def in_openvino(model: Model, threads: int) -> Session:
    from stages.common.inference.runtimes.openvino import OpenVINOSession  # may not be installed

    return OpenVINOSession(model.onnx, threads)


def in_ncnn(model: Model, threads: int) -> Session:
    from stages.common.inference.runtimes.ncnn import NcnnSession  # may not be installed

    return NcnnSession(model.onnx, threads)


def in_litert(model: Model, threads: int) -> Session:
    """In XNNPACK's kernels."""
    if model.tflite is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{model.variant.name}.tflite"
            path.write_bytes(tflite_bytes(convertible_graph(model, threads)))
            return LiteRTSession(path, threads, kernels="xnnpack")
    if reason := why_none(model.tflite):
        raise InputError(f"{model.tflite} holds no model: {reason}")
    return LiteRTSession(model.tflite, threads, kernels="xnnpack")


def convertible_graph(model: Model, threads: int) -> Graph:
    """The file's graph, whose logits are INT8 where it is: their range is that on the pictures of
    the check; another one would take the same milliseconds.

    Raises ``UnsupportedNetwork`` where there is no such graph.
    """
    graph = read_graph(model.onnx)
    if not model.variant.is_int8:
        return graph
    require_int8(graph, model.onnx)
    pictures = sample_pictures(*graph.shape[1:])
    logits = predict(OnnxRuntimeSession(model.onnx, threads), pictures, batch_size=1)
    return with_output(graph, quantization_between(float(logits.min()), float(logits.max())))


RUNTIMES = {
    REFERENCE: Runtime("ONNX Runtime", in_onnxruntime),
    f"{OPENCV}classic": Runtime("OpenCV classic", partial(in_opencv, engine="classic")),
    f"{OPENCV}new": Runtime("OpenCV new", partial(in_opencv, engine="new")),
    "openvino": Runtime("OpenVINO", in_openvino, packages=("openvino",)),
    "litert": Runtime("LiteRT", in_litert, takes_onnx=False),
    "ncnn": Runtime("ncnn", in_ncnn, packages=("ncnn", "pnnx"), takes_onnx=False, takes_qdq=False),
}


def why_missing(name: str) -> str:
    """The reason for which a runtime cannot be used here; "" where it can."""
    if name.startswith(OPENCV) and engine_code(engine := name.removeprefix(OPENCV)) is None:
        return lacks(engine)
    missing = [each for each in RUNTIMES[name].packages if importlib.util.find_spec(each) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (pip install -r requirements-runtimes.txt)"
    return ""


def timed_call(session: Session, blob: np.ndarray) -> Callable[[], object]:
    """One inference as it is timed: its input has the layout and the type that the file takes."""
    if isinstance(session, LiteRTSession):
        return partial(session.run, session.prepared(blob))
    return partial(session.logits, blob)


def within_limits(logits: np.ndarray, session: Session) -> np.ndarray:
    """The logits as the session's file can put them out: in integers, they end somewhere."""
    return logits.clip(*session.limits) if isinstance(session, LiteRTSession) else logits


def package_versions(names: list[str]) -> dict[str, str]:
    """Of LiteRT, and of the packages that the runtimes of these names need."""
    packages = ["ai-edge-litert", *(each for name in names for each in RUNTIMES[name].packages)]
    return {each: importlib.metadata.version(each) for each in packages}

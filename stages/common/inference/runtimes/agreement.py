"""Which runtimes and engines compute a file right, on this machine.

The stage that writes a file decides. A runtime or engine that disagrees with the reference, or
refuses the file, is wrong here: the stage's JSON says so, and the file is neither evaluated nor
timed there. OpenCV 5.0.0's new engine, for example, computes depthwise INT8 convolutions wrongly on
many processors (github.com/opencv/opencv/issues/28798): the logits of an untrained MobileNetV2 were
203 % off on an AMD EPYC with VNNI, those of the classic engine 9 %, of ONNX Runtime 0.1 %.
"""

from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.cli import InputError
from stages.common.data.dataset import Images
from stages.common.inference.runtimes.onnx_files import logits_by_runtime
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import BATCH_SIZE, predict


def logit_error(found: np.ndarray, expected: np.ndarray) -> float:
    """How far logits (N, classes) are from the expected ones, in percent of those.

    Root mean squares, after taking off each image's mean, which decides nothing. Not finite where
    the logits are not.
    """
    found, expected = (each - each.mean(axis=1, keepdims=True) for each in (found, expected))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(100 * np.linalg.norm(found - expected) / np.linalg.norm(expected))


def require_one_right(names: Collection[str], wrong: dict[str, str], advice: str) -> None:
    """Raise ``InputError`` when all the names are wrong: name -> why."""
    if set(names) <= set(wrong):
        listed = "; ".join(f"{name} {reason}" for name, reason in wrong.items())
        raise InputError(f"no runtime is right here: {listed}; {advice}")


def print_wrong(wrong: dict[str, str]) -> None:
    for name, reason in wrong.items():
        print(f"{name} is wrong here and left out: it {reason}")


def right_logits(
    path: Path, images: Images, engines: list[str], tolerance: float, fp32: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Logits (N, classes) of an INT8 file in the runtimes that are right; what is wrong elsewhere.

    Right is what the file says, one operator after the other, within ``tolerance`` percent: a
    runtime's fused operators round otherwise. Where INT8 itself moves the logits further from those
    of the FP32 model, ``fp32`` (N, classes), more is allowed (``allowed_error``). Raises
    ``InputError`` when no runtime is right.
    """
    by_definition = OnnxRuntimeSession(path, cv2.getNumberOfCPUs(), optimized=False)
    expected = predict(by_definition, images, BATCH_SIZE)
    logits, refused = logits_by_runtime(path, images, engines)
    allowed = allowed_error(tolerance, logit_error(expected, fp32))
    wrong = {**refused, **wrong_runtimes(logits, expected, allowed)}
    require_one_right(
        [*logits, *refused],
        wrong,
        f"allowed by quantize.logit_tolerance: {tolerance:g} %; try quantize.reduce_range: true",
    )
    return {name: each for name, each in logits.items() if name not in wrong}, wrong


def allowed_error(tolerance: float, own: float) -> float:
    """The percent by which a runtime may be off: as much as INT8 itself is (``own``), between the
    tolerance and three times it.

    Of eleven torchvision networks with random weights, right runtimes were at most 16 % off and
    wrong ones at least 37 %. Where INT8 itself is very far off, it says nothing about a runtime.
    """
    return min(max(tolerance, own), 3 * tolerance)


def wrong_runtimes(
    logits: dict[str, np.ndarray], expected: np.ndarray, tolerance: float
) -> dict[str, str]:
    """The runtimes whose logits are further than the tolerance (percent) from the expected ones,
    each with its error in words.
    """
    errors = {name: logit_error(found, expected) for name, found in logits.items()}
    return {
        name: f"computes logits that are {error:.2g} % off"
        for name, error in errors.items()
        if not error <= tolerance  # also when it is no number
    }

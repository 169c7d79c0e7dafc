"""Which runtimes and engines compute a file right, on this machine.

The stage that writes a file decides. A runtime or engine that disagrees with the reference, or
refuses the file, is wrong here: the stage's JSON says so, and the file is neither evaluated nor
timed there. OpenCV 5.0.0's new engine, for example, computes depthwise INT8 convolutions wrongly on
many processors (github.com/opencv/opencv/issues/28798).
"""

from collections.abc import Collection

import numpy as np

from stages.common.core.cli import InputError


def logit_error(found: np.ndarray, expected: np.ndarray) -> float:
    """How far logits (N, classes) are from the expected ones, in percent of those.

    Root mean squares, after taking off each image's mean, which decides nothing. Not finite where
    the logits are not.
    """
    found, expected = (each - each.mean(axis=1, keepdims=True) for each in (found, expected))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(100 * np.linalg.norm(found - expected) / np.linalg.norm(expected))


def require_one_right(names: Collection[str], wrong: dict[str, str], advice: str) -> None:
    """Raise ``InputError`` when all the names are wrong; print a line for each that is."""
    if set(names) <= set(wrong):
        listed = "; ".join(f"{name} {reason}" for name, reason in wrong.items())
        raise InputError(f"no runtime is right here: {listed}; {advice}")
    for name, reason in wrong.items():
        print(f"{name} is wrong here and left out: it {reason}")

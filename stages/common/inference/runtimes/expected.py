"""Logits that a file expects, so that a device can leave out an engine that computes it wrongly.

The pipeline's own check holds for the machine that ran it: another processor has other kernels. So
a file's metadata "expected" holds its logits for SAMPLES synthetic pictures, and how far from them
an engine may be, in percent. deploy/classify.py runs each engine on these pictures before it uses
one.

The pictures are made of integers only, the same on every machine, from smooth to as fine as pixels.
With // for division without rest, wave(v) = |v mod 510 - 255|, picture k, colour c (0 red, 1 green,
2 blue), row y of H and column x of W, a pixel is (2 wave(rings) + wave(colours)) // 3, where

    rings   = 510 4^k y^2 // H^2 + 510 4^k x^2 // W^2
    colours = 510 (3 - c) y // H + 510 (1 + c) x // W + 90 k

They tell right from wrong as photos do. Percent off by ``logit_error`` as INT8 (AMD EPYC, OpenCV
5.0.0, ONNX Runtime), and the limit in the file, quantize.logit_tolerance being 10:

    network                                 limit   ONNX Runtime   classic   new
    EfficientNet-Lite0, 224, pruned, trained   10            0.5       2.1    52
    MobileNetV2, 32, trained                   10            1.6        15   359
    MobileNetV3-Small, 32, trained             13            0.0       0.0   122
    MobileNetV2, 96, random weights            30            1.3       0.5   125
    EfficientNet-B0, 64, random weights        27            0.0        14   925
    MobileNetV3-Small, 64, random weights      30            0.0       4.5   224
    MNASNet 0.5, 64, random weights            30            1.0       5.2   335
    RegNetY-400MF, 64, random weights          30            2.3       5.6    84
    ResNet-18, 64, random weights              13            1.5       4.9   2.1

The limit is above 10, up to 30, where INT8 itself moves the logits by more. The second row's
classic engine is beyond it, as on photos (14 %). With random weights BatchNorm's statistics were
those of images.
"""

import json
from pathlib import Path

import numpy as np
import onnx

from stages.common.inference.onnx_graph import load_model, read_metadata

EXPECTED = "expected"  # key of the metadata
SAMPLES = 4
DIGITS = 6  # of a logit


def sample_pictures(height: int, width: int) -> np.ndarray:
    """(SAMPLES, 3, H, W) uint8 RGB."""
    y = np.arange(height, dtype=np.int64)[:, None]
    x = np.arange(width, dtype=np.int64)
    k = np.arange(SAMPLES, dtype=np.int64)[:, None, None, None]
    c = np.arange(3, dtype=np.int64)[:, None, None]
    rings = 510 * 4**k * y**2 // height**2 + 510 * 4**k * x**2 // width**2
    colours = 510 * (3 - c) * y // height + 510 * (1 + c) * x // width + 90 * k
    return ((2 * wave(rings) + wave(colours)) // 3).astype(np.uint8)


def wave(steps: np.ndarray) -> np.ndarray:
    """Up and down between 0 and 255."""
    return np.abs(steps % 510 - 255)


def expected_metadata(logits: np.ndarray, tolerance: float) -> dict[str, str]:
    """The entry for logits of the pictures (SAMPLES, classes) and a tolerance in percent of them,
    as ``logit_error`` measures it; none where the tolerance is no number: all logits are equal.
    """
    if not np.isfinite(tolerance):
        return {}
    rounded = [[float(f"{logit:.{DIGITS}g}") for logit in row] for row in logits]
    return {EXPECTED: json.dumps({"logits": rounded, "tolerance": float(f"{tolerance:.3g}")})}


def add_metadata(path: Path, entries: dict[str, str]) -> None:
    """Write a file anew with entries added to its metadata."""
    model = load_model(path)
    onnx.helper.set_model_props(model, read_metadata(model) | entries)
    path.write_bytes(model.SerializeToString(deterministic=True))

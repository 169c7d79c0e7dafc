"""The cost of INT8 by layer: each layer quantized alone, the others in FP32."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from onnx import ModelProto

from stages.common.core.accuracy import accuracy
from stages.common.data.dataset import Images
from stages.common.inference.int8.layers import Layer, find_layers, layers_of
from stages.common.inference.int8.quantizer import prepared, with_int8_layers
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import BATCH_SIZE, predict


@dataclass(frozen=True)
class Sensitivity:
    """``accuracy_drop`` in points and ``logit_error`` in percent of the FP32 logits (root mean
    squares), on the images that were measured.
    """

    layer: str
    operator: str
    accuracy_drop: float
    logit_error: float


def sensitivities(
    model: ModelProto, calibration: Images, images: Images, params: QuantizeParams
) -> list[Sensitivity]:
    """In the graph's order, of the layers that ``params.exclude`` does not name.

    Computed as ONNX defines the file, so that no runtime's error enters. The activations' ranges
    are found once.
    """
    model = prepared(model, params)
    layers = layers_of(model)
    excluded = find_layers(layers, params.exclude, "quantize.exclude")
    expected = logits_of(model, images)
    with tempfile.TemporaryDirectory() as folder:
        ranges = Path(folder) / "ranges.json"
        return [
            measured(
                layer,
                logits_of(with_int8_layers(model, calibration, params, [layer], ranges), images),
                expected,
                images.labels,
            )
            for layer in layers
            if layer not in excluded
        ]


def measured(
    layer: Layer, found: np.ndarray, expected: np.ndarray, labels: np.ndarray
) -> Sensitivity:
    drop = accuracy(expected.argmax(1), labels) - accuracy(found.argmax(1), labels)
    return Sensitivity(
        layer=layer.name,
        operator=layer.operator,
        accuracy_drop=round(drop, 2),
        logit_error=round(logit_error(found, expected), 3),
    )


def logits_of(model: ModelProto, images: Images | np.ndarray) -> np.ndarray:
    """(N, classes) float32 of images or pixels, one operator after the other."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        session = OnnxRuntimeSession(path, cv2.getNumberOfCPUs(), optimized=False)
        return predict(session, images, BATCH_SIZE)


def worst_first(found: list[Sensitivity]) -> list[str]:
    """Names of the layers by their logit error: accuracy is too coarse to rank them."""
    return [each.layer for each in sorted(found, key=lambda each: -each.logit_error)]

"""PyTorch operators that torch.onnx is told how to translate, for OpenCV's sake.

Its own translations of them are right, but OpenCV 5.0.0 does not run all of them: it refuses the
gathers of an adaptive pooling whose output's size does not divide the input's, and crashes on
reading GELU unless its operators stand in the one order that it fuses.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from onnxscript import FLOAT, ir, opset18

ops: Any = opset18  # typed for values; the exporter hands in symbols


def adaptive_average_pool(pixels: FLOAT, output_size: Any) -> FLOAT:
    """(N, C, H, W) -> (N, C, *output_size); the exporter calls it with numbers for H and W."""
    before, after = list(cast(Any, pixels).shape[2:]), list(output_size)
    if after == before:
        return ops.Identity(pixels)
    if after == [1, 1]:
        return ops.GlobalAveragePool(pixels)
    if all(size % windows == 0 for size, windows in zip(before, after, strict=True)):
        kernel = [size // windows for size, windows in zip(before, after, strict=True)]
        return ops.AveragePool(pixels, kernel_shape=kernel, strides=kernel)
    rows, columns = (averages(*sizes) for sizes in zip(before, after, strict=True))
    right = constant(columns.transpose(0, 1, 3, 2))
    return ops.MatMul(ops.MatMul(constant(rows), pixels), right)


def averages(size: int, windows: int) -> np.ndarray:
    """(1, 1, windows, size) float32: each row is the mean of a window, as PyTorch places them."""
    matrix = np.zeros((1, 1, windows, size), np.float32)
    for index in range(windows):
        start, end = index * size // windows, -(-(index + 1) * size // windows)
        matrix[..., index, start:end] = 1 / (end - start)
    return matrix


def gelu(x: FLOAT, approximate: str = "none") -> FLOAT:
    """x * (1 + erf(x / sqrt(2))) / 2, or its approximation by tanh (Hendrycks and Gimpel,
    "Gaussian error linear units", arXiv 1606.08415), with (1 + tanh(u)) / 2 = sigmoid(2 u).
    """
    if approximate == "tanh":
        cube = ops.Mul(ops.Mul(x, ops.Mul(x, x)), constant(0.044715))
        slope = constant(2 * math.sqrt(2 / math.pi))
        return ops.Mul(x, ops.Sigmoid(ops.Mul(ops.Add(x, cube), slope)))
    curve = ops.Erf(ops.Div(x, constant(math.sqrt(2))))
    return ops.Mul(ops.Mul(x, ops.Add(curve, constant(1.0))), constant(0.5))


def constant(values: np.ndarray | float) -> FLOAT:
    return ops.Constant(value=ir.to_proto(ir.tensor(np.asarray(values, np.float32))))


# For torch.onnx.export(custom_translation_table=...)
TRANSLATIONS: dict[Any, Any] = {
    torch.ops.aten.adaptive_avg_pool2d.default: adaptive_average_pool,
    torch.ops.aten.gelu.default: gelu,
}

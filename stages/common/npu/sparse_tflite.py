"""Zeros among the weights of an INT8 TFLite model."""

import copy

import numpy as np
from ai_edge_litert.schema_py_generated import ModelT, TensorT

from stages.common.inference.magnitude_mask import smallest
from stages.common.inference.tflite_file import AlignedBuffer, int8_values, weight_tensors


def nonzero_weights(model: ModelT) -> int:
    return sum(
        int(np.count_nonzero(int8_values(model, tensor))) for tensor in weight_tensors(model)
    )


def share_of_zeros(model: ModelT) -> float:
    """In percent of all weights; biases are none."""
    count = sum(int8_values(model, tensor).size for tensor in weight_tensors(model))
    return round(100 * (1 - nonzero_weights(model) / count), 2)


def thinned(model: ModelT, nonzero: int) -> ModelT:
    """A copy with zeros for the smallest weights of all 3x3 filters, ``nonzero`` weights left.

    Smallest in what they stand for, integer times scale, as ``prune.method: unstructured`` ranks
    them. Other weights stay, so that more than ``nonzero`` are left where these alone are more.
    """
    model = copy.deepcopy(model)
    filters = [tensor for tensor in weight_tensors(model) if tensor.shape[1:3].tolist() == [3, 3]]
    values = [int8_values(model, tensor) for tensor in filters]
    sizes = [magnitudes(value, tensor) for value, tensor in zip(values, filters, strict=True)]
    cleared = smallest(sizes, surplus=nonzero_weights(model) - nonzero)
    for value, tensor, clear in zip(values, filters, cleared, strict=True):
        value[clear] = 0
        model.buffers[tensor.buffer] = AlignedBuffer(value.tobytes())
    return model


def magnitudes(values: np.ndarray, tensor: TensorT) -> np.ndarray:
    """|real value| of int8 filters (O, kH, kW, I) with a scale for each output channel."""
    return np.abs(values.astype(np.float32)) * tensor.quantization.scale.reshape(-1, 1, 1, 1)

"""Zeros among the weights of an INT8 TFLite model."""

import copy

import numpy as np
from ai_edge_litert.schema_py_generated import ModelT, TensorT

from stages.common.inference.magnitude_mask import smallest
from stages.common.inference.tflite.file import AlignedBuffer, int8_values, weight_tensors


def nonzero_weights(model: ModelT) -> int:
    return sum(
        int(np.count_nonzero(int8_values(model, tensor))) for tensor in weight_tensors(model)
    )


def share_of_zeros(model: ModelT) -> float:
    """In percent of all weights; biases are none."""
    count = sum(int8_values(model, tensor).size for tensor in weight_tensors(model))
    return round(100 * (1 - nonzero_weights(model) / count), 2)


def thinned(model: ModelT, nonzero: int) -> ModelT:
    """A copy with zeros for the smallest weights of the convolutions, ``nonzero`` weights left.

    Smallest in what they stand for, integer times scale, as ``prune.method: unstructured`` ranks
    them. Of several convolutions the first stays, and the linear layers do, so that more than
    ``nonzero`` are left where these alone are more.
    """
    model = copy.deepcopy(model)
    convolutions = [tensor for tensor in weight_tensors(model) if len(tensor.shape) == 4]
    filters = convolutions[1:] or convolutions
    values = [int8_values(model, tensor) for tensor in filters]
    sizes = [magnitudes(value, tensor) for value, tensor in zip(values, filters, strict=True)]
    cleared = smallest(sizes, surplus=nonzero_weights(model) - nonzero)
    for value, tensor, clear in zip(values, filters, cleared, strict=True):
        value[clear] = 0
        model.buffers[tensor.buffer] = AlignedBuffer(value.tobytes())
    return model


def magnitudes(values: np.ndarray, tensor: TensorT) -> np.ndarray:
    """|real value| of int8 filters with a scale for each output channel: (O, kH, kW, I), or
    (1, kH, kW, O) where depthwise.
    """
    axis = tensor.quantization.quantizedDimension
    shape = [-1 if index == axis else 1 for index in range(values.ndim)]
    return np.abs(values.astype(np.float32)) * tensor.quantization.scale.reshape(shape)

"""Zeros in place of weights of an INT8 ONNX file (QDQ), the same as ``sparse_tflite`` writes."""

import numpy as np
from onnx import ModelProto, numpy_helper

from stages.common.inference.magnitude_mask import smallest
from stages.hardware.energy_model.operator_counts import work_of


def nonzero_weights(model: ModelProto) -> int:
    return work_of(model).total("nonzero_weights")


def thinned(model: ModelProto, nonzero: int) -> ModelProto:
    """A copy in which only ``nonzero`` weights are not 0: the smallest of all 3x3 filters become 0.

    Smallest by real value, integer times scale. Other weights stay, so more than ``nonzero`` are
    left where these alone are more.
    """
    thin = ModelProto()
    thin.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in thin.graph.initializer}
    filters = [
        (constants[name], numpy_helper.to_array(constants[scale]))
        for name, scale in quantized_filters(thin)
    ]
    values = [channels_last(numpy_helper.to_array(tensor)) for tensor, _ in filters]
    sizes = [magnitudes(v, scale) for v, (_, scale) in zip(values, filters, strict=True)]
    cleared = smallest(sizes, surplus=nonzero_weights(model) - nonzero)
    for value, (tensor, _), clear in zip(values, filters, cleared, strict=True):
        kept = np.where(clear, 0, value).astype(value.dtype)
        tensor.CopyFrom(numpy_helper.from_array(channels_first(kept), tensor.name))
    return thin


def quantized_filters(model: ModelProto) -> list[tuple[str, str]]:
    """The names of all int8 3x3 filters, each with the name of its scale."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    found = [
        (node.input[0], node.input[1])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.output[0] in weights
        and shapes[node.input[0]][2:] == [3, 3]
    ]
    assert found, "an INT8 network of this pipeline has int8 3x3 filters"
    return found


def channels_last(filters: np.ndarray) -> np.ndarray:
    """(O, I, kH, kW) -> (O, kH, kW, I): TFLite's order, in which equal weights are cleared."""
    return filters.transpose(0, 2, 3, 1)


def channels_first(filters: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(filters.transpose(0, 3, 1, 2))


def magnitudes(filters: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """|real value| of int8 filters (O, kH, kW, I) with a scale for each output channel."""
    return np.abs(filters.astype(np.float32)) * scale.reshape(-1, 1, 1, 1)

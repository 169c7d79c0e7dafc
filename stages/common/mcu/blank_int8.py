"""An FP32 graph as the INT8 graph that quantization will make of it, with zeros for weights.

Its TFLite file has the operators, tensors and bytes of the quantized network's, whose scales are
not known yet.
"""

from dataclasses import replace

import numpy as np

from stages.common.inference.layer_graph.graph import PIXELS, Graph, Layer, Quantization

KEEPING = ("max_pool", "average_pool")  # their output has the quantization of their input
LOWEST = -128


def blank_int8(graph: Graph) -> Graph:
    """Every other layer has an output scale of its own, as calibration gives them."""
    outputs = {PIXELS: Quantization(np.ones(1, np.float32), np.array([LOWEST]))}
    layers = []
    for number, layer in enumerate(graph.layers, 1):
        own = Quantization(np.array([1 / number], np.float32), np.array([LOWEST]))
        outputs[layer.name] = outputs[layer.inputs[0]] if layer.kind in KEEPING else own
        layers.append(blank(layer, outputs[layer.name]))
    return replace(graph, input=outputs[PIXELS], layers=tuple(layers))


def blank(layer: Layer, output: Quantization) -> Layer:
    if layer.weight is None:
        return replace(layer, output=output, fp32=False)
    channels = len(layer.weight)
    return replace(
        layer,
        output=output,
        fp32=False,
        weight=np.zeros(layer.weight.shape, np.int8),
        weight_quantization=Quantization(
            np.ones(channels, np.float32), np.zeros(channels, np.int64)
        ),
        bias=None if layer.bias is None else np.zeros(channels, np.int32),
    )

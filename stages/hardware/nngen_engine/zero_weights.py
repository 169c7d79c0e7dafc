"""The control of an accelerator: the same hardware, with most weights set to 0."""

from dataclasses import replace

import numpy as np

from stages.common.inference.layer_graph.chain import Chain
from stages.common.inference.layer_graph.graph import Layer
from stages.common.inference.magnitude_mask import smallest
from stages.hardware.nngen_engine.integer_network import IntegerNetwork


def with_zeros(chain: Chain, percent: int) -> Chain:
    """The chain with ``percent`` of its non-zero weights set to 0, the smallest of all layers."""
    weighted = [index for index, layer in enumerate(chain.layers) if layer.weight is not None]
    sizes = [magnitudes(chain.layers[index]) for index in weighted]
    nonzero = sum(int(np.count_nonzero(size)) for size in sizes)
    layers = list(chain.layers)
    masks = smallest(sizes, surplus=nonzero * percent // 100)
    for index, mask in zip(weighted, masks, strict=True):
        layers[index] = cleared(layers[index], mask)
    return replace(chain, layers=tuple(layers))


def magnitudes(layer: Layer) -> np.ndarray:
    """|real value| of an INT8 layer's weights."""
    assert layer.weight is not None, f"a {layer.kind} has no weight"
    assert layer.weight_quantization is not None, "an INT8 layer has weight scales"
    scale = layer.weight_quantization.scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    return np.abs(layer.weight.astype(np.float32)) * scale


def cleared(layer: Layer, mask: np.ndarray) -> Layer:
    assert layer.weight is not None, f"a {layer.kind} has no weight"
    return replace(layer, weight=np.where(mask, np.int8(0), layer.weight))


def with_weights(network: IntegerNetwork, other: IntegerNetwork) -> IntegerNetwork:
    """The network with the weights of ``other`` and its own multipliers and shifts."""
    layers = zip(network.layers, other.layers, strict=True)
    return replace(
        network, layers=tuple(replace(layer, weight=each.weight) for layer, each in layers)
    )

"""An INT8 chain in integers only, as hardware without floating point computes it.

ONNX Runtime multiplies a layer's sum by the real number input scale * weight scale / output scale
and rounds halves to even. Here each channel's factor is multiplier / 2^shift, with a 16-bit
multiplier and one shift a layer, and halves are rounded away from 0. Nothing else differs: weights,
biases and activation ranges (uint8 with zero point 0, which is also the ReLU) are the same. The
layout is NHWC, and filters are (O, kH, kW, I).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from stages.common.core.cli import InputError
from stages.common.inference.layer_graph.chain import Chain
from stages.common.inference.layer_graph.graph import Layer, Quantization

MULTIPLIER_MAX = 2**15 - 1
SUM_MAX = 2**31 - 1
ACTIVATION_MAX = 2**8 - 1
FLOAT32_EXACT = 2**24  # every whole number up to it is a float32


@dataclass(frozen=True)
class IntegerLayer:
    """``kind``: "conv", "linear" (a 1x1 convolution of 1x1 pixels) or "max_pool" (no weight).

    The output of ``shape`` (H, W, C) is clip(round((sum + bias) * multiplier / 2^shift)): uint8,
    or, if ``final``, int32 logits in a unit that all classes share.
    """

    kind: str
    shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    weight: np.ndarray | None = None  # (O, kH, kW, I) int8
    bias: np.ndarray | None = None  # (O,) int32
    multiplier: np.ndarray | None = None  # (O,) int16
    shift: int = 0
    final: bool = False

    @property
    def macs(self) -> int:
        return 0 if self.weight is None else self.weight.size * self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class IntegerNetwork:
    """Pixels (H, W, C) uint8 -> logits."""

    shape: tuple[int, int, int]
    layers: tuple[IntegerLayer, ...]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


def integer_network(chain: Chain) -> IntegerNetwork:
    """Raises ``InputError`` for a chain that is not of uint8 activations with zero point 0."""
    sources = input_quantizations(chain)
    last = chain.layers[-1]
    layers = [
        integer_layer(layer, source, final=layer is last)
        for layer, source in zip(chain.layers, sources, strict=True)
    ]
    return IntegerNetwork(channels_last(chain.shape), tuple(layers))


def input_quantizations(chain: Chain) -> list[Quantization]:
    """The quantization of each layer's input. Raises ``InputError``, see ``integer_network``.

    A chain's integers are int8, in which uint8's zero point 0 is -128.
    """
    found = [chain.input, *[layer.output for layer in chain.layers[:-1]]]
    allowed = [each for each in found if each is not None and each.zero_point[0] == -128]
    if len(allowed) < len(found):
        raise InputError(
            "an activation is not uint8 with zero point 0, the only kind that this fixed-point "
            "hardware takes; set quantize.activation_type to uint8 and end each convolution in a "
            "ReLU"
        )
    if chain.layers[-1].output is not None or chain.layers[-1].kind != "linear":
        raise InputError("the last layer is no linear layer with FP32 logits; see stages/export.py")
    return allowed


def integer_layer(layer: Layer, source: Quantization, final: bool) -> IntegerLayer:
    """``source``: the quantization of the layer's input."""
    made = IntegerLayer(layer.kind, channels_last(layer.shape), layer.kernel, layer.stride)
    if layer.weight is None:
        return made
    weight = layer.weight.reshape(len(layer.weight), -1, *layer.kernel).transpose(0, 2, 3, 1)
    bias = np.zeros(len(weight), np.int32) if layer.bias is None else layer.bias
    largest = largest_sums(weight, bias)
    assert largest.max() <= SUM_MAX, "a sum can leave 32 bits"
    assert layer.weight_quantization is not None, "an INT8 layer has weight scales"
    real = source.scale.astype(np.float64) * layer.weight_quantization.scale
    if layer.output is None:
        multiplier, shift = final_factors(real, largest)
    else:
        multiplier, shift = factors(real / layer.output.scale)
    return replace(
        made,
        padding=layer.pads[:2],
        weight=np.ascontiguousarray(weight),
        bias=bias,
        multiplier=multiplier,
        shift=shift,
        final=final,
    )


def factors(real: np.ndarray) -> tuple[np.ndarray, int]:
    """Multipliers and shift of a layer's real factors, the largest with all 15 bits."""
    shift = math.floor(math.log2(MULTIPLIER_MAX / real.max()))
    assert 1 <= shift < 48, f"a factor of {real.max()} is out of range"
    return np.rint(real * 2.0**shift).astype(np.int16), shift


def final_factors(real: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, int]:
    """Factors relative to the largest channel's, with the smallest shift that 32 bits allow."""
    multiplier = np.rint(real / real.max() * MULTIPLIER_MAX).astype(np.int16)
    product = int((largest * multiplier).max())
    return multiplier, max(1, product.bit_length() - 31)


def largest_sums(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The bound of |sum + bias| in each channel, (O,) int64."""
    spread = np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3))
    return ACTIVATION_MAX * spread + np.abs(bias.astype(np.int64))


def channels_last(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return (*shape[1:], shape[0])


def integer_logits(network: IntegerNetwork, pixels: np.ndarray) -> np.ndarray:
    """(N, 3, H, W) uint8 -> (N, classes) int64, exactly."""
    x = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    for layer in network.layers:
        x = max_pooled(x, layer) if layer.weight is None else convolved(x, layer)
    return x.reshape(len(x), -1)


def max_pooled(x: np.ndarray, layer: IntegerLayer) -> np.ndarray:
    views = [window for _, _, window in windows(x, layer)]
    return np.maximum.reduce(views)


def convolved(x: np.ndarray, layer: IntegerLayer) -> np.ndarray:
    """(N, H, W, I) uint8 -> (N, H', W', O): uint8, or int64 if final.

    Sums are float32 where none can exceed its 24 exact bits, else float64: exact in any order.
    """
    assert layer.weight is not None, f"a {layer.kind} is not convolved"
    assert layer.bias is not None, "a layer with weights has biases"
    exact = largest_sums(layer.weight, layer.bias).max() < FLOAT32_EXACT
    weight = layer.weight.astype(np.float32 if exact else np.float64)
    rows, columns = layer.padding
    x = np.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    total = sum(
        window.astype(weight.dtype) @ weight[:, row, column].T
        for row, column, window in windows(x, layer)
    )
    return rescaled(total.astype(np.int64) + layer.bias, layer)


def windows(x: np.ndarray, layer: IntegerLayer) -> list[tuple[int, int, np.ndarray]]:
    """Row and column in the kernel, and the values there of every window, (N, H', W', C)."""
    (height, width), (down, right) = layer.shape[:2], layer.stride
    tall, wide = height * down, width * right
    return [
        (row, column, x[:, row : row + tall : down, column : column + wide : right])
        for row in range(layer.kernel[0])
        for column in range(layer.kernel[1])
    ]


def rescaled(total: np.ndarray, layer: IntegerLayer) -> np.ndarray:
    """Sums times multiplier / 2^shift, clipped; halves are rounded away from 0."""
    assert layer.multiplier is not None, f"a {layer.kind} is not rescaled"
    product = total * layer.multiplier.astype(np.int64)
    half = 1 << (layer.shift - 1)
    rounded = (product + np.where(product >= 0, half, half - 1)) >> layer.shift
    if layer.final:
        return np.clip(rounded, -SUM_MAX, SUM_MAX)
    return np.clip(rounded, 0, ACTIVATION_MAX).astype(np.uint8)

"""An INT8 chain in integers only, as hardware without floating point computes it.

ONNX Runtime multiplies a layer's sum by the real number input scale * weight scale / output scale
and rounds halves to even; here the factor of each channel is multiplier / 2^shift, with a 16-bit
multiplier and one shift a layer, and halves go away from 0. That is the only difference: weights,
biases and the ranges of the activations (uint8, zero point 0, which is also the ReLU) are the same.
The layout is NHWC, and filters are (O, kH, kW, I).
"""

import math
from dataclasses import dataclass

import numpy as np

from stages.common.core.cli import InputError
from stages.common.inference.layer_chain import Chain, Layer, Quantization

MULTIPLIER_MAX = 2**15 - 1
SUM_MAX = 2**31 - 1
ACTIVATION_MAX = 2**8 - 1
FLOAT32_EXACT = 2**24  # every whole number up to it is a float32


@dataclass(frozen=True)
class IntegerLayer:
    """``kind``: "conv", "linear" (a 1x1 convolution of 1x1 pixels) or "max_pool" (no weight).

    Puts out clip(round((sum + bias) * multiplier / 2^shift)): uint8 of ``shape`` (H, W, C), or, if
    ``final``, int32 that are logits in a unit that all classes share.
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
    refuse_other_quantization(chain)
    layers, quantization = [], chain.input
    for number, layer in enumerate(chain.layers, start=1):
        final = number == len(chain.layers)
        layers.append(integer_layer(layer, quantization, final))
        quantization = layer.output
    return IntegerNetwork(channels_last(chain.shape), tuple(layers))


def refuse_other_quantization(chain: Chain) -> None:
    """A chain's integers are int8: a zero point of -128 is 0 in uint8."""
    found = [chain.input, *[layer.output for layer in chain.layers[:-1]]]
    if any(each is None or each.zero_point[0] != -128 for each in found):
        raise InputError(
            "an activation is not uint8 with zero point 0, the only one that fixed-point hardware "
            "is made for here; set quantize.activation_type to uint8 and end each convolution in "
            "a ReLU"
        )
    if chain.layers[-1].output is not None or chain.layers[-1].kind != "linear":
        raise InputError("the last layer is no linear layer with FP32 logits; see stages/export.py")


def integer_layer(layer: Layer, source: Quantization, final: bool) -> IntegerLayer:
    same = {
        "kind": layer.kind,
        "shape": channels_last(layer.shape),
        "kernel": tuple(layer.kernel),
        "stride": tuple(layer.stride),
    }
    if layer.weight is None:
        return IntegerLayer(**same)
    weight = layer.weight.reshape(len(layer.weight), -1, *layer.kernel).transpose(0, 2, 3, 1)
    bias = np.zeros(len(weight), np.int32) if layer.bias is None else layer.bias
    largest = largest_sums(weight, bias)
    assert largest.max() <= SUM_MAX, "a sum can leave 32 bits"
    real = source.scale.astype(np.float64) * layer.weight_quantization.scale
    if final:
        multiplier, shift = final_factors(real, largest)
    else:
        multiplier, shift = factors(real / layer.output.scale)
    padding = tuple((size - 1) // 2 if layer.same else 0 for size in layer.kernel)
    return IntegerLayer(
        **same,
        padding=padding,
        weight=np.ascontiguousarray(weight),
        bias=bias,
        multiplier=multiplier,
        shift=shift,
        final=final,
    )


def factors(real: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest real factor gets all 15 bits of its multiplier."""
    shift = math.floor(math.log2(MULTIPLIER_MAX / real.max()))
    assert 1 <= shift < 48, f"a factor of {real.max()} is out of range"
    return np.rint(real * 2.0**shift).astype(np.int16), shift


def final_factors(real: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, int]:
    """Relative to the largest channel's, shifted no further than 32 bits of output want."""
    multiplier = np.rint(real / real.max() * MULTIPLIER_MAX).astype(np.int16)
    product = int((largest * multiplier).max())
    return multiplier, max(1, product.bit_length() - 31)


def largest_sums(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What |sum + bias| of each channel cannot exceed, (O,) int64."""
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

    The products are added up in float32 where no sum can leave its 24 bits, in float64 elsewhere:
    exact in any order, and fast.
    """
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
    """Row and column within the kernel, and what stands there in every window: (N, H', W', C)."""
    (height, width), (down, right) = layer.shape[:2], layer.stride
    tall, wide = height * down, width * right
    return [
        (row, column, x[:, row : row + tall : down, column : column + wide : right])
        for row in range(layer.kernel[0])
        for column in range(layer.kernel[1])
    ]


def rescaled(total: np.ndarray, layer: IntegerLayer) -> np.ndarray:
    """Halves are rounded away from 0."""
    product = total * layer.multiplier.astype(np.int64)
    half = 1 << (layer.shift - 1)
    rounded = (product + np.where(product >= 0, half, half - 1)) >> layer.shift
    if layer.final:
        return np.clip(rounded, -SUM_MAX, SUM_MAX)
    return np.clip(rounded, 0, ACTIVATION_MAX).astype(np.uint8)

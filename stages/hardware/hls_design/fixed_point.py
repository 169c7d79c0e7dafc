"""A chain of layers in fixed point, computed exactly as hls4ml's C++ computes it.

Every weight and every activation is a multiple of a power of two with a fixed number of bits:
ap_fixed<width, integer, AP_RND, AP_SAT> of Vitis HLS, or the unsigned ap_ufixed
(https://docs.amd.com/r/en-US/ug1399-vitis-hls/Arbitrary-Precision-Fixed-Point-Data-Types). Sums are
kept in full and rounded once, to the layer's output. Integers are held in float64: products and
sums stay below 2 ** 53, up to which float64 is exact.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from stages.common.inference.layer_graph.chain import Chain
from stages.common.inference.layer_graph.graph import Layer

EXACT = 2.0**53  # up to here a float64 holds every integer
PIXEL = 255
CANDIDATES = 4  # formats tried: the one that holds the largest value, and finer ones


@dataclass(frozen=True)
class FixedPoint:
    """real = stored integer * 2 ** -fraction; ``integer`` bits before the point (may be < 0)."""

    width: int
    integer: int
    signed: bool

    @property
    def fraction(self) -> int:
        return self.width - self.integer

    @property
    def lowest(self) -> int:
        return -(2 ** (self.width - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        return 2 ** (self.width - self.signed) - 1

    def __str__(self) -> str:
        kind = "ap_fixed" if self.signed else "ap_ufixed"
        return f"{kind}<{self.width},{self.integer},AP_RND,AP_SAT>"

    def of(self, values: torch.Tensor, fraction: int = 0) -> torch.Tensor:
        """The integers nearest to ``values`` * 2 ** -``fraction``, float64.

        AP_RND: halves are rounded up. AP_SAT: values out of range become the nearest bound.
        """
        scaled = values.double() * 2.0 ** (self.fraction - fraction)
        return (scaled + 0.5).floor().clamp(self.lowest, self.highest)

    def reals(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` rounded to this format, float64."""
        return self.of(values) * 2.0**-self.fraction


@dataclass(frozen=True)
class FixedLayer:
    """A layer of the chain whose weight and bias are reals that the formats hold exactly.

    The bias has the fraction of the products. ``output``: the format that activations are rounded
    to; None for the last layer, whose sums are the logits.
    """

    layer: Layer
    weight: FixedPoint | None = None
    bias: FixedPoint | None = None
    output: FixedPoint | None = None


@dataclass(frozen=True)
class FixedChain:
    """``shape`` (C, H, W) of the 8-bit image; ``width``: bits of weights and activations."""

    shape: tuple[int, int, int]
    width: int
    layers: tuple[FixedLayer, ...]

    def logits(self, pixels: np.ndarray, batch_size: int) -> np.ndarray:
        """(N, 3, 32, 32) uint8 -> (N, classes) float64, exact."""
        starts = range(0, len(pixels), batch_size)
        found = [self._logits(pixels[start : start + batch_size]) for start in starts]
        return torch.cat(found).numpy()

    def _logits(self, pixels: np.ndarray) -> torch.Tensor:
        values, fraction = torch.from_numpy(pixels).double(), 0
        for fixed in self.layers:
            values = applied(fixed.layer, values, fixed.weight, fraction)
            fraction += fixed.weight.fraction if fixed.weight else 0
            if fixed.output:
                values, fraction = fixed.output.of(values, fraction), fixed.output.fraction
        return values.flatten(1) * 2.0**-fraction


def applied(
    layer: Layer, values: torch.Tensor, weight: FixedPoint | None = None, fraction: int = 0
) -> torch.Tensor:
    """A layer's output for reals or, with the format of its weight, for integers.

    ``fraction``: of the integers ``values``; the result's is larger by the weight's fraction.
    """
    if layer.weight is None:
        return functional.max_pool2d(values, layer.kernel, layer.stride)
    bits = weight.fraction if weight else 0
    filters = torch.tensor(layer.weight, dtype=values.dtype) * 2.0**bits
    sums = sums_of(layer, values, filters)
    if layer.bias is not None:
        bias = torch.tensor(layer.bias, dtype=values.dtype) * 2.0 ** (bits + fraction)
        sums = sums + bias.reshape(-1, 1, 1)
    return sums.clamp(min=0) if layer.activation else sums


def sums_of(layer: Layer, values: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    if layer.kind == "linear":
        return functional.linear(values.flatten(1), filters)[:, :, None, None]
    return functional.conv2d(values, filters, stride=layer.stride, padding=layer.pads[:2])


def real_activations(chain: Chain, pixels: np.ndarray) -> list[torch.Tensor]:
    """The output of every layer, (N, C, H, W) float32, for pixels (N, 3, 32, 32) uint8."""
    values, found = torch.from_numpy(pixels).float(), []
    for layer in chain.layers:
        values = applied(layer, values)
        found.append(values)
    return found


def real_logits(chain: Chain, pixels: np.ndarray, batch_size: int) -> np.ndarray:
    """(N, classes) float32, without rounding to fixed point."""
    starts = range(0, len(pixels), batch_size)
    found = [real_activations(chain, pixels[start : start + batch_size])[-1] for start in starts]
    return torch.cat(found).flatten(1).numpy()


def fixed_chain(
    chain: Chain, activations: list[torch.Tensor], width: int, first_width: int
) -> FixedChain:
    """The chain in ``width`` bits, the weights of its first layer in ``first_width``.

    ``activations``: the output of every layer for the images on which the formats are chosen.
    """
    layers, fraction, largest = [], 0, PIXEL
    for index, (layer, values) in enumerate(zip(chain.layers, activations, strict=True)):
        if layer.weight is None:
            layers.append(FixedLayer(layer))
            continue
        bits = width if index else max(width, first_width)
        weight = nearest_format(torch.tensor(layer.weight), bits, signed=True)
        last = index == len(chain.layers) - 1
        output = None if last else nearest_format(values, width, signed=not layer.activation)
        layers.append(fixed_layer(layer, weight, output, fraction + weight.fraction))
        bound = largest_sum(layers[-1], largest, fraction + weight.fraction)
        assert bound < EXACT, f"a float64 does not hold sums up to {bound:.3g}"
        if output:
            fraction, largest = output.fraction, max(output.highest, -output.lowest)
    return FixedChain(chain.shape, width, tuple(layers))


def fixed_layer(
    layer: Layer, weight: FixedPoint, output: FixedPoint | None, fraction: int
) -> FixedLayer:
    """The layer with weight and bias rounded; ``fraction``: of its products and its bias."""
    rounded = replace(layer, weight=weight.reals(torch.tensor(layer.weight)).float().numpy())
    if layer.bias is None:
        return FixedLayer(rounded, weight, None, output)
    integers = np.floor(layer.bias.astype(np.float64) * 2.0**fraction + 0.5)
    width = int(np.abs(integers).max()).bit_length() + 1
    bias = (integers * 2.0**-fraction).astype(np.float32)
    form = FixedPoint(width, width - fraction, signed=True)
    return FixedLayer(replace(rounded, bias=bias), weight, form, output)


def largest_sum(fixed: FixedLayer, largest: int, fraction: int) -> float:
    """The bound of any partial sum of the layer's integers, for inputs up to ``largest``."""
    assert fixed.weight is not None, f"a {fixed.layer.kind} has no sums"
    assert fixed.layer.weight is not None, "a format belongs to a weight"
    weight = np.abs(fixed.layer.weight.astype(np.float64)) * 2.0**fixed.weight.fraction
    sums = weight.reshape(len(weight), -1).sum(axis=1) * largest
    if fixed.layer.bias is not None:
        sums += np.abs(fixed.layer.bias.astype(np.float64)) * 2.0**fraction
    return float(sums.max())


def nearest_format(values: torch.Tensor, width: int, signed: bool) -> FixedPoint:
    """The format of ``width`` bits with the least squared error on ``values``.

    Fewer bits before the point round finer, and saturate more.
    """
    widest = holding(float(values.abs().max()), width, signed)
    forms = [replace(widest, integer=widest.integer - fewer) for fewer in range(CANDIDATES)]
    reals = values.double()
    return min(forms, key=lambda form: float((form.reals(reals) - reals).square().sum()))


def holding(largest: float, width: int, signed: bool) -> FixedPoint:
    """The finest format that holds ``largest``."""
    assert largest > 0, "a range of zero width has no format"
    integer = math.floor(math.log2(largest)) + 1 + signed  # 2 ** (integer - signed) > largest
    form = FixedPoint(width, integer, signed)
    if math.floor(largest * 2.0**form.fraction + 0.5) > form.highest:
        return replace(form, integer=integer + 1)
    return form

"""Multipliers, memory and cycles of hls4ml's designs, by reuse factor.

From the rules of hls4ml 1.3.0 for io_stream and the strategy Resource. A layer has a matrix of
n_in (kernel height * width * input channels) by n_out weights, and uses it once for each position
of its output (the linear layer: once). With the reuse factor r it has n_in * n_out / r multipliers
("block_factor" in nnet_utils/nnet_dense_resource.h), which take r cycles a position and read as
many weights at once from a memory of r words. Not every r is allowed
(FPGABackend._validate_reuse_factor); hls4ml takes the nearest one that is.

The cycles are the fewest that the C++ asks for: a convolution's loop takes one for each pixel it
reads, padding included, and r for a pixel that completes a position. All layers work at once, so
the slowest one determines the cycles between two images. No synthesis has confirmed this.
"""

import math
from dataclasses import dataclass

from stages.hardware.hls_design.fixed_point import FixedChain, FixedLayer


@dataclass(frozen=True)
class Matrix:
    """A layer's weights as hls4ml's matrix; ``reads``: the pixels that the layer reads."""

    inputs: int
    outputs: int
    weight_bits: int  # of one weight
    positions: int = 1
    reads: int = 1

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


def cost_of(chain: FixedChain, reuse_factor: int) -> dict:
    """The whole network's cost; every layer gets the nearest allowed reuse factor."""
    matrices = matrices_of(chain)
    factors = [allowed_reuse_factor(matrix, reuse_factor) for matrix in matrices]
    multipliers = [m.weights // factor for m, factor in zip(matrices, factors, strict=True)]
    each = list(zip(matrices, multipliers, strict=True))
    return {
        "reuse_factor_low": min(factors),
        "reuse_factor_high": max(factors),
        "multipliers": sum(multipliers),
        "weight_bits": sum(matrix.weights * matrix.weight_bits for matrix in matrices),
        "weight_bits_a_cycle": sum(count * matrix.weight_bits for matrix, count in each),
        "estimated_cycles_an_image": max(
            least_cycles(matrix, factor) for matrix, factor in zip(matrices, factors, strict=True)
        ),
    }


def matrices_of(chain: FixedChain) -> list[Matrix]:
    """The matrices of the layers with weights, in order."""
    found, height_width = [], chain.shape[1:]
    for fixed in chain.layers:
        if fixed.weight is not None:
            found.append(matrix_of(fixed, height_width))
        height_width = fixed.layer.shape[1:]
    return found


def matrix_of(fixed: FixedLayer, height_width: tuple[int, int]) -> Matrix:
    """``height_width``: of the layer's input."""
    layer = fixed.layer
    assert layer.weight is not None, f"a {layer.kind} has no matrix"
    assert fixed.weight is not None, "a weight has a format"
    outputs, bits = len(layer.weight), fixed.weight.width
    inputs = layer.weight.size // outputs
    if layer.kind == "linear":
        return Matrix(inputs, outputs, bits)
    top, left, bottom, right = layer.pads
    reads = (height_width[0] + top + bottom) * (height_width[1] + left + right)
    return Matrix(inputs, outputs, bits, math.prod(layer.shape[1:]), reads)


def least_cycles(matrix: Matrix, factor: int) -> int:
    return matrix.reads - matrix.positions + matrix.positions * factor


def allowed_reuse_factor(matrix: Matrix, wanted: int) -> int:
    """The nearest reuse factor that hls4ml allows; of two equally near ones, the smaller."""
    return min(allowed_reuse_factors(matrix), key=lambda factor: (abs(factor - wanted), factor))


def allowed_reuse_factors(matrix: Matrix) -> list[int]:
    """Divisors of the number of weights: below n_in, divisors of n_in; above, its multiples."""
    return [
        factor
        for factor in range(1, matrix.weights + 1)
        if matrix.weights % factor == 0
        and (matrix.inputs % factor == 0 if factor < matrix.inputs else factor % matrix.inputs == 0)
    ]

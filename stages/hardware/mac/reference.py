"""Inputs for a multiply-accumulate, and the sums that it must give, by numpy and exact arithmetic.

A stimulus is an integer array (steps, 3): clear, a, b, the last two as bit patterns. The sum after
a step is (0 if clear else the sum before) + a * b.
"""

import itertools
import math

import numpy as np

FP32_MAX = float(np.finfo(np.float32).max)
FP32_TINY = float(np.finfo(np.float32).tiny)  # 2^-126, the smallest that is not subnormal
NAN = 0x7FC00000
ONE = 0x3F800000
FP32_CORNERS = (  # with both signs
    0x00000000,  # 0
    0x00000001,  # the smallest subnormal: taken as 0
    0x007FFFFF,  # the largest subnormal: taken as 0
    0x00800000,  # 2^-126
    0x1F800000,  # 2^-64: its square is below 2^-126
    0x1FFFFFFF,  # nearly 2^-63: its square is just below 2^-126
    0x34000000,  # 2^-23
    0x33800001,  # just above half a unit of 1
    0x3F7FFFFF,  # just below 1
    0x3F800000,  # 1
    0x3F800001,  # just above 1
    0x4B7FFFFF,  # 2^24 - 1
    0x5F7FFFFF,  # nearly 2^64: its square is just below 2^128
    0x7F7FFFFF,  # the largest
    0x7F800000,  # infinity
    0x7F800001,  # a signalling NaN
)


def int_stimulus(width: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """All pairs of corner values, first each alone, then summed; then runs of random values."""
    low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
    corners = list(itertools.product((low, low + 1, -1, 0, 1, high - 1, high), repeat=2))
    pairs = np.array([*corners, *corners])
    clear = np.arange(len(pairs)) < len(corners)
    random = rng.integers(low, high, size=(count, 2), endpoint=True)
    operands = np.concatenate([pairs, random]) % 2**width
    return np.column_stack([np.concatenate([clear, rng.random(count) < 1 / 16]), operands])


def int_sums(stimulus: np.ndarray, width: int, sum_width: int) -> np.ndarray:
    """The bit pattern of the sum after each step."""
    a, b = (signed(column, width) for column in stimulus.T[1:])
    total, sums = 0, []
    for clear, product in zip(stimulus[:, 0].tolist(), (a * b).tolist(), strict=True):
        total = (0 if clear else total) + product
        sums.append(total)
    return np.array(sums) % 2**sum_width


def signed(patterns: np.ndarray, width: int) -> np.ndarray:
    return (patterns + 2 ** (width - 1)) % 2**width - 2 ** (width - 1)


def fp32_stimulus(count: int, rng: np.random.Generator) -> np.ndarray:
    """Each c + a * b is two steps: c * 1 into a cleared sum, then a * b.

    Triples are all corner values, positive and with random signs; ``count`` of any bit patterns, of
    numbers near 1, and of sums that nearly cancel. Then runs of random numbers, as in dot products.
    """
    corners = np.array(FP32_CORNERS)
    triples = np.array(list(itertools.product(corners, repeat=3)))
    signs = rng.integers(0, 2, size=triples.shape) << 31
    anything = rng.integers(0, 2**32, size=(count, 3))
    near_one = bits(rng.normal(size=(count, 3)) * 2.0 ** rng.integers(-12, 13, size=(count, 3)))
    cancelling = near_one.copy()
    product = values(near_one[:, 1]) * values(near_one[:, 2])
    cancelling[:, 0] = (bits(-product) + rng.integers(-2, 3, size=count)) % 2**32
    checks = np.concatenate([triples, triples ^ signs, anything, near_one, cancelling])
    steps = np.empty((len(checks), 2, 3), np.int64)
    steps[:, 0, 0], steps[:, 0, 1], steps[:, 0, 2] = 1, checks[:, 0], ONE
    steps[:, 1, 0], steps[:, 1, 1:] = 0, checks[:, 1:]
    runs = np.column_stack([rng.random(count) < 1 / 64, bits(rng.normal(size=(count, 2)))])
    return np.concatenate([steps.reshape(-1, 3), runs]).astype(np.int64)


def fp32_sums(stimulus: np.ndarray) -> np.ndarray:
    """The bit pattern of the sum after each step; product and sum are rounded, subnormals are 0."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        a, b = (values(column).astype(float).tolist() for column in stimulus.T[1:])
    total, sums = 0.0, []
    for clear, left, right in zip(stimulus[:, 0].tolist(), a, b, strict=True):
        product = rounded(flushed(left) * flushed(right))
        total = rounded((0.0 if clear else total) + product)
        sums.append(total)
    patterns = bits(np.array(sums))
    return np.where(np.isnan(sums), NAN, patterns)


def rounded(exact: float) -> float:
    """Round to 24 bits, ties to even; beyond fp32's exponents to infinity or 0.

    ``exact`` is a float64 product or sum of two float32. A product is exact. A sum may be rounded
    to 53 bits, and rounding it again gives the same as rounding once, because 53 >= 2 * 24 + 2
    (Figueroa, "When is double rounding innocuous?", 1995).
    """
    if exact == 0 or not math.isfinite(exact):
        return exact
    digits, exponent = math.frexp(exact)
    value = math.ldexp(float(np.float32(digits)), exponent)
    if abs(value) > FP32_MAX:
        return math.copysign(math.inf, exact)
    return flushed(value)


def flushed(value: float) -> float:
    return math.copysign(0.0, value) if abs(value) < FP32_TINY else value


def values(patterns: np.ndarray) -> np.ndarray:
    """The float32 numbers of bit patterns."""
    return patterns.astype(np.uint32).view(np.float32)


def bits(reals: np.ndarray) -> np.ndarray:
    """The bit patterns of the nearest float32 numbers."""
    return reals.astype(np.float32).view(np.uint32).astype(np.int64)

"""GPTQ: round a convolution's weights to integers so that its outputs change least.

Rounding each weight to the nearest integer does not do that: where inputs are correlated, the
errors of their weights add up. The whitening layer is an extreme case. Its filters for directions
in which neighbouring pixels hardly differ have large weights that cancel out, so that the rounding
errors are as large as the filter's output.

GPTQ (Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
transformers", ICLR 2023, section 3) rounds one weight after another and corrects the error in those
that are not rounded yet. The mean of the remaining error goes into the bias (Nagel et al.,
"Data-free quantization through weight equalization and bias correction", ICCV 2019).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

DAMPING = 1e-6  # of the mean variance; keeps the covariance of inputs that repeat invertible


def patches_of(pixels: np.ndarray, kernel: tuple[int, int]) -> np.ndarray:
    """(N, C, H, W) -> (positions, C * kH * kW) float64: the inputs of an unpadded convolution."""
    windows = sliding_window_view(pixels, kernel, axis=(2, 3))  # (N, C, H', W', kH, kW)
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, pixels.shape[1] * np.prod(kernel)) * 1.0


def round_filters(
    filters: np.ndarray, bias: np.ndarray, patches: np.ndarray, levels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rounded filters (O, C, kH, kW) and corrected bias (O,), float32; ``patches``: ``patches_of``.

    Each filter's weights become multiples of its largest magnitude / ``levels``, and that largest
    weight stays: a quantizer with one symmetric scale a filter finds the same integers.
    """
    covariance = np.cov(patches, rowvar=False)
    covariance += DAMPING * covariance.diagonal().mean() * np.eye(len(covariance))
    flat = filters.reshape(len(filters), -1).astype(np.float64)
    rounded = np.stack([round_weights(weights, covariance, levels) for weights in flat])
    shift = (rounded - flat) @ patches.mean(axis=0)
    return (
        rounded.reshape(filters.shape).astype(np.float32),
        (bias - shift).astype(np.float32),
    )


def round_weights(weights: np.ndarray, covariance: np.ndarray, levels: int) -> np.ndarray:
    """(n,) float64 -> multiples of max |w| / levels that keep (r - w)' covariance (r - w) small."""
    scale = np.abs(weights).max() / levels
    if scale == 0:
        return weights
    # The largest weight first (it has no error), then those whose inputs vary most.
    order = np.lexsort((-covariance.diagonal(), np.abs(weights) < levels * scale))
    remaining = weights[order].copy()
    rounded = np.empty_like(remaining)
    inverse = np.linalg.inv(covariance[np.ix_(order, order)])
    factor = np.linalg.cholesky(inverse).T  # upper: inverse = factor' factor
    for index, row in enumerate(factor):
        integer = np.clip(np.round(remaining[index] / scale), -levels, levels)
        rounded[index] = integer * scale
        error = (remaining[index] - rounded[index]) / row[index]
        remaining[index:] -= error * row[index:]
    result = np.empty_like(rounded)
    result[order] = rounded
    return result

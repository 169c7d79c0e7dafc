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
MOST_VALUES = 2**25  # of patches, 256 MB


def patches_of(
    pixels: np.ndarray,
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    mean: float = 0,
) -> np.ndarray:
    """The inputs of a convolution of ``pixels - mean``, padded with zeros at top, left, bottom and
    right: (N, C, H, W) -> (positions, C * kH * kW) float64.

    Of so many images, from the first, as make MOST_VALUES or fewer, and of one at least.
    """
    top, left, bottom, right = pads
    rows, columns = strides
    height = (pixels.shape[2] + top + bottom - kernel[0]) // rows + 1
    width = (pixels.shape[3] + left + right - kernel[1]) // columns + 1
    depth = pixels.shape[1] * int(np.prod(kernel))
    chosen = pixels[: max(1, MOST_VALUES // (height * width * depth))]
    if mean or any(pads):
        chosen = np.pad(chosen - np.float64(mean), ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(chosen, kernel, axis=(2, 3))[:, :, ::rows, ::columns]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, depth) * 1.0  # (N, H', W', C, kH, kW)


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

"""Whether a model is as often right as it is confident."""

import numpy as np


def confidence_of(logits: np.ndarray) -> np.ndarray:
    """Softmax's share of the highest of the logits (N, classes): (N,) float64 in (0, 1]."""
    distance = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return 1 / np.exp(distance).sum(axis=1)


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """The expected calibration error (ECE) in percent.

    Bin m of M holds the n_m of N predictions with a confidence in ((m - 1) / M, m / M]:

        ECE = sum over m of n_m / N |share right in m - mean confidence in m|

    ``confidence`` (N,) in (0, 1], ``right`` (N,) bool. Source: Guo, Pleiss, Sun and Weinberger, "On
    calibration of modern neural networks", ICML 2017, equation 3 (there M = 15).
    """
    bin_of = np.ceil(confidence * bins).astype(np.int64) - 1
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return 100 * float(np.abs(gaps).sum()) / len(confidence)

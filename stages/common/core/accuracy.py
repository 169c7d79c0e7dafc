"""One accuracy for every runtime, so that figures compare."""

import math

import numpy as np


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of right predictions, in percent; both arrays (N,) of class indices."""
    return 100.0 * int(np.count_nonzero(predictions == labels)) / len(labels)


def class_accuracy(predictions: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict:
    """Share of right predictions, in percent, by name of each class that has images."""
    return {
        name: accuracy(predictions[labels == index], labels[labels == index])
        for index, name in enumerate(classes)
        if (labels == index).any()
    }


def sampling_error(percent: float, images: int) -> float:
    """Half the 95 % interval of an accuracy, in points: 1.96 sqrt(p (1 - p) / n)."""
    share = percent / 100
    return 196 * math.sqrt(share * (1 - share) / images)

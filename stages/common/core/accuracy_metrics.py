"""Accuracy on labelled images as metrics: as many decimals as the images carry, an interval where
they are few, and balanced accuracy where the classes are uneven.

Intervals are Clopper and Pearson's at 95 %, which are right however few the images are.
"""

import math

import numpy as np

from stages.common.core.accuracy import decimals_of, share_interval

FEW_IMAGES = 10_000  # below, one image moves an accuracy by more than its second decimal


def accuracy_metrics(predictions: np.ndarray, labels: np.ndarray, classes: int) -> dict:
    """In percent, of (N,) class indices: ``accuracy``; of few images its interval, the same key
    with _low and _high; where classes are uneven ``balanced_accuracy``, the mean over the classes
    that have images, with its interval.
    """
    right, images = class_counts(predictions, labels, classes)
    metrics = share_metrics("accuracy", int(right.sum()), int(images.sum()), len(labels))
    if is_uneven(images):
        present = images > 0
        metrics |= balanced_metrics(right[present], images[present])
    return metrics


def class_metrics(predictions: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict:
    """``class_accuracy``, the share of right predictions among the images of each class (its
    recall) in percent, by the name of each class that has images; of few images its interval;
    where classes are uneven ``class_images``, their numbers.
    """
    right, images = class_counts(predictions, labels, len(classes))
    by_class = {
        name: share_metrics("class_accuracy", int(hits), int(count), len(labels))
        for name, hits, count in zip(classes, right, images, strict=True)
        if count
    }
    keys = next(iter(by_class.values()))
    metrics: dict = {key: {name: each[key] for name, each in by_class.items()} for key in keys}
    if is_uneven(images):
        metrics["class_images"] = dict(zip(classes, images.tolist(), strict=True))
    return metrics


def class_counts(
    predictions: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Right predictions and images, each (classes,)."""
    right = np.bincount(labels[predictions == labels], minlength=classes)
    return right, np.bincount(labels, minlength=classes)


def is_uneven(images: np.ndarray) -> bool:
    return bool(images.min() < images.max())


def share_metrics(key: str, right: int, images: int, all_images: int) -> dict:
    """A share in percent, and its interval where ``all_images``, the whole split, are few."""
    decimals = decimals_of(images)
    metrics = {key: round(100.0 * right / images, decimals)}
    if all_images < FEW_IMAGES:
        low, high = share_interval(right, images)
        metrics[f"{key}_low"] = round(100 * low, decimals)
        metrics[f"{key}_high"] = round(100 * high, decimals)
    return metrics


def balanced_metrics(right: np.ndarray, images: np.ndarray) -> dict:
    """The mean of the classes' recalls in percent; both (classes,), every class with images.

    Its interval recovers the variance of each recall from that recall's own interval (MOVER):
    lower limit = mean - sqrt(sum((recall - low)^2)) / classes, and so the upper one.
    Source: Zou, Huang and Zhang, "A note on confidence interval estimation for a linear function of
    binomial proportions", Computational Statistics & Data Analysis 53, 2009.
    """
    decimals = decimals_of(int(images.sum()))
    recalls = right / images
    mean = float(recalls.mean())
    metrics = {"balanced_accuracy": round(100 * mean, decimals)}
    if images.sum() < FEW_IMAGES:
        intervals = [share_interval(int(n), int(of)) for n, of in zip(right, images, strict=True)]
        lows, highs = np.array(intervals).T
        below, above = (math.hypot(*distances) for distances in (recalls - lows, highs - recalls))
        metrics["balanced_accuracy_low"] = round(100 * (mean - below / len(recalls)), decimals)
        metrics["balanced_accuracy_high"] = round(100 * (mean + above / len(recalls)), decimals)
    return metrics

"""Accuracy as metrics: decimals, intervals and uneven classes, against figures of textbooks."""

import numpy as np
import pytest

from stages.common.core.accuracy import decimals_of, percent_text, points_text
from stages.common.core.accuracy_metrics import (
    accuracy_metrics,
    balanced_metrics,
    class_metrics,
)


def even(images: int, wrong: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, the first ``wrong`` of them wrong, and labels, the classes in turn."""
    labels = np.arange(images) % classes
    return np.where(np.arange(images) < wrong, (labels + 1) % classes, labels), labels


@pytest.mark.parametrize(
    ("images", "decimals"), [(1, 0), (20, 0), (100, 0), (101, 1), (1000, 1), (1001, 2), (10**6, 2)]
)
def test_as_many_decimals_as_one_image_more_or_less_changes(images, decimals):
    assert decimals_of(images) == decimals
    assert percent_text(100 / 3, images) == f"{100 / 3:.{decimals}f} %"


@pytest.mark.parametrize(
    ("points", "images", "text"),
    [(-0.12, 2500, "-0.12"), (0.5, 2500, "+0.5"), (-2.04, 49, "-2"), (-0.0, 49, "+0")],
)
def test_a_change_of_accuracy_has_no_more_decimals_than_the_images_carry(points, images, text):
    assert points_text(points, images) == f"{text} points"


def test_ten_thousand_images_of_even_classes_have_two_decimals_and_no_more_keys():
    predictions, labels = even(10_000, wrong=577)
    assert accuracy_metrics(predictions, labels, 2) == {"accuracy": 94.23}
    assert list(class_metrics(predictions, labels, ("a", "b"))) == ["class_accuracy"]


def test_few_images_have_clopper_and_pearsons_interval():
    """18 of 20: 68.3 to 98.8 %, as in any table of the exact interval."""
    metrics = accuracy_metrics(*even(20, wrong=2), 2)
    assert metrics == {"accuracy": 90.0, "accuracy_low": 68.0, "accuracy_high": 99.0}
    assert accuracy_metrics(*even(20, wrong=0), 2)["accuracy_low"] == 83.0
    of_class = class_metrics(*even(20, wrong=2), ("a", "b"))
    assert of_class["class_accuracy"] == {"a": 90.0, "b": 90.0}
    assert of_class["class_accuracy_low"] == {"a": 55.0, "b": 55.0}  # 9 of 10
    assert of_class["class_accuracy_high"] == {"a": 100.0, "b": 100.0}


def test_a_class_without_images_counts_in_no_mean_and_is_said():
    labels = np.array([0] * 15 + [1] * 5)
    predictions = np.zeros(20, np.int64)
    metrics = accuracy_metrics(predictions, labels, 3)
    assert (metrics["accuracy"], metrics["balanced_accuracy"]) == (75.0, 50.0)
    of_class = class_metrics(predictions, labels, ("a", "b", "c"))
    assert of_class["class_accuracy"] == {"a": 100.0, "b": 0.0}
    assert of_class["class_images"] == {"a": 15, "b": 5, "c": 0}


def test_the_interval_of_a_balanced_accuracy_covers_the_true_one_in_19_of_20_tries():
    rng = np.random.default_rng(0)
    images, shares = np.array([5, 50]), np.array([0.6, 0.95])
    found = [balanced_metrics(rng.binomial(images, shares), images) for _ in range(300)]
    covered = [
        each["balanced_accuracy_low"] <= 77.5 <= each["balanced_accuracy_high"] for each in found
    ]
    assert np.mean(covered) >= 0.95


def test_all_right_and_all_wrong_stay_within_0_and_100():
    for right in (0, 3):
        metrics = balanced_metrics(np.array([right, right]), np.array([3, 3]))
        assert 0 <= metrics["balanced_accuracy_low"] <= metrics["balanced_accuracy_high"] <= 100

"""Corrupted images: what each change does to pixels, and that it is the same every time."""

import colorsys

import numpy as np
import pytest

from stages.card.corrupted_images.corruptions import (
    blurred,
    brighter,
    corrupted,
    corruptions,
    jpeg,
    noisy,
)
from stages.card.params import RobustnessParams
from tests.conftest import make_images

PARAMS = RobustnessParams(
    jpeg_quality=75, noise=0.08, blur=0.7, brightness=0.15, seed=0, calibration_bins=15
)
IMAGES = make_images(20).pixels


@pytest.mark.parametrize("kind", ["jpeg", "noise", "blur", "brightness"])
def test_every_kind_changes_images_the_same_way_each_time(kind):
    before = IMAGES.copy()
    found = corrupted(IMAGES, corruptions(PARAMS)[kind])

    assert (found.shape, found.dtype) == (IMAGES.shape, np.uint8)
    assert all((one != other).any() for one, other in zip(found, IMAGES, strict=True))
    assert np.array_equal(found, corrupted(IMAGES, corruptions(PARAMS)[kind]))
    assert np.array_equal(IMAGES, before)


def test_an_images_noise_depends_on_the_seed_and_its_place_alone():
    noise = corruptions(PARAMS)["noise"]
    assert np.array_equal(corrupted(IMAGES, noise)[:3], corrupted(IMAGES[:3], noise))
    grey = np.full((3, 32, 32), 128, np.uint8)
    assert (noise(grey, 0) != noise(grey, 1)).any()
    assert (noisy(grey, 0.08, [1, 0]) != noise(grey, 0)).any()


def test_noise_has_the_deviation_asked_for_and_leaves_the_mean():
    grey = np.full((3, 200, 200), 128, np.uint8)
    found = noisy(grey, 0.08, [0, 0])
    assert found.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert found.mean() == pytest.approx(128, abs=0.3)


def test_noise_at_the_ends_of_the_range_stays_within_it():
    white = np.full((3, 32, 32), 255, np.uint8)
    found = noisy(white, 0.1, [0, 0])
    assert found.max() == 255
    assert found.min() > 100


def test_brighter_adds_to_the_value_of_hsv_and_keeps_the_hue():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, size=(3, 8, 8), dtype=np.uint8)
    image[:, 0, 0], image[:, 0, 1] = 0, 255  # black becomes grey, white stays
    found = brighter(image, 0.15)
    for before, after in zip(image.reshape(3, -1).T, found.reshape(3, -1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1))
        np.testing.assert_allclose(after, 255 * np.array(expected), atol=0.51)


def test_below_0_an_image_becomes_darker():
    assert brighter(IMAGES[0], -0.2).mean() < IMAGES[0].mean() - 20


def test_a_blur_spreads_a_point_as_a_gaussian_does_and_a_plain_image_stays():
    point = np.zeros((3, 33, 33), np.uint8)
    point[0, 16, 16] = 255
    found = blurred(point, 0.7)
    profile = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 0.7**2))
    profile /= profile.sum()
    np.testing.assert_allclose(found[0, 16, 13:20], 255 * profile[3] * profile, atol=1.5)
    assert not found[1:].any()
    plain = np.full((3, 32, 32), 77, np.uint8)
    assert np.array_equal(blurred(plain, 3), plain)


def test_jpeg_loses_more_at_a_lower_quality_and_keeps_the_colours_apart():
    red = np.zeros((3, 32, 32), np.uint8)
    red[0] = 200
    assert np.abs(jpeg(red, 75).astype(int) - red).max() < 6

    def loss(quality: int) -> float:
        return float(np.abs(jpeg(IMAGES[0], quality).astype(int) - IMAGES[0]).mean())

    assert 0 < loss(95) < loss(75) < loss(20)


def test_photos_of_another_shape_are_corrupted_at_that_shape():
    image = np.random.default_rng(0).integers(0, 256, size=(2, 3, 40, 56), dtype=np.uint8)
    for corrupt in corruptions(PARAMS).values():
        assert corrupted(image, corrupt).shape == image.shape

"""Views and mixtures: what changes in an image, and that nothing else does."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import PIXEL_MEAN
from stages.common.data.dataset import CIFAR10, Images
from stages.common.training.augmentation import (
    Augmenter,
    balanced,
    enlarged,
    generator,
    random_boxes,
    random_factors,
    recoloured,
    shuffled,
)
from stages.common.training.context import evaluation_batch
from stages.common.training.params import Augmentation, refuse_large_augmentation
from tests.conftest import make_images
from tests.networks import RECIPE

NONE = Augmentation(translate=0, cutout=0)


def md5(pixels: Tensor) -> str:
    return hashlib.md5(pixels.contiguous().numpy().tobytes()).hexdigest()


def gradient(height: int, width: int, count: int = 1) -> Tensor:
    """Images (count, 3, H, W) float32: red rises by 1 a column, green by 1 a row, blue is 50."""
    rows, columns = torch.arange(float(height)), torch.arange(float(width))
    green, red = torch.meshgrid(rows, columns, indexing="ij")
    image = torch.stack([red, green, torch.full_like(red, 50)])
    return image.expand(count, 3, height, width).contiguous()


# ------------------------------------------------------------------------- shifts, flips, cutout


def test_views_and_mixtures_keep_the_bits_that_published_models_were_trained_on():
    augmenter = Augmenter(
        torch.from_numpy(make_images(60).pixels), CIFAR10, Augmentation(4, 8), seed=3
    )
    assert md5(augmenter.view(0)) == "93f58135c0d9b1d7d587bd0a154dbe03"
    assert md5(augmenter.view(5)) == "72f7a77a756b352811ccc6cbbd4561df"
    assert md5(augmenter.mixture(0).pixels) == "5e99c5e6f2116f1d1c90ae2adfc0b135"
    assert md5(augmenter.mixture(3).pixels) == "1a05373b0be91e62e1a9016f59258553"
    assert md5(augmenter.mixture(3).shares) == "41fca4ec037141df1fe0e8ca6a8ef8e9"


@pytest.mark.parametrize(
    "augmentation", [NONE, Augmentation(2, 8), Augmentation(1, 4, crop_scale=0.5, colour=0.3)]
)
def test_images_need_not_be_square_and_stay_as_they_are(augmentation):
    pixels = gradient(24, 40, count=9).byte()
    before = pixels.clone()
    augmenter = Augmenter(pixels, CIFAR10, augmentation, seed=0)
    mixtures = [augmenter.mixture(number) for number in (0, 2)]
    for made in (augmenter.view(0), *(mixture.pixels for mixture in mixtures)):
        assert made.shape == pixels.shape
        assert made.dtype == torch.uint8
    assert torch.equal(pixels, before)
    assert torch.equal(augmenter.view(0), Augmenter(pixels, CIFAR10, augmentation, 0).view(0))


def test_the_other_image_covers_the_share_of_a_wide_mixture_that_its_labels_say():
    pixels = torch.arange(20, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 24, 40)
    info = dataclasses.replace(CIFAR10, flip=False)
    mixture = Augmenter(pixels.contiguous(), info, NONE, seed=0).mixture(2)
    own = (mixture.pixels[:, 0] == pixels[:, 0]).float().mean(dim=(1, 2))
    changed = mixture.partners != torch.arange(20)
    assert torch.allclose(own[changed], mixture.shares[changed])


def test_every_augmented_image_is_its_original_shifted_and_perhaps_flipped():
    pixels = torch.from_numpy(make_images(30).pixels)
    augmented = Augmenter(pixels, CIFAR10, Augmentation(2, 0), seed=0).view(0)
    padded = torch.nn.functional.pad(pixels.float(), (2,) * 4, mode="reflect").byte()
    for index in range(30):
        views = {
            bytes(view.contiguous().numpy().tobytes())
            for y in range(5)
            for x in range(5)
            for crop in [padded[index, :, y : y + 32, x : x + 32]]
            for view in (crop, crop.flip(-1))
        }
        assert augmented[index].contiguous().numpy().tobytes() in views


def test_cutout_blanks_one_square_of_every_image_and_leaves_the_rest():
    pixels = torch.from_numpy(make_images(60).pixels).clamp(min=1, max=100)
    views = [Augmenter(pixels, CIFAR10, Augmentation(0, c), seed=0).view(0) for c in (0, 8)]
    changed = (views[0] != views[1]).any(1)  # (60, 32, 32)
    blank = torch.tensor([round(value) for value in PIXEL_MEAN], dtype=torch.uint8)
    for index, square in enumerate(changed):
        rows, columns = square.any(1).nonzero(), square.any(0).nonzero()
        box = square[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all()
        assert 4 <= min(box.shape) <= max(box.shape) <= 8  # a square reaches over the border
        assert (blank == views[1][index][:, square].T).all()
    assert len({bytes(square.numpy().tobytes()) for square in changed}) > 50


def test_no_image_is_flipped_where_a_mirror_image_is_not_of_its_class():
    pixels = torch.from_numpy(make_images(40).pixels)
    info = dataclasses.replace(CIFAR10, flip=False)
    augmenter = Augmenter(pixels, info, NONE, seed=0)
    assert all(torch.equal(augmenter.view(number), pixels) for number in (0, 1))


def test_every_image_is_flipped_in_exactly_one_of_two_views():
    pixels = torch.from_numpy(make_images(40).pixels)
    augmenter = Augmenter(pixels, CIFAR10, NONE, seed=0)
    even, odd = ((augmenter.view(number) == pixels).flatten(1).all(1).tolist() for number in (0, 1))
    assert [one != other for one, other in zip(even, odd, strict=True)] == [True] * 40
    assert 5 < sum(even) < 35


# -------------------------------------------------------------------------- random resized crop


@pytest.mark.parametrize("crop_scale", [0.08, 0.35, 0.9])
def test_crops_keep_a_uniform_share_of_the_area_and_lie_in_the_image(crop_scale):
    boxes = random_boxes(5000, crop_scale, generator("crop"))
    top, left, height, width = boxes.unbind(1)
    area, ratio = height * width, width / height
    assert area.min() >= crop_scale - 1e-6
    assert area.mean() == pytest.approx((1 + crop_scale) / 2, abs=0.01)
    assert 3 / 4 - 1e-4 <= ratio.min() < 1 < ratio.max() <= 4 / 3 + 1e-4
    assert ratio.log().mean() == pytest.approx(0, abs=0.01)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6


def test_the_whole_image_as_box_is_the_image():
    pixels = torch.rand(2, 3, 20, 30)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4)
    assert torch.allclose(enlarged(pixels, whole), pixels, atol=1e-5)


def test_a_crop_is_enlarged_bilinearly():
    box = torch.tensor([[0.25, 0.5, 0.5, 0.25]])  # rows 10 to 30, columns 40 to 60
    red, green, blue = enlarged(gradient(40, 80), box)[0]
    assert torch.allclose(red[0], torch.linspace(39.625, 59.375, 80), atol=1e-3)
    assert torch.allclose(green[:, 0], torch.linspace(9.75, 29.25, 40), atol=1e-3)
    assert torch.allclose(blue, torch.tensor(50.0))


def test_every_image_of_a_view_is_cropped_in_its_own_way_and_in_every_view_in_another():
    noise = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8, generator=generator("noise"))
    pixels = noise.expand(12, 3, 32, 48).contiguous()
    info = dataclasses.replace(CIFAR10, flip=False)
    augmenter = Augmenter(pixels, info, Augmentation(0, 0, crop_scale=0.3), seed=0)
    views = torch.cat([augmenter.view(number) for number in (0, 1)])
    assert len({md5(view) for view in views}) == 24


# ----------------------------------------------------------------------------------------- colour


def test_factors_of_one_change_no_colour():
    pixels = torch.rand(4, 3, 8, 8) * 255
    assert torch.allclose(recoloured(pixels, torch.ones(4, 3)), pixels, atol=1e-3)


def test_brightness_multiplies_contrast_leaves_the_mean_and_saturation_the_luminance():
    pixels = torch.rand(3, 3, 8, 8) * 100 + 60
    factors = torch.tensor([[1.3, 1.0, 1.0], [1.0, 0.6, 1.0], [1.0, 1.0, 0.0]])
    bright, flat, grey = recoloured(pixels, factors)
    luminance = torch.einsum("c,nchw->nhw", torch.tensor([0.299, 0.587, 0.114]), pixels)
    assert torch.allclose(bright, 1.3 * pixels[0], atol=1e-3)
    assert torch.allclose(flat, 0.6 * pixels[1] + 0.4 * luminance[1].mean(), atol=1e-3)
    assert torch.allclose(grey, luminance[2].expand(3, 8, 8), atol=1e-3)


def test_colours_stay_in_range():
    pixels = torch.tensor([0.0, 255.0]).repeat(2, 3, 4, 2)
    colours = recoloured(pixels, torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]))
    assert (colours.min(), colours.max()) == (0, 255)
    assert (colours[1] == 0).all()


def test_factors_are_uniform_around_one():
    factors = random_factors(5000, 0.4, generator("colour"))
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    assert torch.allclose(factors.mean(0), torch.ones(3), atol=0.02)


# ----------------------------------------------------------------------------------------- params


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"translate": 17}, "recipe.translate is 17; allowed: at most 16, a quarter"),
        ({"cutout": 65}, "recipe.cutout is 65; allowed: at most 64, the shorter side"),
    ],
)
def test_what_is_too_large_for_the_images_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        refuse_large_augmentation(dataclasses.replace(RECIPE, **changes), [64, 80])


def test_a_recipe_gives_its_augmentation():
    recipe = dataclasses.replace(RECIPE, cutout=6, crop_scale=0.5, colour=0.2)
    assert recipe.augmentation() == Augmentation(2, 6, 0.5, 0.2)


# --------------------------------------------------------------------------------- order of images


def test_an_epoch_takes_every_image_once_in_its_own_order():
    orders = [shuffled(30, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_random_numbers_follow_from_their_key_alone():
    one, same, other = (
        torch.rand(4, generator=generator(*key)).tolist()
        for key in (("shift", 0, 1), ("shift", 0, 1), ("shift", 1, 0))
    )
    assert one == same != other


def test_balanced_sampling_draws_every_class_as_often():
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    drawn = torch.bincount(labels[balanced(labels, seed=0, epoch=0)])
    assert drawn.sum() == 1000
    assert (drawn - 333).abs().max() < 60
    assert not torch.equal(balanced(labels, 0, 0), balanced(labels, 0, 1))


# --------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("side", "batch"), [(28, 500), (32, 500), (96, 55), (224, 10), (1024, 1)])
def test_evaluation_takes_fewer_images_at_once_where_they_are_larger(side, batch):
    images = Images(np.zeros((1, 3, side, side), np.uint8), np.zeros(1, np.int64), CIFAR10)
    assert evaluation_batch(images) == batch

"""Test images as a small file, a bad sensor, a lens out of focus or bright light would give them.

Images come at the network's input size, photos after they were brought to it, and a change is made
there. Each function takes and returns one image, RGB (3, H, W) uint8.

Source of the kinds: Hendrycks and Dietterich, "Benchmarking neural network robustness to common
corruptions and perturbations", ICLR 2019. Their CIFAR-10-C (make_cifar_c.py of the authors'
repository hendrycks/robustness) has five strengths of each, for images of 32x32:

    JPEG quality                    80    65    58    50    40
    noise, standard deviation     0.04  0.06  0.08  0.09  0.10
    blur, standard deviation       0.4   0.6   0.7   0.8     1
    brightness                    0.05  0.10  0.15  0.20  0.30

and ImageNet-C, for 224x224: JPEG 25 18 15 10 7, noise 0.08 0.12 0.18 0.26 0.38, blur 1 2 3 4 6,
brightness 0.1 0.2 0.3 0.4 0.5. Here results are rounded to whole pixel values, there cut off.
"""

from collections.abc import Callable

import cv2
import numpy as np

from stages.card.params import RobustnessParams

Corruption = Callable[[np.ndarray, int], np.ndarray]  # of an image and its place among the images
REACH = 4  # of a blur, in standard deviations


def corruptions(params: RobustnessParams) -> dict[str, Corruption]:
    """By kind. The noise of an image depends on the seed and its place: all models see the same."""
    return {
        "jpeg": lambda image, _: jpeg(image, params.jpeg_quality),
        "noise": lambda image, place: noisy(image, params.noise, [params.seed, place]),
        "blur": lambda image, _: blurred(image, params.blur),
        "brightness": lambda image, _: brighter(image, params.brightness),
    }


def corrupted(pixels: np.ndarray, corrupt: Corruption) -> np.ndarray:
    """All images (N, 3, H, W) uint8."""
    found = np.empty_like(pixels)
    for place, image in enumerate(pixels):
        found[place] = corrupt(image, place)
    return found


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Through a JPEG file that holds colour at half the resolution (4:2:0), as cameras write it."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    bgr = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
    written, encoded = cv2.imencode(".jpg", bgr, settings)
    assert written
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_BGR)
    assert decoded is not None
    return decoded.transpose(2, 0, 1)[::-1]


def noisy(image: np.ndarray, deviation: float, seed: list[int]) -> np.ndarray:
    """Gaussian noise in every channel; ``deviation`` is a share of the pixels' range."""
    noise = np.random.default_rng(seed).normal(scale=255 * deviation, size=image.shape)
    return as_pixels(image + noise)


def blurred(image: np.ndarray, deviation: float) -> np.ndarray:
    """A Gaussian blur, ``deviation`` in pixels; what lies beyond the border is as the border."""
    side = 2 * int(REACH * deviation + 0.5) + 1
    planes = [
        cv2.GaussianBlur(plane, (side, side), deviation, borderType=cv2.BORDER_REPLICATE)
        for plane in image
    ]
    return np.stack(planes)


def brighter(image: np.ndarray, added: float) -> np.ndarray:
    """More value in HSV, the largest of red, green and blue, at the same hue and saturation."""
    value = image.max(axis=0) / 255
    wanted = np.clip(value + added, 0, 1)
    colours = image / np.maximum(255 * value, 1)  # of black: 0
    return as_pixels(255 * wanted * np.where(value > 0, colours, 1))


def as_pixels(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)

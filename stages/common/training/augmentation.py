"""Views and mixtures of all images, made in memory: an epoch's input in one tensor."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.data.dataset import DatasetInfo
from stages.common.training.params import Augmentation

FIRST_MIXED_VIEW = 200  # mixtures take the views from this number on: no teacher is trained on them
FLOAT_PIXELS = 2**18  # of so many at a time there are values in float32, which fit in the cache
STRETCH = 4 / 3  # of a crop's aspect ratio at most, as in torchvision's RandomResizedCrop
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Augmenter:
    """Numbered views of the pixels (N, 3, H, W) uint8; a view follows from seed and number.

    Alternating flip (cifar10-airbench): a random half of the images is flipped in even views,
    the other half in odd ones; none is where ``info.flip`` is false. Each image is shifted by up
    to ``translate`` pixels, its border reflected; a random part of it is enlarged
    (``crop_scale``); its colours are changed (``colour``); then a square of ``cutout`` pixels a
    side, its centre anywhere in the image, is filled with the mean colour (DeVries and Taylor,
    arXiv:1708.04552). See ``Augmentation`` for the values that leave each of them out.
    """

    def __init__(self, pixels: Tensor, info: DatasetInfo, augmentation: Augmentation, seed: int):
        self.info = info
        self.augmentation = augmentation
        self.seed = seed
        self.shape = (pixels.shape[2], pixels.shape[3])
        self.padded = reflected(pixels, augmentation.translate)  # (N, 3, H + 2t, W + 2t)
        self.flipped = torch.rand(len(pixels), generator=generator("flip", seed)) < 0.5

    def view(self, number: int) -> Tensor:
        """(N, 3, H, W) uint8, in the order of the images."""
        pixels = self.shifted(number)
        if self.info.flip:
            turned = (self.flipped ^ bool(number % 2)).nonzero().squeeze(1).to(pixels.device)
            pixels[turned] = pixels[turned].flip(-1)
        if self.augmentation.crop_scale < 1 or self.augmentation.colour:
            self.crop_and_recolour(pixels, number)
        if self.augmentation.cutout:
            self.cut_out(pixels, number)
        return pixels

    def shifted(self, number: int) -> Tensor:
        """The images (N, 3, H, W) uint8, each at its place in the padded one."""
        count, positions = len(self.padded), 2 * self.augmentation.translate + 1
        if positions == 1:
            return self.padded.clone()
        shifts = torch.randint(
            0, positions, (count, 2), generator=generator("shift", self.seed, number)
        )
        places = shifts[:, 0] * positions + shifts[:, 1]
        height, width = self.shape
        pixels = self.padded.new_empty(count, 3, height, width)
        for place in places.unique().tolist():
            y, x = divmod(place, positions)
            chosen = (places == place).nonzero().squeeze(1).to(pixels.device)
            pixels[chosen] = self.padded[chosen, :, y : y + height, x : x + width]
        return pixels

    def crop_and_recolour(self, pixels: Tensor, number: int) -> None:
        """Change the images (N, 3, H, W) uint8 in place, some at a time."""
        crop_scale, colour = self.augmentation.crop_scale, self.augmentation.colour
        boxes = random_boxes(len(pixels), crop_scale, generator("crop", self.seed, number))
        factors = random_factors(len(pixels), colour, generator("colour", self.seed, number))
        some = images_at_a_time(self.shape)
        parts = (each.to(pixels.device).split(some) for each in (pixels, boxes, factors))
        for part, box, factor in zip(*parts, strict=True):
            values = part.float()
            if crop_scale < 1:
                values = enlarged(values, box)
            if colour:
                values = recoloured(values, factor)
            part.copy_(values.round_())

    def cut_out(self, pixels: Tensor, number: int) -> None:
        """Fill one square of each image (N, 3, H, W) uint8, in place."""
        random = generator("cutout", self.seed, number)
        centres = random_centres(len(pixels), self.shape, random).to(pixels.device)
        square = rectangles(centres, self.augmentation.cutout, self.shape)
        for channel, mean in enumerate(self.info.mean):
            pixels[:, channel].masked_fill_(square, round(mean))

    def mixture(self, number: int) -> "Mixture":
        """A view with another image mixed into each of its images.

        Two mixtures are weighted means (mixup, arXiv:1710.09412), the next two have a rectangle of
        the other image (CutMix, arXiv:1905.04899), and so on; two, since every other view is
        mirrored. The share of the first image is uniform in [0, 1], except where the border cuts
        a rectangle.
        """
        pixels = self.view(FIRST_MIXED_VIEW + number)
        random = generator("mix", self.seed, number)
        partners = torch.randperm(len(pixels), generator=random).to(pixels.device)
        others = pixels[partners]
        shares = torch.rand(len(pixels), 1, 1, 1, generator=random).to(pixels.device)
        if number % 4 < 2:
            mixed = weighted_means(pixels, others, shares)
            return Mixture(mixed, partners, shares.flatten())
        centres = random_centres(len(pixels), self.shape, random).to(pixels.device)
        roots = (1 - shares.view(-1, 1)).sqrt()
        sides = torch.stack([side * roots for side in self.shape]).round().long()
        rectangle = rectangles(centres, sides, self.shape)
        mixed = torch.where(rectangle.unsqueeze(1), others, pixels)
        covered = rectangle.sum(dim=(1, 2)) / (self.shape[0] * self.shape[1])
        return Mixture(mixed, partners, 1 - covered)


@dataclass(frozen=True)
class Mixture:
    """Mixtures of two images each: pixels (N, 3, H, W) uint8, the index of the second image
    (N,) int64, and the share (N,) float32 of the first.
    """

    pixels: Tensor
    partners: Tensor
    shares: Tensor

    def labels(self, labels: Tensor, classes: int) -> Tensor:
        """Both images' labels, by share: (N, classes) float32, of labels (N,) int64."""
        first = F.one_hot(labels, classes).float()
        shares = self.shares.unsqueeze(1).to(labels.device)
        return shares * first + (1 - shares) * first[self.partners.to(labels.device)]


def reflected(pixels: Tensor, border: int) -> Tensor:
    """Pixels (N, 3, H, W) with a border of their mirror image; their edge is not repeated."""
    if border == 0:
        return pixels
    for dimension in (2, 3):
        last = pixels.shape[dimension] - 1
        places = torch.arange(-border, last + border + 1, device=pixels.device).abs()
        pixels = pixels.index_select(dimension, last - (last - places).abs())
    return pixels


def random_boxes(count: int, crop_scale: float, random: torch.Generator) -> Tensor:
    """Parts of the images: (count, 4) float32, of each its top, left, height and width in shares
    of the image's height and width.

    The area is uniform in [crop_scale, 1]. The logarithm of the aspect ratio, divided by the
    image's own, is uniform as far as the box fits into the image.
    """
    area, ratio, top, left = torch.rand(4, count, generator=random)
    area = 1 - area * (1 - crop_scale)
    widest = -area.log().clamp(min=-math.log(STRETCH))
    root = (widest * (ratio - 0.5)).exp()  # of the ratio
    height, width = area.sqrt() / root, area.sqrt() * root
    return torch.stack([top * (1 - height), left * (1 - width), height, width], dim=1)


def enlarged(pixels: Tensor, boxes: Tensor) -> Tensor:
    """The boxes (n, 4) of ``random_boxes``, each brought to its image's size bilinearly: pixels
    and result (n, 3, H, W) float32.
    """
    corners, sides = 2 * boxes[:, :2] - 1, 2 * boxes[:, 2:]  # an image's edges are at -1 and 1
    rows, columns = (
        corners[:, k, None] + sides[:, k, None] * middles(pixels.shape[2 + k], pixels.device)
        for k in (0, 1)
    )
    grid = torch.stack(torch.broadcast_tensors(columns.unsqueeze(1), rows.unsqueeze(2)), dim=3)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def middles(side: int, device: torch.device) -> Tensor:
    """Of each of the pixels along a side, in shares of the side: (side,) float32."""
    return (torch.arange(side, device=device) + 0.5) / side


def random_factors(count: int, colour: float, random: torch.Generator) -> Tensor:
    """Of each image's brightness, contrast and saturation: (count, 3) float32."""
    return 1 + colour * (2 * torch.rand(count, 3, generator=random) - 1)


def recoloured(pixels: Tensor, factors: Tensor) -> Tensor:
    """Pixels (n, 3, H, W) float32 with their brightness, contrast and saturation times the factors
    (n, 3); values in 0-255.

    As torchvision's ColorJitter without hue, in this order: black, the image's mean luminance and
    each pixel's own luminance stay where they are. All three are linear, so that they are one
    product, clipped once.
    """
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1).unbind(1)  # (n, 1, 1) each
    luminance = torch.tensor(LUMINANCE, device=pixels.device)
    grey = luminance.expand(3, 3)
    change = saturation * torch.eye(3, device=pixels.device) + (1 - saturation) * grey
    mean = pixels.mean(dim=(2, 3)) @ luminance
    offset = brightness * (1 - contrast) * mean.view(-1, 1, 1)
    colours = torch.baddbmm(offset, brightness * contrast * change, pixels.flatten(2))
    return colours.clamp_(0, 255).view_as(pixels)


def weighted_means(pixels: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """shares (N, 1, 1, 1) float32 of ``pixels``, the rest of ``others``: both, and the result,
    (N, 3, H, W) uint8.
    """
    some = images_at_a_time(pixels.shape[2:])
    parts = zip(*(part.split(some) for part in (pixels, others, shares)), strict=True)
    return torch.cat(
        [(one * share + other * (1 - share)).round().to(torch.uint8) for one, other, share in parts]
    )


def images_at_a_time(shape: Sequence[int]) -> int:
    """How many images of this height and width are computed at once in float32."""
    return max(1, FLOAT_PIXELS // math.prod(shape))


def random_centres(count: int, shape: tuple[int, int], random: torch.Generator) -> Tensor:
    """Anywhere in images of this height and width: rows, then columns, (2, count, 1) int64."""
    return torch.stack([torch.randint(0, side, (count, 1), generator=random) for side in shape])


def rectangles(centres: Tensor, sides: Tensor | int, shape: tuple[int, int]) -> Tensor:
    """A mask (N, H, W) bool for each of the centres (2, N, 1) int64; ``sides`` (2, N, 1) int64 are
    heights and widths, or one number for all.
    """
    first = centres - sides // 2
    last = first + sides
    rows, columns = (
        (first[k] <= positions) & (positions < last[k])  # (N, H) and (N, W)
        for k, positions in enumerate(torch.arange(side, device=centres.device) for side in shape)
    )
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in one epoch: (count,) int64."""
    return torch.randperm(count, generator=generator("order", seed, epoch))


def balanced(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """As many indices as there are labels (N,) int64, every class as often as the others: those of
    small classes come several times.
    """
    weights = 1 / torch.bincount(labels).double()[labels]
    random = generator("order", seed, epoch)
    return torch.multinomial(weights, len(labels), replacement=True, generator=random)


def generator(*key: object) -> torch.Generator:
    """A generator seeded by the key alone: equal keys give equal numbers, others do not."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))

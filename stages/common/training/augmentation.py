"""Views and mixtures of all images, made in memory: an epoch's input in one tensor."""

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.data.dataset import DatasetInfo

FIRST_MIXED_VIEW = 200  # mixtures take the views from this number on: no teacher is trained on them
MIXING_BATCH = 5000  # images in float32 at a time


class Augmenter:
    """Numbered views of the pixels (N, 3, 32, 32) uint8; a view follows from seed and number.

    Alternating flip (cifar10-airbench): a random half of the images is flipped in even views,
    the other half in odd ones; none is where ``info.flip`` is false. Each image is shifted by up
    to ``translate`` pixels, its border reflected; then a square of ``cutout`` pixels a
    side, its centre anywhere in the image, is filled with the mean colour (DeVries and Taylor,
    arXiv:1708.04552). 0 leaves either out.
    """

    def __init__(self, pixels: Tensor, info: DatasetInfo, translate: int, cutout: int, seed: int):
        self.info = info
        self.size = pixels.shape[-1]
        self.translate = translate
        self.cutout = cutout
        self.seed = seed
        self.padded = F.pad(pixels.float(), (translate,) * 4, mode="reflect")
        self.padded = self.padded.to(torch.uint8)  # (N, 3, 32 + 2t, 32 + 2t)
        self.flipped = torch.rand(len(pixels), generator=generator("flip", seed)) < 0.5

    def view(self, number: int) -> Tensor:
        """(N, 3, 32, 32) uint8, in the order of the images."""
        count, positions = len(self.padded), 2 * self.translate + 1
        shifts = torch.randint(
            0, positions, (count, 2), generator=generator("shift", self.seed, number)
        )
        pixels = self.padded.new_empty(count, 3, self.size, self.size)
        for y, x in torch.cartesian_prod(*[torch.arange(positions)] * 2).tolist():
            chosen = ((shifts[:, 0] == y) & (shifts[:, 1] == x)).nonzero().squeeze(1)
            chosen = chosen.to(pixels.device)
            pixels[chosen] = self.padded[chosen, :, y : y + self.size, x : x + self.size]
        if self.info.flip:
            turned = (self.flipped ^ bool(number % 2)).nonzero().squeeze(1).to(pixels.device)
            pixels[turned] = pixels[turned].flip(-1)
        if self.cutout:
            self.cut_out(pixels, number)
        return pixels

    def cut_out(self, pixels: Tensor, number: int) -> None:
        """Fill one square of each image (N, 3, 32, 32) uint8, in place."""
        centres = torch.randint(
            0, self.size, (2, len(pixels), 1), generator=generator("cutout", self.seed, number)
        )
        square = squares(centres.to(pixels.device), self.cutout, self.size)
        for channel, mean in enumerate(self.info.mean):
            pixels[:, channel].masked_fill_(square, round(mean))

    def mixture(self, number: int) -> "Mixture":
        """A view with another image mixed into each of its images.

        Two mixtures are weighted means (mixup, arXiv:1710.09412), the next two have a square of
        the other image (CutMix, arXiv:1905.04899), and so on; two, since every other view is
        mirrored. The share of the first image is uniform in [0, 1], except where the border cuts
        a square.
        """
        pixels = self.view(FIRST_MIXED_VIEW + number)
        random = generator("mix", self.seed, number)
        partners = torch.randperm(len(pixels), generator=random).to(pixels.device)
        others = pixels[partners]
        shares = torch.rand(len(pixels), 1, 1, 1, generator=random).to(pixels.device)
        if number % 4 < 2:
            mixed = weighted_means(pixels, others, shares)
            return Mixture(mixed, partners, shares.flatten())
        centres = torch.randint(0, self.size, (2, len(pixels), 1), generator=random)
        sides = (self.size * (1 - shares.view(-1, 1)).sqrt()).round().long()
        square = squares(centres.to(pixels.device), sides, self.size)
        mixed = torch.where(square.unsqueeze(1), others, pixels)
        return Mixture(mixed, partners, 1 - square.float().mean(dim=(1, 2)))


@dataclass(frozen=True)
class Mixture:
    """Mixtures of two images each: pixels (N, 3, 32, 32) uint8, the index of the second image
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


def weighted_means(pixels: Tensor, others: Tensor, shares: Tensor) -> Tensor:
    """shares (N, 1, 1, 1) float32 of ``pixels``, the rest of ``others``: both, and the result,
    (N, 3, H, W) uint8.
    """
    parts = zip(*(part.split(MIXING_BATCH) for part in (pixels, others, shares)), strict=True)
    return torch.cat(
        [(one * share + other * (1 - share)).round().to(torch.uint8) for one, other, share in parts]
    )


def squares(centres: Tensor, side: Tensor | int, size: int) -> Tensor:
    """A mask (N, size, size) bool for each of the centres (2, N, 1) int64: rows, then columns."""
    first = centres - side // 2
    positions = torch.arange(size, device=centres.device)
    rows, columns = (first <= positions) & (positions < first + side)  # (N, size) each
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

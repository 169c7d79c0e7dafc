"""Flipped and shifted views of all images, made in memory: an epoch's input in one tensor."""

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.common.model import PIXEL_MEAN


class Augmenter:
    """Numbered views of the pixels (N, 3, 32, 32) uint8; a view follows from seed and number.

    Alternating flip (cifar10-airbench): a random half of the images is flipped in even views,
    the other half in odd ones. Each image is shifted by up to ``translate`` pixels, its border
    reflected; then a square of ``cutout`` pixels a side, its centre anywhere in the image, is
    filled with the mean colour (DeVries and Taylor, arXiv:1708.04552). 0 leaves either out.
    """

    def __init__(self, pixels: Tensor, translate: int, cutout: int, seed: int):
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
        first = centres.to(pixels.device) - self.cutout // 2
        positions = torch.arange(self.size, device=pixels.device)
        rows, columns = (first <= positions) & (positions < first + self.cutout)  # (N, 32) each
        square = rows.unsqueeze(2) & columns.unsqueeze(1)  # (N, 32, 32)
        for channel, mean in enumerate(PIXEL_MEAN):
            pixels[:, channel].masked_fill_(square, round(mean))


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The order (count,) int64 in which one epoch takes the images."""
    return torch.randperm(count, generator=generator("order", seed, epoch))


def generator(*key: object) -> torch.Generator:
    """Random numbers that follow from the key alone, and differ from those of any other key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))

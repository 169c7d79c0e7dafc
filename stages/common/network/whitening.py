"""A new network, before it has learned: its first layer whitens patches of the images."""

import torch

from stages.common.data.cifar10 import CLASSES, Images
from stages.common.network.network import PIXEL_MEAN, PIXEL_STD, WHITENING_SIZE, Network

WHITENING_IMAGES = 5000  # enough for a 12 x 12 covariance (cifar10-airbench takes as many)
WHITENING_EPSILON = 5e-4  # the same source


def build_network(widths: list[list[int]], images: Images, seed: int) -> Network:
    """A new network whose first layer whitens patches of the given images."""
    torch.manual_seed(seed)
    network = Network({"widths": widths, "classes": len(CLASSES)})
    network.whitening.weight.data.copy_(whitening_filters(images))
    return network


def whitening_filters(images: Images) -> torch.Tensor:
    """Eigenvectors of the patch covariance, scaled to unit variance, and their negatives.

    Returns (24, 3, 2, 2) float32. Source: cifar10-airbench, ``init_whiten``.
    """
    pixels = torch.from_numpy(images.pixels[:WHITENING_IMAGES]).double()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    patches = torch.nn.functional.unfold((pixels - mean) / std, WHITENING_SIZE)  # (N, 12, 31 * 31)
    patches = patches.transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T
    return torch.cat([filters, -filters]).view(-1, 3, WHITENING_SIZE, WHITENING_SIZE).float()

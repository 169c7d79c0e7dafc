"""A new network, before it has learned: its first layer whitens patches of the images."""

import torch

from stages.common.data.dataset import Images
from stages.common.network.network import WHITENING_SIZE, Network

WHITENING_IMAGES = 5000  # enough for a 12 x 12 covariance (cifar10-airbench takes as many)
WHITENING_EPSILON = 5e-4  # the same source


def build_network(widths: list[list[int]], images: Images, seed: int) -> Network:
    """A new network for the classes and colours of the given images; its first layer whitens
    patches of them.
    """
    torch.manual_seed(seed)
    network = Network({"widths": widths, "classes": len(images.classes)})
    mean, std = colours(images)
    network.mean.copy_(mean)
    network.std.copy_(std)
    network.whitening.weight.data.copy_(whitening_filters(images))
    return network


def whitening_filters(images: Images) -> torch.Tensor:
    """Eigenvectors of the patch covariance, scaled to unit variance, and their negatives.

    Returns (24, 3, 2, 2) float32. Source: cifar10-airbench, ``init_whiten``.
    """
    pixels = torch.from_numpy(images.pixels[:WHITENING_IMAGES]).double()
    mean, std = colours(images)
    patches = torch.nn.functional.unfold((pixels - mean) / std, WHITENING_SIZE)  # (N, 12, 31 * 31)
    patches = patches.transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T
    return torch.cat([filters, -filters]).view(-1, 3, WHITENING_SIZE, WHITENING_SIZE).float()


def colours(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the training pixels in 0-255: (1, 3, 1, 1) float32 each."""
    mean, std = (torch.tensor(values) for values in (images.info.mean, images.info.std))
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)

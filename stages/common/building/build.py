"""New networks, untrained."""

import torch

from stages.common.data.dataset import Images
from stages.common.network.chain import WHITENING_SIZE, Chain
from stages.common.network.factories import require_runs
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import IMAGE_SIZE, Network
from stages.common.network.params import CHAIN, DATA

WHITENING_IMAGES = 5000  # enough for a 12 x 12 covariance (cifar10-airbench takes as many)
WHITENING_EPSILON = 5e-4  # the same source


def build_network(
    factory: str,
    arguments: dict,
    widths: list[list[int]],
    images: Images,
    seed: int,
    normalization: str | list = DATA,
) -> Network:
    """A new network for the classes, colours and size of the images; ``widths`` are the chain's,
    ``normalization`` is of the others (see ``NetworkParams``).

    Raises ``InputError`` for a factory that is not there, or makes no network for such images.
    """
    if factory == CHAIN:
        return build_chain(widths, images, seed)
    return build_imported(factory, arguments, images, seed, normalization)


def build_chain(widths: list[list[int]], images: Images, seed: int) -> Chain:
    """The default network; its first layer whitens patches of the images."""
    torch.manual_seed(seed)
    config = {"widths": widths, "classes": len(images.classes)}
    if list(images.shape[1:]) != IMAGE_SIZE:
        config["image_size"] = list(images.shape[1:])
    network = Chain(config)
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


def build_imported(
    factory: str, arguments: dict, images: Images, seed: int, normalization: str | list = DATA
) -> ImportedNetwork:
    """A factory's network with new weights, tried on two images of that size."""
    torch.manual_seed(seed)
    config = {
        "factory": factory,
        "arguments": arguments,
        "classes": len(images.classes),
        "image_size": list(images.shape[1:]),
    }
    network = ImportedNetwork(config)
    if isinstance(normalization, list):
        network.mean.fill_(normalization[0])
        network.std.fill_(normalization[1])
    else:
        mean, std = colours(images)
        network.mean.copy_(mean.mean().round())
        network.std.copy_(std)
    require_runs(factory, network.eval(), network.input_shape, len(images.classes))
    network.output_layer()
    return network


def colours(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the training pixels in 0-255: (1, 3, 1, 1) float32 each."""
    mean, std = (torch.tensor(values) for values in (images.info.mean, images.info.std))
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)

"""The statistics of BatchNorm after a cut: the layers see other inputs than before."""

import torch
from torch import nn

from stages.common.data.dataset import Images
from stages.common.network.network import Network


@torch.no_grad()
def estimate_norms(model: Network, images: Images, batch_size: int, device: torch.device) -> None:
    """Replace the statistics, in place, by their means over the images in batches of this size.

    For training that keeps statistics (``recipe.frozen_norms``); other training replaces them
    anyway.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for batch in torch.from_numpy(images.pixels).split(batch_size):
        model(batch.to(device, torch.float32, memory_format=torch.channels_last))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()

"""What a trained network says of images, as targets for another one."""

import numpy as np
import torch
from torch import Tensor

from stages.common.model import Network
from stages.common.recipe import products_in


@torch.no_grad()
def mirrored_logits(
    network: Network, batches: tuple[Tensor, ...], precision: torch.dtype
) -> np.ndarray:
    """The mean of the logits on images and on their mirror images: (N, classes) float32, of
    batches (n, 3, 32, 32) uint8.
    """
    logits = []
    for batch in batches:
        inputs = batch.to(torch.float32, memory_format=torch.channels_last)
        with products_in(precision, batch.device):
            outputs = (network(inputs).float() + network(inputs.flip(-1)).float()) / 2
        logits.append(outputs.cpu())
    return torch.cat(logits).numpy()

"""The seam between networks and all that trains, prunes and exports them."""

import torch
from torch import Tensor, nn

IMAGE_SIZE = [32, 32]  # of a config that names none


class Network(nn.Module):
    """RGB pixels (N, 3, H, W) float32 in 0-255 -> logits (N, classes) float32.

    ``config`` rebuilds the network, together with the shapes of its weights. ``mean`` and ``std``
    (1, 3, 1, 1) float32 are the colours' of the training pixels: normalization is part of the
    network. A new kind of network is a subclass beside ``chain.py`` and ``imported.py``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("std", torch.ones(1, 3, 1, 1))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        height, width = self.config.get("image_size", IMAGE_SIZE)
        return 3, height, width

    def output_layer(self) -> nn.Conv2d | nn.Linear:
        """The layer that makes the logits."""
        raise NotImplementedError

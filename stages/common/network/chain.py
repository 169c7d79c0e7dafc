"""The default network, described by its list of widths.

A chain of plain 3x3 convolutions after KellerJordan/cifar10-airbench: a frozen 2x2 whitening
convolution, then blocks of [convolution, max-pool, BatchNorm, ReLU, convolution, BatchNorm, ReLU]
that pool early, a global max-pool and one linear layer.
"""

from typing import cast

import torch
from torch import Tensor, nn

from stages.common.network.network import Network

WHITENING_SIZE = 2
WHITENING_WIDTH = 2 * 3 * WHITENING_SIZE**2  # every eigenvector of a patch, and its negative


class Chain(Network):
    """RGB pixels (N, 3, 32, 32) float32 in 0-255 -> logits (N, classes) float32.

    ``config`` is ``{"widths": [[64, 64], [256, 256], ...], "classes": 10}``: a list of blocks,
    each the output channels of its convolutions. It rebuilds the network, pruned or not.
    """

    def __init__(self, config: dict):
        super().__init__(config)
        # No padding: a constant can then be folded into this layer without an error at the border.
        self.whitening = nn.Conv2d(3, WHITENING_WIDTH, WHITENING_SIZE, bias=True)
        self.whitening.weight.requires_grad_(False)
        nn.init.zeros_(self.whitening_bias)
        self.blocks = nn.ModuleList()
        channels = WHITENING_WIDTH
        for widths in config["widths"]:
            self.blocks.append(Block(channels, widths))
            channels = widths[-1]
        self.head = nn.Linear(channels, config["classes"], bias=False)
        nn.init.normal_(self.head.weight, std=1 / channels)

    @property
    def whitening_bias(self) -> Tensor:
        assert self.whitening.bias is not None
        return self.whitening.bias

    def output_layer(self) -> nn.Linear:
        return self.head

    def layers(self) -> list[list[tuple[nn.Conv2d, "BatchNorm"]]]:
        """The 3x3 convolutions, each with its BatchNorm, block by block."""
        return [block.layers() for block in self.blocks if isinstance(block, Block)]

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.whitening((pixels - self.mean) / self.std))  # (N, 24, 31, 31)
        for block in self.blocks:
            x = block(x)
        return self.head(x.amax(dim=(2, 3)))


class Block(nn.Module):
    """3x3 convolutions; the first one's output is halved by max-pooling (early: it costs least)."""

    def __init__(self, channels: int, widths: list[int]):
        super().__init__()
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        for width in widths:
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            nn.init.dirac_(convolution.weight[: min(channels, width)])
            self.convolutions.append(convolution)
            self.norms.append(BatchNorm(width))
            channels = width

    def forward(self, x: Tensor) -> Tensor:
        for index, (convolution, norm) in enumerate(self.layers()):
            x = convolution(x)
            if index == 0:
                x = torch.max_pool2d(x, 2)
            x = torch.relu(norm(x))
        return x

    def layers(self) -> list[tuple[nn.Conv2d, "BatchNorm"]]:
        """Every convolution and the BatchNorm behind it."""
        pairs = list(zip(self.convolutions, self.norms, strict=True))
        return cast(list[tuple[nn.Conv2d, BatchNorm]], pairs)


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm whose scale stays 1 and whose statistics move fast (as in cifar10-airbench).

    A positive scale commutes with ReLU and max-pooling, so export can fold it into the
    convolution in front of the pool.
    """

    def __init__(self, channels: int):
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad_(False)


def widths_of(model: Chain) -> list[list[int]]:
    """The output channels of every convolution, block by block, as the layers have them now."""
    return [[convolution.out_channels for convolution, _ in block] for block in model.layers()]


def rebuild(model: Chain) -> Chain:
    """The same weights in a network whose config states the widths that its layers have now."""
    copy = Chain({**model.config, "widths": widths_of(model)})
    copy.load_state_dict(model.state_dict())
    return copy

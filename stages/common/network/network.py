"""The network, described by its list of widths, and the checkpoint that describes itself.

A chain of plain 3x3 convolutions after KellerJordan/cifar10-airbench: a frozen 2x2 whitening
convolution, then blocks of [convolution, max-pool, BatchNorm, ReLU, convolution, BatchNorm, ReLU]
that pool early, a global max-pool and one linear layer.
"""

import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from stages.common.core.cli import InputError
from stages.common.core.files import write_bytes
from stages.common.data.cifar10 import PIXEL_MEAN, PIXEL_STD

WHITENING_SIZE = 2
WHITENING_WIDTH = 2 * 3 * WHITENING_SIZE**2  # every eigenvector of a patch, and its negative


class Network(nn.Module):
    """RGB pixels (N, 3, 32, 32) float32 in 0-255 -> logits (N, classes) float32.

    ``config`` is ``{"widths": [[64, 64], [256, 256], ...], "classes": 10}``: a list of blocks,
    each the output channels of its convolutions. It rebuilds the network, pruned or not.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(1, 3, 1, 1))
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


def widths_of(model: Network) -> list[list[int]]:
    """The output channels of every convolution, block by block, as the layers have them now."""
    return [[convolution.out_channels for convolution, _ in block] for block in model.layers()]


def rebuild(model: Network) -> Network:
    """The same weights in a network whose config states the widths that its layers have now."""
    copy = Network({**model.config, "widths": widths_of(model)})
    copy.load_state_dict(model.state_dict())
    return copy


@dataclass(frozen=True)
class Size:
    """Counts of weights and operations; ``macs`` are the multiply-accumulates of one image."""

    params: int
    nonzero_params: int
    macs: int
    nonzero_macs: int


def size_of(model: Network) -> Size:
    """Count convolution and linear weights (with their biases) and multiply-accumulates.

    Non-zero counts leave out weights that are exactly 0. BatchNorm is not counted: it folds
    into the convolutions when the network is exported.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    biases = sum(layer.bias.numel() for layer in layers if layer.bias is not None)
    biases += sum(norm.bias.numel() for norm in model.modules() if isinstance(norm, BatchNorm))
    positions = output_positions(model)
    weights = [layer.weight.numel() for layer in layers]
    nonzero = [int(layer.weight.count_nonzero()) for layer in layers]
    return Size(
        params=biases + sum(weights),
        nonzero_params=biases + sum(nonzero),
        macs=sum(n * positions[layer] for n, layer in zip(weights, layers, strict=True)),
        nonzero_macs=sum(n * positions[layer] for n, layer in zip(nonzero, layers, strict=True)),
    )


def output_positions(model: Network) -> dict[nn.Module, int]:
    """The output positions (height x width) of each layer, which are its MACs per weight."""
    positions = {}

    def record(layer: nn.Module, _: tuple, output: Tensor) -> None:
        positions[layer] = math.prod(output.shape[2:])

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    device = next(model.parameters()).device
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return positions


@dataclass(frozen=True)
class Checkpoint:
    """A model and where it came from (params and data digest of every stage that shaped it)."""

    model: Network
    provenance: dict


def save_checkpoint(path: str | Path, model: Network, provenance: dict) -> None:
    """Write config, weights and provenance; equal content gives equal bytes."""
    content = {
        "config": model.config,
        "state_dict": {
            name: value.cpu().clone(memory_format=torch.contiguous_format)
            for name, value in model.state_dict().items()
        },
        "provenance": provenance,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Rebuild a saved model, on the CPU and in eval mode.

    Raises ``InputError`` when the file is missing, damaged, or no checkpoint of this project.
    """
    try:
        content = torch.load(path, weights_only=True)
        model = Network(content["config"])
        model.load_state_dict(content["state_dict"])
        return Checkpoint(model=model.eval(), provenance=content["provenance"])
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro' (or 'dvc pull')") from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        LookupError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is no checkpoint of this pipeline ({reason}); delete it and run 'dvc repro'"
        ) from None

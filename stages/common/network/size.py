"""Counts of a network's parameters and multiply-accumulates."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.common.network.network import Network


@dataclass(frozen=True)
class Size:
    """Counts of weights and operations; ``macs`` are the multiply-accumulates of one image."""

    params: int
    nonzero_params: int
    macs: int
    nonzero_macs: int


def size_of(model: Network) -> Size:
    """Count convolution and linear weights (with their biases) and multiply-accumulates.

    Non-zero counts leave out weights that are exactly 0. BatchNorm counts as a bias: it folds
    into the convolutions when the network is exported.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    biases = sum(layer.bias.numel() for layer in layers if layer.bias is not None)
    biases += sum(norm.bias.numel() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d))
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
    """The output positions (height x width) of each layer, which are its MACs per weight; 0 for
    one that does not run in eval mode.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    positions: dict[nn.Module, int] = dict.fromkeys(layers, 0)

    def record(layer: nn.Module, _: tuple, output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        positions[layer] += output.numel() // len(layer.weight)

    hooks = [layer.register_forward_hook(record) for layer in layers]
    device = next(model.parameters()).device
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, *model.input_shape, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return positions

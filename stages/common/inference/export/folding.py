"""A trained network as a plain chain of layers, for deployment.

Normalization is folded into the whitening convolution and BatchNorm into the other convolutions.
"""

import copy
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stages.common.network.chain import Chain


def folded(model: Chain, size: int) -> nn.Sequential:
    """The same function as ``model`` in eval mode, as Conv, ReLU, MaxPool, Flatten and Linear, for
    images of ``size`` pixels a side.

    BatchNorm moves in front of the pool: its scale is positive, so it commutes with a maximum.
    """
    model = copy.deepcopy(model).double().eval()  # round to float32 once, at the end
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["whitening"] = folded_whitening(model)
    layers["whitening_relu"] = nn.ReLU()
    size = size - model.whitening.kernel_size[0] + 1
    for number, block in enumerate(model.layers(), start=1):
        for index, (layer, norm) in enumerate(block):
            name = f"block{number}_conv{index + 1}"
            layers[name] = folded_convolution(layer, norm)
            layers[f"{name}_relu"] = nn.ReLU()
            if index == 0:
                layers[f"{name}_pool"] = nn.MaxPool2d(2)
                size //= 2
    layers["global_pool"] = nn.MaxPool2d(size)
    layers["flatten"] = nn.Flatten()
    layers["head"] = model.head
    return nn.Sequential(layers).float().requires_grad_(False).eval()


def folded_whitening(model: Chain) -> nn.Conv2d:
    """w * (x - mean) / std + b  =  (w / std) * x + (b - sum(w * mean / std))."""
    weight = model.whitening.weight / model.std
    assert model.whitening.bias is not None
    bias = model.whitening.bias - (weight * model.mean).sum(dim=(1, 2, 3))
    return convolution_from(model.whitening, weight, bias)


def folded_convolution(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    assert (norm.weight > 0).all(), "a scale that is not positive does not commute with max-pool"
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        layer.weight,
        layer.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return convolution_from(layer, weight, bias)


def convolution_from(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution like ``layer`` with other weights, and with a bias."""
    assert not isinstance(layer.padding, str)
    height, width = layer.kernel_size
    rows, columns = layer.padding
    new = nn.Conv2d(
        layer.in_channels, layer.out_channels, (height, width), padding=(rows, columns)
    ).double()
    new.weight = nn.Parameter(weight.detach())
    new.bias = nn.Parameter(bias.detach())
    return new

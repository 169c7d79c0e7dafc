"""Small networks of one's own, as network.factory takes them, and one trained by its statistics."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.common.network.imported import ImportedNetwork
from tests.conftest import make_images

CHANNELS = 16


class Residual(nn.Module):
    """x + body(x), as in ResNet (He et al., CVPR 2016)."""

    def __init__(self, *body: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Gated(nn.Module):
    """Squeeze-and-excitation (Hu et al., CVPR 2018) with a gate of choice."""

    def __init__(self, channels: int, gate: nn.Module):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 4, 1)
        self.excite = nn.Conv2d(4, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.excite(functional.relu(self.squeeze(mean))))


def convolution(inputs: int, outputs: int, size: int = 3, **arguments) -> list[nn.Module]:
    """With BatchNorm, padded so that the size stays."""
    return [
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **arguments),
        nn.BatchNorm2d(outputs),
    ]


def head(channels: int, num_classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(channels, num_classes)]


def residual(num_classes: int) -> nn.Module:
    block = Residual(*convolution(CHANNELS, CHANNELS), nn.ReLU(), *convolution(CHANNELS, CHANNELS))
    stem = [*convolution(3, CHANNELS, stride=2), nn.ReLU()]
    return nn.Sequential(*stem, block, nn.ReLU(), *head(CHANNELS, num_classes))


def inverted_residual(num_classes: int) -> nn.Module:
    """A block of MobileNetV2 (Sandler et al., CVPR 2018)."""
    wide = 2 * CHANNELS
    block = Residual(
        *convolution(CHANNELS, wide, size=1),
        nn.ReLU6(),
        *convolution(wide, wide, groups=wide),
        nn.ReLU6(),
        *convolution(wide, CHANNELS, size=1),
    )
    stem = [*convolution(3, CHANNELS, stride=2), nn.ReLU6()]
    return nn.Sequential(*stem, block, *head(CHANNELS, num_classes))


def gated(num_classes: int) -> nn.Module:
    """With hard swish and the gate of MobileNetV3 (Howard et al., ICCV 2019)."""
    stem = [*convolution(3, CHANNELS, stride=2), nn.Hardswish()]
    return nn.Sequential(*stem, Gated(CHANNELS, nn.Hardsigmoid()), *head(CHANNELS, num_classes))


FACTORIES = ("residual", "inverted_residual", "gated")


def imported(factory: str) -> ImportedNetwork:
    """In eval mode, for 10 classes of 32x32 pixels; statistics from images, last layer fitted."""
    torch.manual_seed(0)
    network = ImportedNetwork(
        {
            "factory": f"tests.own_networks:{factory}",
            "arguments": {},
            "classes": 10,
            "image_size": [32, 32],
        }
    )
    images = make_images(500, seed=100)
    pixels = torch.from_numpy(images.pixels).float()
    network.mean.fill_(128)
    network.std.copy_(pixels.std(dim=(0, 2, 3)).view(1, 3, 1, 1))
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # the mean over the batches
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.normal_(layer.bias, std=0.3)
        for _ in range(2):
            network.train()(pixels)
        fit_output_layer(network.eval(), pixels, torch.from_numpy(images.labels))
    return network


def fit_output_layer(network: ImportedNetwork, pixels: Tensor, labels: Tensor) -> None:
    """Least squares from the features to logits of 5 for the right class and -5 for the others."""
    layer = network.output_layer()
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, values: inputs.append(values[0]))
    network(pixels)
    hook.remove()
    targets = 10.0 * functional.one_hot(labels, 10) - 5.0
    features = torch.cat([inputs[0], torch.ones(len(pixels), 1)], dim=1)
    solution = torch.linalg.lstsq(features, targets).solution
    layer.weight.copy_(solution[:-1].T)
    assert layer.bias is not None
    layer.bias.copy_(solution[-1])

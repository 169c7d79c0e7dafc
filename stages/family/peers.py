"""The published networks beside which the family is timed: their shapes and their accuracies."""

from dataclasses import dataclass

from torch import nn
from torchvision.models import MobileNetV2

from examples.networks.resnet import resnet8, resnet20, resnet32, resnet56

MLPERF_TINY = "https://github.com/mlcommons/tiny/pull/116"
CIFAR_MODELS = "https://github.com/chenyaofo/pytorch-cifar-models"


@dataclass(frozen=True)
class Peer:
    """A published network, and its published accuracies in percent of CIFAR-10's test images.

    ``int8_accuracy`` is None where none was published; INT8 is then taken to cost nothing.
    """

    title: str
    accuracy: float
    int8_accuracy: float | None
    source: str


PEERS = {
    "resnet8": Peer("ResNet-8", 87.2, 87.0, MLPERF_TINY),
    "resnet20": Peer("ResNet-20", 92.60, None, CIFAR_MODELS),
    "resnet32": Peer("ResNet-32", 93.53, None, CIFAR_MODELS),
    "resnet56": Peer("ResNet-56", 94.37, None, CIFAR_MODELS),
    "mobilenetv2_x0_5": Peer("MobileNetV2 x0.5", 92.88, None, CIFAR_MODELS),
}


def network(num_classes: int, name: str) -> nn.Module:
    """The shape of a peer, with new weights. Raises ``KeyError`` for a name that is none."""
    return {
        "resnet8": resnet8,
        "resnet20": resnet20,
        "resnet32": resnet32,
        "resnet56": resnet56,
        "mobilenetv2_x0_5": mobilenet_v2_half,
    }[name](num_classes)


def mobilenet_v2_half(num_classes: int) -> MobileNetV2:
    """MobileNetV2 of half the width for images of 32 pixels: the first convolution and the second
    stage do not halve them. Source: pytorch_cifar_models/mobilenetv2.py of ``CIFAR_MODELS``.
    """
    model = MobileNetV2(
        num_classes,
        width_mult=0.5,
        inverted_residual_setting=[  # expansion, channels, blocks, stride
            [1, 16, 1, 1],
            [6, 24, 2, 1],
            [6, 32, 3, 2],
            [6, 64, 4, 2],
            [6, 96, 3, 1],
            [6, 160, 3, 2],
            [6, 320, 1, 1],
        ],
    )
    first = model.features[0][0]
    assert isinstance(first, nn.Conv2d)
    first.stride = (1, 1)
    return model

"""The residual networks of He et al. for images of 32 pixels, "Deep residual learning for image
recognition", CVPR 2016, section 4.2: 6n + 2 layers in three stages of 16, 32 and 64 channels; and
such networks of other widths.

An example of a factory of your own: network.factory: examples.networks.resnet:resnet20
"""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, inputs, H, W) -> (N, outputs, H/s, W/s).

    The shortcut is a 1x1 convolution where the shape changes (option B of the paper).
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Normalized images (N, 3, H, W) -> logits (N, num_classes).

    ``stages``: channels and blocks of each. The first block of a stage halves height and width;
    that of the first stage only with ``halve_first``.
    """

    def __init__(
        self, num_classes: int, stem: int, stages: list[list[int]], halve_first: bool = False
    ):
        super().__init__()
        self.conv = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        self.stages = nn.Sequential()
        inputs = stem
        for number, (outputs, blocks) in enumerate(stages):
            stride = 2 if number or halve_first else 1
            self.stages.append(stage(inputs, outputs, blocks, stride))
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(torch.relu(self.bn(self.conv(x))))
        return self.head(self.pool(x).flatten(1))


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [Block(outputs, outputs, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(Block(inputs, outputs, stride), *rest)


def resnet8(num_classes: int) -> ResNet:
    """The shape of MLPerf Tiny's network for image classification."""
    return ResNet(num_classes, stem=16, stages=[[16, 1], [32, 1], [64, 1]])


def resnet20(num_classes: int) -> ResNet:
    return ResNet(num_classes, stem=16, stages=[[16, 3], [32, 3], [64, 3]])


def resnet32(num_classes: int) -> ResNet:
    return ResNet(num_classes, stem=16, stages=[[16, 5], [32, 5], [64, 5]])


def resnet56(num_classes: int) -> ResNet:
    return ResNet(num_classes, stem=16, stages=[[16, 9], [32, 9], [64, 9]])

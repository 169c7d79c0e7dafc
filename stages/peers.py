"""Write a peer's network as ONNX, to time it beside ours on the same machine.

Reads   nothing
Writes  MLPerf Tiny's ResNet-8 (resnet_v1_eembc) as an FP32 ONNX file with random weights: its
        latency does not depend on them, and no accuracy is taken from it
Params  none

Source: https://github.com/mlcommons/tiny, benchmark/training/image_classification/keras_model.py.
"""

import argparse
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from stages.common.cli import run
from stages.common.data import CLASSES, IMAGE_SHAPE
from stages.common.files import write_bytes
from stages.common.graph import strip

STACKS = ((16, 16, 1), (16, 32, 2), (32, 64, 2))  # channels in, channels out, stride


class ResNet8(nn.Module):
    """(N, 3, 32, 32) float32 -> (N, 10) float32; BatchNorm is folded into the convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.stacks = nn.ModuleList(Stack(*stack) for stack in STACKS)
        self.head = nn.Linear(64, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        x = torch.relu(self.stem(pixels))
        for stack in self.stacks:
            x = stack(x)
        return self.head(nn.functional.avg_pool2d(x, 8).flatten(1))


class Stack(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is 1x1 where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        same = (channels, stride) == (width, 1)
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def resnet8_onnx() -> onnx.ModelProto:
    torch.manual_seed(0)
    program = torch.onnx.export(
        ResNet8().eval(),
        (torch.zeros(1, *IMAGE_SHAPE),),
        dynamo=True,
        input_names=["pixels"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    strip(program.model_proto)
    return program.model_proto


def main() -> None:
    args = parse_args()
    content = resnet8_onnx().SerializeToString(deterministic=True)
    write_bytes(args.onnx, content)
    print(f"{args.onnx}: ResNet-8 with random weights, {len(content):,} bytes")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

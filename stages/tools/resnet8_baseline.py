"""MLPerf Tiny's ResNet-8 as a baseline of latency: its ONNX file, and the table of the benchmark.

Reads   export: nothing; table: the latencies and the machine as the benchmark wrote them
Writes  export: ResNet-8 (resnet_v1_eembc) as an FP32 ONNX file with random weights; its latency
        does not depend on them, and no accuracy is taken from it; table: Markdown
Params  none
Raises  InputError when the benchmark's files are missing or damaged

Source: https://github.com/mlcommons/tiny, benchmark/training/image_classification/keras_model.py.
"""

import argparse
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from stages.common.core.cli import run
from stages.common.core.files import read_metrics, read_rows, write_bytes, write_text
from stages.common.data.cifar10 import CLASSES, IMAGE_SHAPE
from stages.common.inference.onnx_graph import strip
from stages.common.reporting.markdown import as_table

REMEDY = "'make baseline'"
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
    assert program is not None  # None is for torch.onnx.export with a file to write
    strip(program.model_proto)
    return program.model_proto


def latency_table(rows: list[dict[str, str]], environment: dict) -> str:
    """Each model in the faster of OpenCV's engines and in ONNX Runtime."""
    lines = [["model", "runtime and engine", "median", "5th to 95th percentile"]]
    lines.append(["---", "---", "---:", "---:"])
    for row in rows:
        if row["fastest"] == "true":
            low, median, high = (float(row[f"latency_ms_{key}"]) for key in ("p5", "median", "p95"))
            runtime = f"{row['runtime']} {row['engine']}"
            lines.append([row["variant"], runtime, f"{median:.3f} ms", f"{low:.3f} to {high:.3f}"])
    threads = environment["threads"]
    note = (
        f"{environment['cpu']}, {threads} thread{'s' if threads > 1 else ''}, OpenCV "
        f"{environment['opencv']}, ONNX Runtime {environment['onnxruntime']}; batch 1, "
        f"{environment['rounds']} interleaved rounds of {environment['calls']} calls."
    )
    return f"{as_table(lines)}\n\n{note}\n"


def main() -> None:
    args = parse_args()
    if args.command == "export":
        content = resnet8_onnx().SerializeToString(deterministic=True)
        write_bytes(args.onnx, content)
        print(f"{args.onnx}: ResNet-8 with random weights, {len(content):,} bytes")
    else:
        environment = read_metrics(args.metrics, REMEDY)["environment"]
        rows = read_rows(args.latency, REMEDY)
        write_text(args.table, latency_table(rows, environment))
        print(args.table.read_text())


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export")
    export.add_argument("--onnx", type=Path, required=True)
    table = commands.add_parser("table")
    for name in ("metrics", "latency", "table"):
        table.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

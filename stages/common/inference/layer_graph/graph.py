"""A network as layers that name what they read, FP32 or INT8.

In an INT8 (QDQ) ONNX file every operator stands between DequantizeLinear and QuantizeLinear. Here
the three are one layer with integer weights and the quantization of its output, as in integer-only
formats.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError

PIXELS = "pixels"  # the name of the input
KINDS_WITHOUT_ARITHMETIC = ("max_pool",)


class UnsupportedNetwork(InputError):
    """A network that has no such form; ``reason`` says why, without the file."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero_point), with int8 integers.

    ``scale`` (n,) float32 and ``zero_point`` (n,) int64, where n is 1 or the output channels.
    """

    scale: np.ndarray
    zero_point: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Quantization)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


@dataclass(frozen=True)
class Layer:
    """One operator, with the shape (C, H, W) and the quantization of its output.

    ``inputs``: the names of the layers that it reads, or "pixels". ``kind``: "conv" (weight
    (O, I / groups, kH, kW)), "depthwise" (weight (O, 1, kH, kW), O a multiple of the input's
    channels), "linear" (weight (O, I), of an input in the order C, H, W) or, without weights,
    "max_pool", "average_pool", "mean" (over H and W), "add" and "multiply" (of two layers; a factor
    may be (C, 1, 1)), "concatenate" (along C), "sigmoid" and "hard_swish".

    Weights are float32, or int8 with ``weight_quantization`` by output channel; biases are float32,
    or int32 with the scale input scale * weight scale. ``pads``: top, left, bottom and right, as
    far as a window reaches them. ``activation``: "", "relu" or "relu6". ``fp32``: it reads FP32, or
    has FP32 weights.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    activation: str = ""
    weight: np.ndarray | None = None
    weight_quantization: Quantization | None = None
    bias: np.ndarray | None = None
    output: Quantization | None = None
    fp32: bool = True


@dataclass(frozen=True)
class Graph:
    """The input's ``shape`` (C, H, W) and quantization, the layers in an order in which each comes
    after what it reads, and the file's own metadata. The last layer makes the logits.

    ``mean``: the input is pixels - mean; it comes first in the network, and is no layer.
    """

    shape: tuple[int, int, int]
    input: Quantization | None
    layers: tuple[Layer, ...]
    metadata: dict[str, str]
    mean: float = 0.0


def require_int8(graph: Graph, path: str | Path) -> None:
    """Raise ``UnsupportedNetwork`` when a layer computes in FP32."""
    computing = [layer for layer in graph.layers if layer.kind not in KINDS_WITHOUT_ARITHMETIC]
    fp32 = [layer for layer in computing if layer.fp32]
    if fp32:
        raise UnsupportedNetwork(
            path,
            f"{len(fp32)} of {len(computing)} layers are FP32 (the first: {fp32[0].name}); a "
            "device for integers takes none (see quantize.exclude and quantize.repair)",
        )


def with_output(graph: Graph, output: Quantization) -> Graph:
    """The graph with its logits quantized, which ONNX leaves FP32 after a linear layer."""
    last = graph.layers[-1]
    if last.output is not None:
        return graph
    return replace(graph, layers=(*graph.layers[:-1], replace(last, output=output)))


def quantization_between(low: float, high: float) -> Quantization:
    """int8, asymmetric, of the reals from ``low`` to ``high``, and of 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    assert low < high, "a range of zero width has no scale"
    scale = np.float32((high - low) / 255)
    return Quantization(np.array([scale]), np.array([round(-128 - low / float(scale))]))

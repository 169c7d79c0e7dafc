"""ONNX operators in torch: those that exported convolutional networks use.

Each is a function of the node's attributes and of its inputs, which are tensors, or None where an
optional input is left out. Shapes are (N, C, H, W) or (N, C). Meaning and defaults are those of
ONNX operator sets 18 to 21 (onnx.ai/onnx/operators).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = dict[str, Any]
Operator = Callable[..., Tensor]  # (attributes, *inputs)


def convolution(
    attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    x, padding = padded(attributes, x, 0.0)
    strides, dilations = (attributes.get(key, [1, 1]) for key in ("strides", "dilations"))
    return F.conv2d(x, weight, bias, strides, padding, dilations, attributes.get("group", 1))


def linear(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gemm: alpha x' weight' + beta bias."""
    x = x.t() if attributes.get("transA", 0) else x
    weight = weight if attributes.get("transB", 0) else weight.t()
    product = F.linear(x, weight) * attributes.get("alpha", 1.0)
    return product if bias is None else product + bias * attributes.get("beta", 1.0)


def max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    x, padding = padded(attributes, x, -math.inf)
    return F.max_pool2d(
        x,
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        padding,
        attributes.get("dilations", [1, 1]),
        bool(attributes.get("ceil_mode", 0)),
    )


def average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    counts_padding = bool(attributes.get("count_include_pad", 0))
    inner, padding = padded(attributes, x, 0.0)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(
            values,
            attributes["kernel_shape"],
            attributes.get("strides", [1, 1]),
            padding,
            bool(attributes.get("ceil_mode", 0)),
            counts_padding,
        )

    if inner is x or counts_padding:
        return mean(inner)
    inside, _ = padded(attributes, torch.ones_like(x), 0.0)  # the share of each window in the image
    return mean(inner) / mean(inside)


def padded(attributes: Attributes, x: Tensor, value: float) -> tuple[Tensor, list[int]]:
    """The input, and the padding [rows, columns] that is left for a convolution or pool to do: none
    where it differs from side to side, which torch's do not take.
    """
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) == (bottom, right):
        return x, [top, left]
    return F.pad(x, (left, right, top, bottom), value=value), [0, 0]


def pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """All starts, then all ends; torch takes start and end of the last axis first."""
    sides = torch.zeros(2, x.dim(), dtype=torch.int64)
    chosen = list(range(x.dim())) if axes is None else axes.tolist()
    sides[:, chosen] = pads.cpu().view(2, -1)
    amounts = sides.flip(1).t().flatten().tolist()
    mode = {b"edge": "replicate"}.get(kind := attributes.get("mode", b"constant"), kind.decode())
    if mode == "constant":
        return F.pad(x, amounts, value=0.0 if value is None else float(value))
    return F.pad(x, amounts[: 2 * (x.dim() - 2)], mode=mode)  # of the images, not of N and C


def mean(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = list(range(x.dim())) if axes is None else axes.tolist()
    return x.mean(chosen, keepdim=bool(attributes.get("keepdims", 1)))


def reshaped(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """0 keeps a size, -1 takes what is left."""
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(shape.tolist())])


def flattened(attributes: Attributes, x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[: attributes.get("axis", 1)]), -1)


def squeezed(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes.tolist())


def unsqueezed(attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def batch_norm(
    attributes: Attributes,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    average: Tensor,
    variance: Tensor,
) -> Tensor:
    epsilon = attributes.get("epsilon", 1e-5)
    return F.batch_norm(x, average, variance, scale, bias, eps=epsilon)


def layer_norm(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    shape = x.shape[attributes.get("axis", -1) :]
    return F.layer_norm(x, shape, scale, bias, attributes.get("epsilon", 1e-5))


def clip(
    attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return torch.clamp(alpha * x + beta, 0, 1)


def of_inputs(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda attributes, *inputs: function(*inputs)


OPERATORS: dict[str, Operator] = {
    "Add": of_inputs(torch.add),
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Clip": clip,
    "Concat": lambda attributes, *inputs: torch.cat(inputs, attributes["axis"]),
    "Conv": convolution,
    "Div": of_inputs(torch.div),
    "Dropout": lambda attributes, x, *ignored: x,  # in inference
    "Erf": of_inputs(torch.erf),
    "Flatten": flattened,
    "Gelu": lambda attributes, x: F.gelu(
        x, approximate=attributes.get("approximate", b"none").decode()
    ),
    "Gemm": linear,
    "GlobalAveragePool": of_inputs(partial(torch.mean, dim=(2, 3), keepdim=True)),
    "GlobalMaxPool": of_inputs(partial(torch.amax, dim=(2, 3), keepdim=True)),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": of_inputs(F.hardswish),
    "Identity": lambda attributes, x: x,
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda attributes, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "MatMul": of_inputs(torch.matmul),
    "MaxPool": max_pool,
    "Mul": of_inputs(torch.mul),
    "Pad": pad,
    "ReduceMean": mean,
    "Relu": of_inputs(torch.relu),
    "Reshape": reshaped,
    "Sigmoid": of_inputs(torch.sigmoid),
    "Softmax": lambda attributes, x: torch.softmax(x, attributes.get("axis", -1)),
    "Squeeze": squeezed,
    "Sub": of_inputs(torch.sub),
    "Tanh": of_inputs(torch.tanh),
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
    "Unsqueeze": unsqueezed,
}

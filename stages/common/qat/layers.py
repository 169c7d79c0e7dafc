"""The weights of one operator, as they learn: in float, or rounded as an INT8 file rounds them.

Rounding has no gradient: it passes backward as if it were not there (Bengio et al., "Estimating or
propagating gradients through stochastic neurons", 2013; Jacob et al., "Quantization and training of
neural networks for efficient integer-arithmetic-only inference", CVPR 2018).
"""

from typing import Any

import torch
from torch import Tensor, nn

INT32 = 2**31 - 1
# onnxruntime.quantization gives a weight the scale at which its bias fits 32 bits, and this more.
BIAS_MARGIN = 1.0001


class Rounding(torch.autograd.Function):
    """Multiples of a scale, the integers from ``low`` to ``high``. The gradient passes where the
    value is between these.

    It divides by the scale, as ONNX does. torch.fake_quantize_per_tensor_affine multiplies by the
    reciprocal, and takes another integer for some values that are half way between two.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        integers = values.div(scale).round_()
        inside = integers.clamp(low, high)
        ctx.save_for_backward(inside == integers)
        return inside.mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        [inside] = ctx.saved_tensors
        return gradient * inside, None, None, None


rounded = Rounding.apply


class FloatLayer(nn.Module):
    """The weight and the bias of a convolution or linear layer.

    A step moves a weight by a share of what the weights of its channel are on average, since a
    folded BatchNorm leaves channels of very different size; a bias by a share of what the layer's
    are on average, or of 1 where these are 0. A weight that is 0 stays 0: pruning wrote it.

    ``axis``: the output channels of ``weight`` (O, I, kH, kW), or of a linear layer (2 axes).
    """

    start: Tensor
    unit: Tensor
    bias_start: Tensor | None
    bias_unit: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, axis: int):
        super().__init__()
        self.axis = axis
        size = root_mean_square(weight, [each for each in range(weight.dim()) if each != axis])
        self.register_buffer("start", weight)
        self.register_buffer("unit", size * (weight != 0))
        self.change = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("bias_start", bias)
        self.register_buffer("bias_unit", None)
        if bias is not None:
            size = root_mean_square(bias, [0])
            self.bias_unit = torch.where(size > 0, size, 1.0)
            self.bias_change = nn.Parameter(torch.zeros_like(bias))

    def weight(self) -> Tensor:
        return self.start + self.unit * self.change

    def bias(self) -> Tensor | None:
        if self.bias_start is None or self.bias_unit is None:
            return None
        return self.bias_start + self.bias_unit * self.bias_change

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """The weight and the bias that the operator computes with."""
        return self.weight(), self.bias()


class Int8Layer(FloatLayer):
    """Computes with what an INT8 file would hold: weights of 2 ``levels`` + 1 integers, by channel
    where ``by_channel``, and where ``int32_bias`` a bias of scale input_scale * weight scale.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        axis: int,
        levels: int,
        by_channel: bool,
        input_scale: float,
        int32_bias: bool = True,
    ):
        super().__init__(weight, bias, axis)
        self.levels = levels
        self.by_channel = by_channel
        self.input_scale = input_scale
        self.int32_bias = int32_bias

    def forward(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weight(), self.bias()
        integers = bias if self.int32_bias else None
        scale = self.scale(weight.detach(), integers)
        shape = [-1 if each == self.axis else 1 for each in range(weight.dim())]
        return (
            rounded(weight, scale.view(shape), -self.levels, self.levels),
            bias if integers is None else rounded_bias(integers, scale * self.input_scale),
        )

    def scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(O,) float32, as onnxruntime.quantization chooses it."""
        others = [each for each in range(weight.dim()) if each != self.axis]
        largest = weight.abs().amax(others)
        least = torch.zeros_like(largest)
        if bias is not None:
            least = BIAS_MARGIN * bias.detach().abs() / INT32 / self.input_scale
        if not self.by_channel:
            largest, least = (each.amax().expand_as(each) for each in (largest, least))
        scale = (largest.double() / self.levels).float()
        return torch.maximum(torch.where(scale > 0, scale, 1.0), least)


def rounded_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """(O,) float32: multiples of its scales (O,)."""
    integers = (bias.detach().double() / scale.double()).round()
    return bias + (integers.float() * scale - bias.detach())


def root_mean_square(values: Tensor, axes: list[int]) -> Tensor:
    return values.square().mean(axes, keepdim=True).sqrt()

"""The 3x3 convolution of the network, with a filter gradient that is fast on small images too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 8  # images narrower than this are laid side by side
ABREAST = 10  # so many of them; 5 and 25 take as long


class Convolution(nn.Conv2d):
    """3x3, padded by one, without a bias: (N, in, H, W) -> (N, out, H, W).

    oneDNN's filter gradient in bfloat16 on AMX works along an image's rows, which are short where
    the network has pooled: of 500 images with 256 channels of 7x7 it takes 49 ms on two cores
    (Xeon, Emerald Rapids), and 27 ms with ten of them side by side; of 3x3, 29 and 6 ms.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[-1] < SMALL and multiplies_in_tiles(x):
            return SideBySide.apply(x.to(torch.bfloat16), self.weight.to(torch.bfloat16))
        return super().forward(x)


def multiplies_in_tiles(x: Tensor) -> bool:
    """Whether products are in bfloat16 on a processor with AMX."""
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.cpu._is_amx_tile_supported()
    )


class SideBySide(torch.autograd.Function):
    """A 3x3 convolution, padded by one, whose filter gradient sees images side by side."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_input, of_weight = ctx.needs_input_grad
        return (
            gradients(gradient, x, weight, [True, False, False])[0] if of_input else None,
            gradients(side_by_side(gradient), side_by_side(x), weight, [False, True, False])[1]
            if of_weight
            else None,
        )


def gradients(gradient: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple:
    """Of input, filters and bias, those that are wanted."""
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted
    )


def side_by_side(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N / ABREAST, C, H, ABREAST * (W + 1)), channels last; N is rounded up.

    A column of zeros between two images is their padding, and in the gradient adds nothing.
    """
    count, channels, height, width = images.shape
    rows = -(-count // ABREAST)
    missing = rows * ABREAST - count
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 0, 0, missing))
    rowwise = padded.view(rows, ABREAST, height, width + 1, channels).transpose(1, 2)
    return rowwise.reshape(rows, height, ABREAST * (width + 1), channels).permute(0, 3, 1, 2)

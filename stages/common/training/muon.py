"""Muon, the optimizer of the convolution filters."""

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for filters (out, in, height, width).

    Each filter bank is kept at the norm sqrt(out); BatchNorm makes its scale irrelevant. After
    airbench94_muon by Keller Jordan. ``torch.optim.Muon`` refuses 4-D weights and always works in
    bfloat16, in which a product that takes 5 ms in float32 takes 281 ms on an AVX2 CPU; here
    ``precision`` is the type of the products.
    """

    def __init__(
        self, params: list[dict], momentum: float, precision: torch.dtype, lr: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.precision = precision

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # a closure is never given
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:  # it does not learn at present
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(state["momentum"], alpha=group["momentum"])  # Nesterov
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                direction = orthogonalize(update.flatten(1), self.precision)
                weight.sub_(group["lr"] * direction.view(update.shape))


def orthogonalize(matrix: Tensor, precision: torch.dtype, steps: int = 3) -> Tensor:
    """Push all singular values of a matrix (rows, columns) float32 towards 1 (Newton-Schulz,
    quintic), with products of type ``precision``.

    Coefficients: https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if tall := len(x) > x.shape[1]:
        x = x.T
    for _ in range(steps):
        factor = x.to(precision)  # once: on a GPU the optimizer's time is that of its many kernels
        gram = factor @ factor.T
        x = a * x + (b * gram + c * gram @ gram) @ factor
    return x.T if tall else x

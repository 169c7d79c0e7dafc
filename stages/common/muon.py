"""Muon, the optimizer of the convolution filters."""

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for filters (out, in, height, width).

    Each filter bank is kept at the norm sqrt(out); BatchNorm makes its scale irrelevant. After
    airbench94_muon by Keller Jordan. ``torch.optim.Muon`` refuses 4-D weights and always works in
    bfloat16, in which a product that takes 5 ms in float32 takes 281 ms on an AVX2 CPU; here the
    caller's autocast says whether.
    """

    def __init__(self, params: list[dict], momentum: float, lr: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(state["momentum"], alpha=group["momentum"])  # Nesterov
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(group["lr"] * orthogonalize(update.flatten(1)).view(update.shape))


def orthogonalize(matrix: Tensor, steps: int = 3) -> Tensor:
    """Push all singular values of a matrix (rows, columns) towards 1 (Newton-Schulz, quintic).

    Coefficients: https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if tall := len(x) > x.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x

"""The convolution: its fast filter gradient is the plain one."""

import pytest
import torch

from stages.common.network import convolution
from stages.common.network.convolution import Convolution, gradients, side_by_side


@pytest.mark.parametrize("count", [7, 20, 33])  # less than, twice and more than the number abreast
@pytest.mark.parametrize("size", [3, 7])
def test_the_filter_gradient_of_images_side_by_side_is_that_of_each_alone(count, size):
    torch.manual_seed(0)
    x = torch.randn(count, 6, size, size)
    gradient = torch.randn(count, 4, size, size)
    weight, wanted = torch.randn(4, 6, 3, 3), [False, True, False]
    alone = gradients(gradient, x, weight, wanted)[1]
    together = gradients(side_by_side(gradient), side_by_side(x), weight, wanted)[1]
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-4)


def gradients_of(layer: Convolution, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (layer(x).float() ** 2).sum().backward()
    return x.grad, layer.weight.grad


def test_training_in_tiles_gives_the_same_gradients(monkeypatch):
    torch.manual_seed(0)
    layer = Convolution(6, 4)
    x = torch.randn(20, 6, 7, 7)
    monkeypatch.setattr(convolution, "multiplies_in_tiles", lambda x: False)
    plain = gradients_of(layer, x)
    used = []
    apply = convolution.SideBySide.apply
    monkeypatch.setattr(convolution, "multiplies_in_tiles", lambda x: True)
    monkeypatch.setattr(
        convolution.SideBySide, "apply", lambda *inputs: used.append(1) or apply(*inputs)
    )
    for ours, theirs in zip(gradients_of(layer, x), plain, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
    assert used, "the fast gradient was not used"


def test_float32_is_left_alone():
    assert not convolution.multiplies_in_tiles(torch.zeros(1))

"""The statistics of BatchNorm after a cut: the layers see other inputs than before."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from stages.common.data.dataset import Images
from stages.common.network.network import Network

Model = TypeVar("Model", bound=Network)


def cut_with_norms(
    model: Model,
    cut: Callable[[Model], Model],
    images: Images,
    batch_size: int,
    device: torch.device,
) -> Model:
    """The model cut by ``cut``, its BatchNorms' statistics moved as their inputs moved.

    For training that keeps statistics (``recipe.frozen_norms``); other training replaces them
    anyway. ``cut`` must leave the model as it is. The result is on the device.
    """
    after = cut(model)
    channels = channels_left(model, cut)
    move_norms(model.to(device), after.to(device), channels, images, batch_size)
    return after


def channels_left(model: Model, cut: Callable[[Model], Model]) -> list[Tensor]:
    """Of each BatchNorm after the cut, which channels of the model's it has: (C,) int64."""
    numbered = copy.deepcopy(model)
    for norm in norms_of(numbered):
        mean, _ = statistics(norm)
        mean.copy_(torch.arange(len(mean)))
    return [statistics(norm)[0].long() for norm in norms_of(cut(numbered))]


@torch.no_grad()
def move_norms(
    before: Network, after: Network, channels: list[Tensor], images: Images, batch_size: int
) -> None:
    """Move the statistics of ``after``, in place, by what the cut changed on the images.

    Both networks see the same batches. A mean moves by the difference of the means of its inputs;
    a variance changes in the ratio of theirs; the result is the mean over the images. Estimating
    them anew would lose what they were before: those of the images that pretrained the network.
    Kin to the bias correction of Nagel et al., ICCV 2019 (arXiv:1906.04721).
    """
    device = next(after.parameters()).device
    moving = [MovingNorm(*each) for each in zip(norms_of(after), channels, strict=True)]
    whole = norms_of(before.eval())
    after.eval()
    hooks = []
    for norm, moved in zip(whole, moving, strict=True):
        hooks.append(norm.register_forward_pre_hook(moved.see_before))
        hooks.append(moved.norm.register_forward_pre_hook(moved.see_after))
    for batch in torch.from_numpy(images.pixels).split(batch_size):
        pixels = batch.to(device, torch.float32, memory_format=torch.channels_last)
        before(pixels)
        after(pixels)
    for hook in hooks:
        hook.remove()
    for moved in moving:
        moved.keep_mean()


class MovingNorm:
    """A BatchNorm of the cut network, whose statistics follow the batch that it sees."""

    def __init__(self, norm: nn.BatchNorm2d, channels: Tensor):
        self.norm = norm
        self.mean, self.variance = statistics(norm)
        self.channels = channels.to(self.mean.device)
        self.own = self.mean.clone(), self.variance.clone()
        self.sums = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        self.images = 0

    def see_before(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        self.seen = mean[self.channels], variance[self.channels]

    def see_after(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        count, epsilon = len(inputs[0]), self.norm.eps
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        self.mean.copy_(self.own[0] + mean - self.seen[0])
        self.variance.copy_(self.own[1] * (variance + epsilon) / (self.seen[1] + epsilon))
        self.sums[0].add_(self.mean, alpha=count)
        self.sums[1].add_(self.variance, alpha=count)
        self.images += count

    def keep_mean(self) -> None:
        if self.images:
            self.mean.copy_(self.sums[0] / self.images)
            self.variance.copy_(self.sums[1] / self.images)


def norms_of(model: Network) -> list[nn.BatchNorm2d]:
    """Those that keep statistics."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    return [norm for norm in norms if norm.track_running_stats]


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) float32, the buffers themselves."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var

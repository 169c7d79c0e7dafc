"""The unpruned network as teacher: what it says of mixtures of two training images.

A small network that is trained long learns by heart what a teacher says of the training images. Of
mixtures there are as many as one likes, and none has been trained on: to say the same as the
teacher there is to be the same function (Beyer et al., "Knowledge distillation: a good teacher is
patient and consistent", CVPR 2022).
"""

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.common.data.cifar10 import CLASSES, Images
from stages.common.network.network import Network, size_of
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import EpochStore, work_key
from stages.common.training.context import RunContext
from stages.common.training.teacher import EpochData, Teacher, mirrored_logits


@dataclass(frozen=True)
class Mixtures:
    """A network's outputs on so many mixtures of the images, each made when it is first needed.

    An output is the mean of those on the mixture and on its mirror image, and stands for both.
    The mixtures are the same whatever the seed of the training.
    """

    network: Network
    labels: Tensor  # (N,) int64
    views: int
    batch_size: int
    precision: torch.dtype
    store: EpochStore
    digest: str

    def epoch_data(self, augmenter: Augmenter, epoch: int) -> EpochData:
        """The next of the mixtures, in every other pass over them their mirror images."""
        passes, number = divmod(epoch, self.views)
        mixture = augmenter.mixture(number)
        batches = mixture.pixels.split(self.batch_size)
        logits = self.store.array(
            f"{self.digest}-{number}",
            lambda: mirrored_logits(self.network, batches, self.precision).astype(np.float16),
        )
        pixels = mixture.pixels.flip(-1) if passes % 2 else mixture.pixels
        return EpochData(pixels, logits, mixture.labels(self.labels, len(CLASSES)))


@dataclass(frozen=True)
class MixturesFirst:
    """A teacher of mixtures for some epochs, then one of plain views."""

    mixtures: Mixtures
    mixed_epochs: int
    plain: Teacher

    @property
    def seed(self) -> int:
        return self.plain.seed

    @property
    def digest(self) -> str:
        views = self.mixtures.views
        return f"{self.mixtures.digest} {views} {self.mixed_epochs} {self.plain.digest}"

    def epoch_data(self, augmenter: Augmenter, epoch: int, seed: int) -> EpochData:
        if epoch < self.mixed_epochs:
            return self.mixtures.epoch_data(augmenter, epoch)
        return self.plain.epoch_data(augmenter, epoch, seed)


def mixtures_of(
    network: Network, context: RunContext, seed: int, views: int, batch_size: int
) -> Mixtures:
    """With a copy of the network; its outputs are kept in the context's store until that is
    cleared.
    """
    device, store = context.device, context.store
    copied = copy.deepcopy(network).to(device, memory_format=torch.channels_last).eval()
    facts = {"data": context.images.digest(), "recipe": dataclasses.asdict(context.recipe)}
    digest = work_key(copied, device, **facts, mixtures=seed)
    for number in range(views):
        store.path(f"{digest}-{number}", ".npy")
    labels = torch.from_numpy(context.images.labels)
    return Mixtures(copied, labels, views, batch_size, context.precision, store, digest)


def teaching_flops(base: Network, images: Images, views: int, mixed_epochs: int) -> int:
    """What the outputs cost that so many epochs on mixtures have needed."""
    products = 2 * size_of(base).macs  # a multiplication and an addition
    return min(views, mixed_epochs) * len(images) * 2 * products  # and the mirror image

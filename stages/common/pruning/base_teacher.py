"""The unpruned network as teacher: on mixtures of two training images, or on new views of each.

A small network that is trained for long memorises a teacher's outputs on the training images.
Mixtures are unlimited in number, and the teacher was trained on none: matching it there means
computing the same function (Beyer et al., "Knowledge distillation: a good teacher is patient and
consistent", CVPR 2022).
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.common.core.params import recorded
from stages.common.data.dataset import Images
from stages.common.network.network import Network
from stages.common.network.size import size_of
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import EpochStore, work_key
from stages.common.training.context import RunContext
from stages.common.training.teacher import EpochData, Teacher, mirrored_logits, turn_of


@dataclass(frozen=True)
class MixupTeacher:
    """A network's outputs on ``views`` mixtures of every image, computed when first needed.

    An output is the mean of those on the mixture and on its mirror image, and serves as target for
    both. The mixtures are the same whatever the seed of the training.
    """

    network: Network
    labels: Tensor  # (N,) int64
    classes: int
    seed: int
    views: int
    batch_size: int
    precision: torch.dtype
    store: EpochStore
    digest: str

    def epoch_data(self, augmenter: Augmenter, epoch: int, seed: int) -> EpochData:
        """The next of the mixtures, in every other pass over them their mirror images."""
        number, mirrored = turn_of(epoch, self.views)
        mixture = augmenter.mixture(number)
        batches = mixture.pixels.split(self.batch_size)
        logits = self.store.array(
            f"{self.digest}-{number}",
            lambda: mirrored_logits(
                self.network, batches, self.precision, augmenter.info.flip
            ).astype(np.float16),
        )
        pixels = mixture.pixels.flip(-1) if mirrored and augmenter.info.flip else mixture.pixels
        return EpochData(pixels, logits, mixture.labels(self.labels, self.classes))


@dataclass(frozen=True)
class NetworkTeacher:
    """A network's outputs on a new view of every image, computed in every epoch.

    For a pruning without a wider teacher, whose outputs would have been computed before.
    """

    network: Network
    seed: int
    batch_size: int
    precision: torch.dtype
    key: str  # identifies network, images and recipe

    @property
    def digest(self) -> str:
        return f"{self.key} {self.seed}"

    def epoch_data(self, augmenter: Augmenter, epoch: int, seed: int) -> EpochData:
        pixels = augmenter.view(epoch)
        batches = pixels.split(self.batch_size)
        logits = mirrored_logits(self.network, batches, self.precision, mirror=False)
        return EpochData(pixels, logits.astype(np.float16))


@dataclass(frozen=True)
class MixupFirst:
    """A teacher of mixtures for some epochs, then one of plain views."""

    mixup: MixupTeacher
    mixup_epochs: int
    plain: Teacher

    @property
    def seed(self) -> int:
        return self.plain.seed

    @property
    def digest(self) -> str:
        return f"{self.mixup.digest} {self.mixup.views} {self.mixup_epochs} {self.plain.digest}"

    def epoch_data(self, augmenter: Augmenter, epoch: int, seed: int) -> EpochData:
        teacher = self.mixup if epoch < self.mixup_epochs else self.plain
        return teacher.epoch_data(augmenter, epoch, seed)


def mixup_teacher(
    network: Network, context: RunContext, seed: int, views: int, batch_size: int
) -> MixupTeacher:
    """With a copy of the network; its outputs stay in the context's store until that is cleared."""
    copied = on_device(network, context)
    digest = work_key(copied, context.device, **facts_of(context), mixtures=seed)
    for number in range(views):
        context.store.path(f"{digest}-{number}", ".npy")
    return MixupTeacher(
        network=copied,
        labels=torch.from_numpy(context.images.labels),
        classes=len(context.images.classes),
        seed=seed,
        views=views,
        batch_size=batch_size,
        precision=context.precision,
        store=context.store,
        digest=digest,
    )


def network_teacher(network: Network, context: RunContext, batch_size: int) -> NetworkTeacher:
    """With a copy of the network."""
    copied = on_device(network, context)
    key = work_key(copied, context.device, **facts_of(context), precision=str(context.precision))
    return NetworkTeacher(copied, 0, batch_size, context.precision, key)


def on_device(network: Network, context: RunContext) -> Network:
    """A copy, ready to answer batches of images."""
    return copy.deepcopy(network).to(context.device).to(memory_format=torch.channels_last).eval()


def facts_of(context: RunContext) -> dict:
    return {"data": context.images.digest(), "recipe": recorded(context.recipe)}


def teaching_flops(
    base: Network, images: Images, views: int, mixup_epochs: int, view_epochs: int = 0
) -> int:
    """The operations that the base's outputs cost, for so many epochs on mixtures and on views."""
    forward = 2 * size_of(base).macs  # a multiplication and an addition
    mixtures = 2 * min(views, mixup_epochs)  # and their mirror images
    return (mixtures + view_epochs) * len(images) * forward

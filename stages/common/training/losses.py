"""Losses: cross-entropy with the labels, and the distance to a teacher's outputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from stages.common.training.teacher import Teacher

# (logits (N, classes), labels (N,) int64 or (N, classes) float32 probabilities, the teacher's
# logits (N, classes) or None) -> scalar loss
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss, the key that identifies it, and the teacher if there is one."""

    loss: Loss
    key: str
    teacher: Teacher | None = None


def label_objective(label_smoothing: float) -> Objective:
    return Objective(loss=smoothed_cross_entropy(label_smoothing), key="labels")


def distillation_objective(
    teacher: Teacher, weight: float, temperature: float, label_smoothing: float
) -> Objective:
    """The labels and the teacher's outputs; see ``distillation``."""
    return Objective(
        loss=distillation(weight, temperature, label_smoothing),
        key=f"{teacher.digest} {weight} {temperature}",
        teacher=teacher,
    )


def smoothed_cross_entropy(label_smoothing: float) -> Loss:
    return lambda logits, labels, _: F.cross_entropy(
        logits, labels, label_smoothing=label_smoothing
    )


def distillation(weight: float, temperature: float, label_smoothing: float) -> Loss:
    """Cross-entropy with the labels, and with the teacher's softened outputs.

    loss = (1 - w) CE(student, labels) + w T^2 KL(teacher / T, student / T); Hinton et al. 2015.
    """
    hard = smoothed_cross_entropy(label_smoothing)

    def loss(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        assert teacher is not None, "distillation needs the teacher's logits"
        soft = F.kl_div(
            F.log_softmax(logits / temperature, dim=1),
            F.log_softmax(teacher / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - weight) * hard(logits, labels, teacher) + weight * temperature**2 * soft

    return loss

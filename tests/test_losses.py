"""Distillation is zero for equal outputs, and plain cross-entropy at weight 0."""

import pytest
import torch

from stages.common.training.losses import distillation

LABELS = torch.arange(20) % 10


def logits_of_two() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 20, 10) * 5


def test_distillation_is_zero_where_student_and_teacher_agree():
    loss = distillation(weight=1.0, temperature=4.0, label_smoothing=0.0)
    logits, others = logits_of_two()
    assert loss(logits, LABELS, logits).item() == pytest.approx(0, abs=1e-5)
    assert loss(others, LABELS, logits).item() > 0.1


def test_without_distillation_the_loss_is_cross_entropy():
    loss = distillation(weight=0.0, temperature=4.0, label_smoothing=0.1)
    logits, others = logits_of_two()
    expected = torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.1)
    assert loss(logits, LABELS, others).item() == pytest.approx(expected.item(), rel=1e-6)

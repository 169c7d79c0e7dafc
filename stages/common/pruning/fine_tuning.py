"""Fine-tuning of what pruning has left, in as many steps as it was removed in."""

import copy
from collections.abc import Callable

import torch

from stages.common.network.network import Network, size_of
from stages.common.pruning.latency_model import LatencyModel
from stages.common.pruning.mixup_teacher import MixturesFirst, mixtures_of
from stages.common.pruning.params import PruneParams, refuse_contradictions
from stages.common.pruning.pruning import (
    budget_at,
    keep_widths,
    mask_weights,
    remove_channels,
    remove_milliseconds,
    unmask,
)
from stages.common.training.checkpoints import Progress
from stages.common.training.context import RunContext
from stages.common.training.loop import Monitor, evaluate, fit, ignore
from stages.common.training.losses import Objective, distillation_objective
from stages.common.training.params import Schedule
from stages.common.training.teacher import Teacher


def objective(teacher: Teacher, params: PruneParams, context: RunContext) -> Objective:
    """The labels and the teacher's outputs."""
    return distillation_objective(
        teacher, params.distillation, params.temperature, context.recipe.label_smoothing
    )


def prune_and_fine_tune(
    base: Network,
    teacher: Teacher,
    params: PruneParams,
    context: RunContext,
    latency: LatencyModel | None = None,
    on_epoch: Callable[[list[list[dict]]], None] = ignore,
) -> tuple[Network, list[Progress], list[float]]:
    """Remove in equal steps, fine-tuning after each; the base teaches first, where params say so.

    Returns the network, the progress of each step's fine-tuning, and the validation accuracy in
    percent after each removal, before its fine-tuning. ``on_epoch`` is called after every epoch
    with the rows of all steps so far, one list a step.
    """
    refuse_contradictions(params)
    device, images = context.device, context.images
    before = size_of(base)
    if params.most_mixed_epochs():
        mixtures = mixtures_of(
            base,
            context,
            seed=teacher.seed,
            views=params.mixup_views,
            batch_size=params.batch_size,
        )
    model = copy.deepcopy(base)
    stages: list[Progress] = []
    raw_accuracy: list[float] = []

    def step_epoch(history: list[dict]) -> None:
        on_epoch([*(stage.history for stage in stages), history])

    for step in range(1, params.steps + 1):
        amount = params.amount * step / params.steps
        budget_ms = budget_at(step, base, params, latency)
        if params.widths:
            model = keep_widths(model.cpu(), base, step, images, params)
        elif budget_ms is not None:
            model = remove_milliseconds(model.cpu(), budget_ms, images, params, latency)
        elif params.method == "structured":
            model = remove_channels(model.cpu(), before, amount, images, params)
        else:
            model = model.to("cpu", memory_format=torch.contiguous_format)
            mask_weights(model, before, amount, params)
        raw_accuracy.append(evaluate(model.to(device), context.validation, device))
        epochs = params.epochs if step == params.steps else params.epochs_between
        mixed = params.mixed_epochs(epochs)
        schedule = Schedule(
            epochs=epochs,
            batch_size=params.batch_size,
            learning_rate=params.learning_rate,
            warmup=params.warmup,
        )
        step_teacher = MixturesFirst(mixtures, mixed, teacher) if mixed else teacher
        stages.append(
            fit(
                model,
                objective(step_teacher, params, context),
                schedule,
                params.seed + step,
                context,
                Monitor(f"prune step {step}/{params.steps}, epoch", step_epoch),
            )
        )
        if params.method == "unstructured":
            unmask(model)
    return model.cpu(), stages, raw_accuracy

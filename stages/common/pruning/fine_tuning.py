"""Fine-tuning of what pruning has left, in as many steps as it was removed in."""

import copy

import torch

from stages.common.data.cifar10 import Images
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
from stages.common.training.checkpoints import EpochStore, Progress
from stages.common.training.loop import evaluate, fit
from stages.common.training.losses import from_teacher
from stages.common.training.recipe import RecipeParams, Schedule, pick_device
from stages.common.training.teacher import Teaches


def fine_tune(
    model: Network,
    teacher: Teaches,
    images: Images,
    validation: Images,
    recipe: RecipeParams,
    params: PruneParams,
    schedule: Schedule,
    seed: int,
    store: EpochStore,
    title: str,
) -> Progress:
    """Train ``model``, in place, on the labels and on the teacher's outputs; see ``fit``."""
    return fit(
        model,
        images,
        validation,
        recipe=recipe,
        schedule=schedule,
        seed=seed,
        device=pick_device(params.device),
        store=store,
        title=title,
        lesson=from_teacher(
            teacher, params.distillation, params.temperature, recipe.label_smoothing
        ),
    )


def prune_and_fine_tune(
    base: Network,
    teacher: Teaches,
    images: Images,
    validation: Images,
    recipe: RecipeParams,
    params: PruneParams,
    store: EpochStore,
    latency: LatencyModel | None = None,
) -> tuple[Network, list[Progress], list[float]]:
    """Remove in equal steps, fine-tuning after each; the base teaches first, where params say so.

    Returns the network, the progress of each step's fine-tuning, and the validation accuracy in
    percent after each removal, before its fine-tuning.
    """
    refuse_contradictions(params)
    device = pick_device(params.device)
    before = size_of(base)
    if params.most_mixed_epochs():
        mixtures = mixtures_of(
            base,
            images,
            recipe,
            device,
            store,
            seed=teacher.seed,
            views=params.mixed_views,
            batch_size=params.batch_size,
        )
    model, stages, raw_accuracy = copy.deepcopy(base), [], []
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
        raw_accuracy.append(evaluate(model.to(device), validation, device))
        epochs = params.epochs if step == params.steps else params.epochs_between
        mixed = params.mixed_epochs(epochs)
        schedule = Schedule(
            epochs=epochs,
            batch_size=params.batch_size,
            learning_rate=params.learning_rate,
            warmup=params.warmup,
        )
        stages.append(
            fine_tune(
                model,
                MixturesFirst(mixtures, mixed, teacher) if mixed else teacher,
                images,
                validation,
                recipe,
                params,
                schedule,
                seed=params.seed + step,
                store=store,
                title=f"prune step {step}/{params.steps}, epoch",
            )
        )
        if params.method == "unstructured":
            unmask(model)
    return model.cpu(), stages, raw_accuracy

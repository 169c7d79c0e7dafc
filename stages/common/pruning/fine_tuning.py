"""Pruning in steps: importance -> plan -> cut -> fine-tune, and again."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stages.common.data.dataset import Images
from stages.common.network.chain import Chain, widths_of
from stages.common.network.size import size_of
from stages.common.pruning.cut import hold_at_zero, keep_channels, make_permanent
from stages.common.pruning.groups import latency_cost, size_cost
from stages.common.pruning.importance import scored_groups
from stages.common.pruning.latency_model import LatencyModel
from stages.common.pruning.mixup_teacher import MixupFirst, mixup_teacher
from stages.common.pruning.params import PruneParams
from stages.common.pruning.plan import goals_of, in_words, make_plan
from stages.common.training.checkpoints import Progress
from stages.common.training.context import RunContext
from stages.common.training.loop import Monitor, evaluate, fit, ignore
from stages.common.training.losses import distillation_objective
from stages.common.training.params import Schedule
from stages.common.training.teacher import Teacher

Cut = Callable[[Chain, int], Chain]  # the network and the number of the step, from 1


@dataclass(frozen=True)
class Pruned:
    """A pruned network, on the CPU, and how it came about."""

    network: Chain
    fine_tuning: list[Progress]  # one a step
    accuracy_before_fine_tuning: float  # percent of the validation images, after the last cut


def prune_in_steps(
    base: Chain,
    teacher: Teacher,
    params: PruneParams,
    context: RunContext,
    latency: LatencyModel | None = None,
    on_epoch: Callable[[list[list[dict]]], None] = ignore,
) -> Pruned:
    """Cut a copy of the base in equal steps, fine-tuning after each.

    ``latency`` is given where the params ask for milliseconds. After every epoch ``on_epoch`` is
    called with the rows of the curve, one list a step.
    """
    cut = cut_of(base, params, context.images, latency)
    teacher_of = teachers_of(base, teacher, params, context)
    model, accuracy = copy.deepcopy(base), 0.0
    fine_tuning: list[Progress] = []

    def after_epoch(history: list[dict]) -> None:
        on_epoch([*(progress.history for progress in fine_tuning), history])

    for step in range(1, params.steps + 1):
        model = cut(model, step)
        accuracy = evaluate(model.to(context.device), context.validation, context.device)
        schedule = schedule_of(step, params)
        objective = distillation_objective(
            teacher_of(schedule.epochs),
            params.distillation,
            params.temperature,
            context.recipe.label_smoothing,
        )
        monitor = Monitor(f"prune step {step}/{params.steps}, epoch", after_epoch)
        fine_tuning.append(fit(model, objective, schedule, params.seed + step, context, monitor))
        if params.method == "unstructured":
            make_permanent(model)
    return Pruned(model.cpu(), fine_tuning, accuracy)


def cut_of(
    base: Chain, params: PruneParams, images: Images, latency: LatencyModel | None = None
) -> Cut:
    """The function that makes a step's cut: zeros written in place, or channels removed."""
    if params.method == "unstructured":
        before = size_of(base)

        def write_zeros(model: Chain, step: int) -> Chain:
            model = model.cpu().to(memory_format=torch.contiguous_format)
            share = params.amount * step / params.steps
            hold_at_zero(model, share, before, params.target, params.allocation)
            return model

        return write_zeros

    cost = size_cost(base, params.target) if latency is None else latency_cost(base, latency)
    goals = goals_of(params, widths_of(base), cost, latency)

    def remove_channels(model: Chain, step: int) -> Chain:
        model = model.cpu()
        groups = scored_groups(model, images, params.importance, params.seed)
        plan = make_plan(groups, goals[step - 1], params.round_to)
        print(f"plan of step {step}/{params.steps}: {in_words(plan, groups)}")
        return keep_channels(model, groups, plan)

    return remove_channels


def schedule_of(step: int, params: PruneParams) -> Schedule:
    return Schedule(
        epochs=params.epochs if step == params.steps else params.epochs_between,
        batch_size=params.batch_size,
        learning_rate=params.learning_rate,
        warmup=params.warmup,
    )


def teachers_of(
    base: Chain, plain: Teacher, params: PruneParams, context: RunContext
) -> Callable[[int], Teacher]:
    """The teacher of a fine-tuning with so many epochs: on mixtures first, where params say so."""
    if not params.most_mixup_epochs():
        return lambda _: plain
    mixup = mixup_teacher(base, context, plain.seed, params.mixup_views, params.batch_size)

    def teacher(epochs: int) -> Teacher:
        mixup_epochs = params.mixup_epochs(epochs)
        return MixupFirst(mixup, mixup_epochs, plain) if mixup_epochs else plain

    return teacher

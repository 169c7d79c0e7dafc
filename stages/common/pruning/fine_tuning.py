"""Pruning in steps: importance -> plan -> cut -> fine-tune, and again."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stages.common.data.dataset import Images
from stages.common.network.chain import Chain, widths_of
from stages.common.network.network import Network
from stages.common.network.size import size_of
from stages.common.pruning.base_teacher import MixupFirst, mixup_teacher, network_teacher
from stages.common.pruning.costs import latency_cost, memory_cost, size_cost
from stages.common.pruning.cut import hold_at_zero, keep_channels, make_permanent
from stages.common.pruning.importance import scored_groups
from stages.common.pruning.latency.candidates import CandidateTimer
from stages.common.pruning.latency.model import LatencyModel
from stages.common.pruning.memory.model import MemoryModel
from stages.common.pruning.norms import cut_with_norms
from stages.common.pruning.params import PruneParams
from stages.common.pruning.plan.goals import Cost, goals_of
from stages.common.pruning.plan.plan import in_words, make_plan
from stages.common.training.checkpoints import Progress
from stages.common.training.context import RunContext
from stages.common.training.loop import Monitor, evaluate, fit, ignore
from stages.common.training.losses import Objective, distillation_objective, label_objective
from stages.common.training.params import Schedule
from stages.common.training.teacher import Teacher, TeacherOutputs

Cut = Callable[[Network, int], Network]  # the network and the number of the step, from 1
# of a network, which stays as it is, and a function that returns a changed copy: that copy
ApplyCut = Callable[[Network, Callable[[Network], Network]], Network]
# Milliseconds of the chain by a profile, of another network measured; or bytes of any network.
CostModel = LatencyModel | CandidateTimer | MemoryModel


@dataclass(frozen=True)
class Pruned:
    """A pruned network, on the CPU, and how it came about."""

    network: Network
    fine_tuning: list[Progress]  # one a step
    accuracy_before_fine_tuning: float  # percent of the validation images, after the last cut


def prune_in_steps(
    base: Network,
    teacher: TeacherOutputs,
    params: PruneParams,
    context: RunContext,
    cost_model: CostModel | None = None,
    on_epoch: Callable[[list[list[dict]]], None] = ignore,
    keep_whole: Sequence[str] = (),
) -> Pruned:
    """Cut a copy of the base in equal steps, fine-tuning after each.

    ``cost_model`` is given where the params ask for milliseconds or bytes. After every epoch
    ``on_epoch`` is called with the rows of the curve, one list a step. Where ``teacher`` has no
    views, the base itself is the teacher.
    """
    cut = cut_of(base, params, context.images, cost_model, keep_whole, apply_of(params, context))
    objective_of = objectives(base, teacher, params, context)
    model, accuracy = copy.deepcopy(base), 0.0
    fine_tuning: list[Progress] = []

    def after_epoch(history: list[dict]) -> None:
        on_epoch([*(progress.history for progress in fine_tuning), history])

    for step in range(1, params.steps + 1):
        model = cut(model, step).to(context.device)
        accuracy = evaluate(model, context.validation, context.device)
        schedule, objective = schedule_of(step, params), objective_of(step)
        monitor = Monitor(f"prune step {step}/{params.steps}, epoch", after_epoch)
        fine_tuning.append(fit(model, objective, schedule, params.seed + step, context, monitor))
        if params.method == "unstructured":
            make_permanent(model)
    return Pruned(model.cpu(), fine_tuning, accuracy)


# -------------------------------------------------------------------------------------------- cut


def apply_alone(model: Network, change: Callable[[Network], Network]) -> Network:
    return change(model)


def apply_of(params: PruneParams, context: RunContext) -> ApplyCut:
    """How a cut is made: where training keeps BatchNorm's statistics, they move with the cut."""
    if not context.recipe.frozen_norms:
        return apply_alone
    return functools.partial(
        cut_with_norms,
        images=context.images,
        batch_size=params.batch_size,
        device=context.device,
    )


def cut_of(
    base: Network,
    params: PruneParams,
    images: Images,
    cost_model: CostModel | None = None,
    keep_whole: Sequence[str] = (),
    apply: ApplyCut = apply_alone,
) -> Cut:
    """The function that makes a step's cut: zeros written in a copy, or channels removed."""
    if params.method == "unstructured":
        before = size_of(base)

        def write_zeros(model: Network, step: int) -> Network:
            model = model.cpu().to(memory_format=torch.contiguous_format)
            share = params.amount * step / params.steps

            def zeros(network: Network) -> Network:
                network = copy.deepcopy(network)
                hold_at_zero(network, share, before, params.target, params.allocation, keep_whole)
                return network

            return apply(model, zeros)

        return write_zeros

    shape = widths_of(base) if isinstance(base, Chain) else []
    profile = cost_model if isinstance(cost_model, LatencyModel) else None
    goals = goals_of(params, shape, cost_of(base, params, cost_model, keep_whole), profile)

    def remove_channels(model: Network, step: int) -> Network:
        model = model.cpu()
        groups = scored_groups(model, images, params.importance, params.seed, keep_whole)
        plan = make_plan(groups, goals[step - 1], params.round_to)
        print(f"plan of step {step}/{params.steps}: {in_words(plan, groups)}")
        return apply(model, lambda network: keep_channels(network, groups, plan))

    return remove_channels


def cost_of(
    base: Network, params: PruneParams, cost_model: CostModel | None, keep_whole: Sequence[str]
) -> Cost:
    if cost_model is None:
        return size_cost(base, params.target, keep_whole)
    if isinstance(cost_model, MemoryModel):
        return memory_cost(base, cost_model, params.target, keep_whole)
    if isinstance(cost_model, CandidateTimer):
        return cost_model.cost()
    assert isinstance(base, Chain)
    return latency_cost(base, cost_model)


# ------------------------------------------------------------------------------------ fine-tuning


def schedule_of(step: int, params: PruneParams) -> Schedule:
    return Schedule(
        epochs=params.epochs if step == params.steps else params.epochs_between,
        batch_size=params.batch_size,
        learning_rate=params.learning_rate,
        warmup=params.warmup,
    )


def objectives(
    base: Network, views: TeacherOutputs, params: PruneParams, context: RunContext
) -> Callable[[int], Objective]:
    """The objective of a step: the labels, and the outputs of its teacher if it has one."""
    teacher_of = teachers_of(base, views, params, context)
    label_smoothing = context.recipe.label_smoothing

    def objective(step: int) -> Objective:
        teacher = teacher_of(step)
        if teacher is None:
            return label_objective(label_smoothing)
        return distillation_objective(
            teacher, params.distillation, params.temperature, label_smoothing
        )

    return objective


def teachers_of(
    base: Network, views: TeacherOutputs, params: PruneParams, context: RunContext
) -> Callable[[int], Teacher | None]:
    """The teacher of a step: on mixtures first, where params say so, then on plain views.

    Plain views are those of ``views``. Where it has none, they are new ones with the base as
    teacher, or with none where ``prune.distillation`` is 0.
    """
    own = None if views.views else network_teacher(base, context, params.batch_size)
    mixup = None
    if params.most_mixup_epochs():
        seed = views.seed if own is None else params.seed
        mixup = mixup_teacher(base, context, seed, params.mixup_views, params.batch_size)

    def teacher(step: int) -> Teacher | None:
        plain = views if own is None else dataclasses.replace(own, seed=params.seed + step)
        mixup_epochs = params.mixup_epochs(schedule_of(step, params).epochs)
        if mixup is not None and mixup_epochs:
            return MixupFirst(mixup, mixup_epochs, plain)
        return plain if views.views or params.distillation else None

    return teacher

"""Did pruning earn it? Train what else the same budget buys, and compare.

Reads   the base checkpoint, the teacher's outputs on the training images, the JSON of what the
        base's training cost, the pruned checkpoint (for its shape), the training images (validation
        images included, never the test ones)
Writes  a JSON of every arm (accuracies, FLOPs, sizes) and of pruning's lead over each control, the
        same as a Markdown table and as a picture
Params  data.*, recipe.*, prune.*, controls.*
Raises  InputError for wrong params, missing inputs, a pruned network that lacks no channel

Every arm is trained with the same loss (labels and the teacher's outputs), images, batch size and
schedule, once for each seed, which orders images and views:

pruned           the base without channels, chosen by prune.importance, all in one step
scratch          the same shape, new weights, its own peak learning rate (controls.*)
scratch_b        the same for as many FLOPs as base and pruned arm cost (controls.scratch_b: true)
random_channels  the base without channels, chosen at random, in the same shape
zeros            the base with its smallest weights held at 0, the same share of MACs gone (or of
                 params, where prune.target says so)

A killed run goes on from its last whole epoch. The folder --resume has a file for each arm and
seed, named by a digest of start, seed, schedule and data: an arm that was finished is read from
there and not trained again.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from stages.common.building.checkpoint import load_chain
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.data.dataset import load_training_images
from stages.common.data.params import DataParams
from stages.common.measuring.seeds import paired_difference, spread
from stages.common.network.chain import Chain
from stages.common.network.size import Size, size_of
from stages.common.pruning.cut import make_permanent
from stages.common.pruning.params import PruneParams
from stages.common.reporting.style import save_png
from stages.common.training.checkpoints import EpochStore
from stages.common.training.context import RunContext, pick_device
from stages.common.training.loop import Monitor, fit
from stages.common.training.losses import Objective, distillation_objective
from stages.common.training.params import RecipeParams, Schedule
from stages.common.training.teacher import load_teacher
from stages.controls.arms import (
    PRUNED,
    RANDOM,
    SCRATCH,
    SCRATCH_B,
    ZEROS,
    require_smaller,
    start,
)
from stages.controls.chart import controls_chart
from stages.controls.params import ControlsParams
from stages.controls.table import conditions, markdown, sentence


@dataclass(frozen=True)
class Setup:
    """The same for all arms."""

    base: Chain
    pruned: Chain
    prune: PruneParams
    objective: Objective
    context: RunContext


@dataclass(frozen=True)
class Arm:
    """The results of one arm."""

    accuracies: dict[int, float]  # percent of the validation images, by seed
    schedule: Schedule
    flops: int  # of the training with one seed
    size: Size  # with the last seed's zeros


# ----------------------------------------------------------------------------------- training


def train_all(setup: Setup, params: ControlsParams, base_flops: int) -> dict[str, Arm]:
    """Every arm, in the order of the table."""
    inherited = Schedule(
        epochs=params.epochs,
        batch_size=setup.prune.batch_size,
        learning_rate=params.learning_rate,
        warmup=setup.prune.warmup,
    )
    scratch = dataclasses.replace(
        inherited,
        learning_rate=params.scratch_learning_rate,
        whitening_bias_epochs=params.scratch_whitening_bias_epochs,
    )
    arms = {PRUNED: train_arm(PRUNED, inherited, setup, params.seeds)}
    arms[SCRATCH] = train_arm(SCRATCH, scratch, setup, params.seeds)
    if params.scratch_b:
        longer = dataclasses.replace(scratch, epochs=affordable_epochs(base_flops, arms[PRUNED]))
        arms[SCRATCH_B] = train_arm(SCRATCH_B, longer, setup, params.seeds)
    for name in (RANDOM, ZEROS):
        arms[name] = train_arm(name, inherited, setup, params.seeds)
    return arms


def train_arm(name: str, schedule: Schedule, setup: Setup, seeds: list[int]) -> Arm:
    accuracies = {}
    for seed in seeds:
        model = start(name, seed, setup.base, setup.pruned, setup.context.images, setup.prune)
        progress = fit(
            model,
            setup.objective,
            schedule,
            seed,
            setup.context,
            Monitor(f"{name}, seed {seed}, epoch"),
        )
        if name == ZEROS:
            make_permanent(model)
        accuracies[seed] = progress.history[-1]["validation_accuracy"]
    return Arm(accuracies, schedule, progress.flops, size_of(model.cpu()))


def affordable_epochs(base_flops: int, pruned: Arm) -> int:
    """Epochs of the small network for what training the base and fine-tuning cost together."""
    return round((base_flops + pruned.flops) / (pruned.flops / pruned.schedule.epochs))


# ------------------------------------------------------------------------------------ results


def summary(
    arms: dict[str, Arm], base_flops: int, prune: PruneParams, validation_images: int
) -> dict:
    """The results as in metrics/controls.json; accuracies in percent, differences in points."""
    leads = {
        f"{PRUNED}_minus_{name}": paired_difference(
            list(arms[PRUNED].accuracies.values()), list(arm.accuracies.values())
        )
        for name, arm in arms.items()
        if name != PRUNED
    }
    return {
        **leads,
        "arms": {name: block(arm) for name, arm in arms.items()},
        "base_training_flops": base_flops,
        "batch_size": prune.batch_size,
        "importance": prune.importance,
        "validation_images": validation_images,
    }


def block(arm: Arm) -> dict:
    return {
        "validation_accuracy": {
            **spread(list(arm.accuracies.values())),
            "values": {f"seed_{seed}": value for seed, value in arm.accuracies.items()},
        },
        "epochs": arm.schedule.epochs,
        "learning_rate": arm.schedule.learning_rate,
        "training_flops": arm.flops,
        **dataclasses.asdict(arm.size),
    }


# --------------------------------------------------------------------------------------- main


def base_training_flops(path: Path) -> int:
    """The operations that training the base took, from the JSON that train writes."""
    try:
        flops = json.loads(path.read_text())["training_flops"]
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro train'") from None
    except (json.JSONDecodeError, LookupError, TypeError) as error:
        raise InputError(
            f"{path} holds no 'training_flops' ({error}); delete it and run 'dvc repro train'"
        ) from None
    return int(flops)


def load_setup(args: argparse.Namespace) -> Setup:
    recipe = load_params(RecipeParams, args.params, section="recipe")
    prune = load_params(PruneParams, args.params, section="prune")
    data = load_params(DataParams, args.params, section="data")
    base, pruned = (load_chain(path) for path in (args.base, args.pruned))
    require_smaller(base, pruned)
    images, validation = load_training_images(args.data, data)
    teacher = load_teacher(args.teacher, recipe.augmentation(), images.digest())
    device, store = pick_device(prune.device), EpochStore(args.resume)
    context = RunContext(images, validation, recipe, device, store)
    objective = distillation_objective(
        teacher, prune.distillation, prune.temperature, recipe.label_smoothing
    )
    return Setup(base, pruned, prune, objective, context)


def main() -> None:
    args = parse_args()
    params = load_params(ControlsParams, args.params, section="controls")
    base_flops = base_training_flops(args.base_metrics)
    setup = load_setup(args)
    arms = train_all(setup, params, base_flops)
    metrics = summary(arms, base_flops, setup.prune, len(setup.context.validation))
    accuracies = {name: list(arm.accuracies.values()) for name, arm in arms.items()}
    save_png(args.picture, controls_chart(accuracies, note=conditions(metrics)))
    write_text(args.table, markdown(metrics))
    write_json(args.metrics, metrics)
    setup.context.store.clear()
    print(sentence(metrics))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "resume", "base", "base-metrics", "teacher", "pruned"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("metrics", "table", "picture"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

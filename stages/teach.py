"""Train the teacher, a few wider networks, and write their outputs on some augmented views.

Reads   the training images (validation images included; never the test images)
Writes  the logits (views, N, classes) float16 of the training images, and what identifies the
        views (see common/training/teacher.py), the training curve as CSV (one row an epoch, means
        over the networks: epoch, loss, learning_rate, validation_accuracy in percent), a JSON of
        what the teacher reached
Params  data.*, recipe.*, teach.*  (see TeachParams)
Raises  InputError for wrong params, missing data, a device that is not there

The networks differ in their seed alone; the teacher's output is the mean of theirs (the ensemble
of Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015). The base learns
from this file, and so does all fine-tuning: pruning at any amount, with any seed. Running the
teacher in each of them would cost more than training the pruned network does. The teacher's own
weights are not kept. With teach.factory none there is no teacher: train.distillation must be 0, and
pruning takes the unpruned base as teacher. The curve is written anew after every epoch. A killed
run goes on from its last whole epoch or view, kept in the folder --resume.
"""

import argparse
import statistics
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from stages.common.building.build import build_network
from stages.common.core.accuracy import accuracy, percent_text
from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params, recorded
from stages.common.data.dataset import Images, load_training_images
from stages.common.data.params import DataParams
from stages.common.network.network import Network
from stages.common.network.params import NONE
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import EpochStore, Progress, work_key
from stages.common.training.context import RunContext, evaluation_batch, pick_device
from stages.common.training.loop import CURVE_COLUMNS, Monitor, fit, summary
from stages.common.training.losses import label_objective
from stages.common.training.params import RecipeParams, TeachParams
from stages.common.training.teacher import TeacherOutputs, mirrored_logits, no_teacher, save_teacher

GRAIN = 1 / 16  # of a logit; what softened outputs do not show need not be stored


def teach(networks: list[Network], params: TeachParams, context: RunContext) -> TeacherOutputs:
    """The networks' mean logits on views that come after those of the first one's training."""
    augmentation, data = context.recipe.augmentation(), context.images.digest()
    pixels = torch.from_numpy(context.images.pixels).to(context.device)
    augmenter = Augmenter(pixels, context.images.info, augmentation, params.seed)
    facts = {"data": data, "recipe": recorded(context.recipe), "seed": params.seed}
    keys = [work_key(network, context.device, **facts) for network in networks]
    for network in networks:
        network.to(context.device).to(memory_format=torch.channels_last).eval()
    logits = []
    with tqdm(total=params.views * len(networks), unit="view", desc="teach") as bar:
        for number in range(params.epochs, params.epochs + params.views):
            batches = augmenter.view(number).split(params.batch_size)
            outputs = []
            for network, key in zip(networks, keys, strict=True):
                make = partial(
                    mirrored_logits,
                    network,
                    batches,
                    context.precision,
                    context.images.info.flip,
                )
                outputs.append(context.store.array(f"{key}-{number}", make))
                bar.update()
            logits.append((np.mean(outputs, axis=0) / GRAIN).round() * GRAIN)
    return TeacherOutputs(
        logits=np.stack(logits).astype(np.float16),
        seed=params.seed,
        first_view=params.epochs,
        augmentation=augmentation,
        data_digest=data,
    )


def mean_curve(histories: list[list[dict]]) -> list[dict]:
    """One row an epoch, of the columns ``CURVE_COLUMNS``: means over the networks that have
    reached it. ``histories`` has one curve a network; the first is as long as any.
    """
    epochs = [
        [history[epoch] for history in histories if epoch < len(history)]
        for epoch in range(len(histories[0]))
    ]
    return [
        {name: round(statistics.mean(row[name] for row in rows), 5) for name in CURVE_COLUMNS}
        for rows in epochs
    ]


def train_networks(
    params: TeachParams, context: RunContext, curve: str
) -> tuple[list[Network], list[Progress]]:
    """The networks one after another; after every epoch their mean curve is written."""
    networks: list[Network] = []
    fits: list[Progress] = []

    def write_curve(history: list[dict]) -> None:
        histories = [*(progress.history for progress in fits), history]
        write_csv(curve, mean_curve(histories), header=CURVE_COLUMNS)

    for number in range(params.networks):
        seed = params.seed + number
        title = f"teacher, network {number + 1}/{params.networks}, epoch"
        networks.append(
            build_network(params.factory, params.arguments, params.widths, context.images, seed)
        )
        fits.append(
            fit(
                networks[-1],
                label_objective(context.recipe.label_smoothing),
                params.schedule(),
                seed,
                context,
                Monitor(title, write_curve),
            )
        )
    return networks, fits


def ensemble_accuracy(networks: list[Network], context: RunContext) -> float:
    """Accuracy in percent of the mean outputs on the validation images and their mirror images."""
    validation = context.validation
    pixels = torch.from_numpy(validation.pixels).to(context.device)
    batches = pixels.split(evaluation_batch(validation))
    flip = context.images.info.flip
    outputs = [mirrored_logits(network, batches, context.precision, flip) for network in networks]
    return accuracy(np.mean(outputs, axis=0).argmax(1), validation.labels)


def write_nothing(args: argparse.Namespace, images: Images, recipe: RecipeParams) -> None:
    """The outputs of a teacher without networks, views and epochs."""
    save_teacher(args.teacher, no_teacher(images, recipe.augmentation()))
    write_csv(args.curve, [], header=CURVE_COLUMNS)
    write_json(args.metrics, {"networks": 0})
    print(f"{args.teacher}: no teacher, as teach.factory says")


def main() -> None:
    args = parse_args()
    params = load_params(TeachParams, args.params, section="teach")
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    images, validation = load_training_images(args.data, data)
    if params.factory == NONE:
        write_nothing(args, images, recipe)
        return
    context = RunContext(
        images, validation, recipe, pick_device(params.device), EpochStore(args.resume)
    )
    networks, fits = train_networks(params, context, args.curve)
    teacher = teach(networks, params, context)
    curve = mean_curve([progress.history for progress in fits])
    metrics = {
        "networks": params.networks,
        **summary(networks[0], fits[0], images, validation),  # params and macs are one network's
        "validation_accuracy": curve[-1]["validation_accuracy"],
        "together_validation_accuracy": ensemble_accuracy(networks, context),
        "training_flops": sum(progress.flops for progress in fits),
    }
    save_teacher(args.teacher, teacher)
    write_csv(args.curve, curve, header=CURVE_COLUMNS)
    write_json(args.metrics, metrics)
    context.store.clear()
    alone, together = (
        percent_text(metrics[key], len(validation))
        for key in ("validation_accuracy", "together_validation_accuracy")
    )
    print(
        f"{args.teacher}: outputs on {teacher.views} views of {len(images):,} images, of "
        f"{params.networks} networks with {metrics['params']:,} params each, which reached "
        f"{alone} on {len(validation)} validation images, and {together} together"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "resume", "teacher", "curve", "metrics"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

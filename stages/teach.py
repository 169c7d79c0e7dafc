"""Train the teacher, a few wider networks, and write what they say of some augmented views.

Reads   the training images (held-out validation images included; never the test images)
Writes  the logits (views, N, classes) float16 of the training images, and what names the views
        (see common/training/teacher.py), the training curve as CSV (one row an epoch, means over
        the networks: epoch, loss, learning_rate, validation_accuracy in percent), a JSON of what
        the teacher reached
Params  data.*, recipe.*, teach.*  (see TeachParams)
Raises  InputError for wrong params, missing data, a device that is not there

The networks differ in their seed alone; what the teacher says is the mean of what they say (the
ensemble of Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015). The
base learns from this file, and so does all fine-tuning: pruning at any amount, with any seed.
Running the teacher in each of them would cost more than training the pruned network does. The
teacher's own weights are not kept. A killed run goes on from its last whole epoch or view, kept
in the folder --resume.
"""

import argparse
import dataclasses
import statistics
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params, whole
from stages.common.data.cifar10 import DataParams, Images, load_training_images
from stages.common.network.network import Network
from stages.common.network.whitening import build_network
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import EpochStore, Progress, work_key
from stages.common.training.loop import CURVE_COLUMNS, fit, summary
from stages.common.training.recipe import NetworkParams, RecipeParams, pick_device, pick_precision
from stages.common.training.teacher import Teacher, mirrored_logits, save_teacher

GRAIN = 1 / 16  # of a logit; what softened outputs do not show need not be stored


@dataclass(frozen=True)
class TeachParams(NetworkParams):
    """How the teacher is made, of how many networks, and on how many views it is run."""

    networks: int = whole(at_least=1, at_most=20)
    views: int = whole(at_least=1, at_most=100)


def teach(
    networks: list[Network],
    images: Images,
    recipe: RecipeParams,
    params: TeachParams,
    store: EpochStore,
) -> Teacher:
    """The networks' mean logits on views that come after those of the first one's training."""
    device = pick_device(params.device)
    precision = pick_precision(recipe.precision, device)
    pixels = torch.from_numpy(images.pixels).to(device)
    augmenter = Augmenter(pixels, recipe.translate, recipe.cutout, params.seed)
    data = images.digest()
    facts = {"data": data, "recipe": dataclasses.asdict(recipe), "seed": params.seed}
    keys = [work_key(network, device, **facts) for network in networks]
    for network in networks:
        network.to(device, memory_format=torch.channels_last).eval()
    logits = []
    with tqdm(total=params.views * len(networks), unit="view", desc="teach") as bar:
        for number in range(params.epochs, params.epochs + params.views):
            batches = augmenter.view(number).split(params.batch_size)
            outputs = []
            for network, key in zip(networks, keys, strict=True):
                make = partial(mirrored_logits, network, batches, precision)
                outputs.append(store.array(f"{key}-{number}", make))
                bar.update()
            logits.append((np.mean(outputs, axis=0) / GRAIN).round() * GRAIN)
    return Teacher(
        logits=np.stack(logits).astype(np.float16),
        seed=params.seed,
        first_view=params.epochs,
        translate=recipe.translate,
        cutout=recipe.cutout,
        data_digest=data,
    )


def mean_curve(fits: list[Progress]) -> list[dict]:
    """One row an epoch, of the columns ``CURVE_COLUMNS``: means over the networks."""
    return [
        {name: round(statistics.mean(row[name] for row in rows), 5) for name in CURVE_COLUMNS}
        for rows in zip(*(progress.history for progress in fits), strict=True)
    ]


def together_accuracy(
    networks: list[Network], validation: Images, precision: torch.dtype, device: torch.device
) -> float:
    """Percent of the held-out images that the teacher has right: all networks, both mirrored."""
    batches = torch.from_numpy(validation.pixels).to(device).split(500)
    logits = np.mean([mirrored_logits(network, batches, precision) for network in networks], axis=0)
    return accuracy(logits.argmax(1), validation.labels)


def main() -> None:
    args = parse_args()
    params = load_params(TeachParams, args.params, section="teach")
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    images, validation = load_training_images(args.data, data)
    device = pick_device(params.device)
    store = EpochStore(args.resume)
    networks, fits = [], []
    for number in range(params.networks):
        networks.append(build_network(params.widths, images, seed=params.seed + number))
        fits.append(
            fit(
                networks[-1],
                images,
                validation,
                recipe=recipe,
                schedule=params.schedule(),
                seed=params.seed + number,
                device=device,
                store=store,
                title=f"teacher, network {number + 1}/{params.networks}, epoch",
            )
        )
    teacher = teach(networks, images, recipe, params, store)
    curve = mean_curve(fits)
    precision = pick_precision(recipe.precision, device)
    metrics = {
        "networks": params.networks,
        **summary(networks[0], fits[0], images, validation),  # params and macs are one network's
        "validation_accuracy": curve[-1]["validation_accuracy"],
        "together_validation_accuracy": together_accuracy(networks, validation, precision, device),
        "training_flops": sum(progress.flops for progress in fits),
    }
    save_teacher(args.teacher, teacher)
    write_csv(args.curve, curve, header=CURVE_COLUMNS)
    write_json(args.metrics, metrics)
    store.clear()
    print(
        f"{args.teacher}: outputs on {teacher.views} views of {len(images):,} images, of "
        f"{params.networks} networks with {metrics['params']:,} params each, which reached "
        f"{metrics['validation_accuracy']:.2f} % on {len(validation)} validation images, and "
        f"{metrics['together_validation_accuracy']:.2f} % together"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "resume", "teacher", "curve", "metrics"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

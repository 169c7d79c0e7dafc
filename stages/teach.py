"""Train the teacher, a wider network, and write what it says of a few augmented views.

Reads   the training images (held-out validation images included; never the test images)
Writes  the logits (views, N, classes) float16 of the training images, and what names the views
        (see common/teacher.py), the training curve as CSV (one row an epoch: epoch, loss,
        learning_rate, validation_accuracy in percent), a JSON of what the teacher reached
Params  data.*, recipe.*, teach.*  (see TeachParams)
Raises  InputError for wrong params, missing data, a device that is not there

The base learns from this file, and so does all fine-tuning: pruning at any amount, with any seed.
Running the teacher in each of them would cost more than training the pruned network does. The
teacher's own weights are not kept. A killed run goes on from its last whole epoch, kept in the
folder --resume.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from stages.common.augmentation import Augmenter
from stages.common.cli import run
from stages.common.data import DataParams, Images, load_training_images
from stages.common.files import write_csv, write_json
from stages.common.initialization import build_network
from stages.common.model import Network
from stages.common.params import load_params, whole
from stages.common.resume import EpochStore
from stages.common.teacher import Teacher, save_teacher
from stages.common.training import (
    CURVE_COLUMNS,
    NetworkParams,
    RecipeParams,
    fit,
    pick_device,
    pick_precision,
    products_in,
    summary,
)

GRAIN = 1 / 16  # of a logit; what softened outputs do not show need not be stored


@dataclass(frozen=True)
class TeachParams(NetworkParams):
    """How the teacher is made, and on how many views it is run."""

    views: int = whole(at_least=1, at_most=100)


def teach(network: Network, images: Images, recipe: RecipeParams, params: TeachParams) -> Teacher:
    """The network's logits on views that come after those of its training."""
    device = pick_device(params.device)
    precision = pick_precision(recipe.precision, device)
    network.to(device, memory_format=torch.channels_last).eval()
    pixels = torch.from_numpy(images.pixels).to(device)
    augmenter = Augmenter(pixels, recipe.translate, recipe.cutout, params.seed)
    logits = []
    with tqdm(total=params.views * len(images), unit="img", unit_scale=True, desc="teach") as bar:
        for number in range(params.epochs, params.epochs + params.views):
            batches = augmenter.view(number).split(params.batch_size)
            logits.append(view_logits(network, batches, precision, bar))
    return Teacher(
        logits=np.stack(logits),
        seed=params.seed,
        first_view=params.epochs,
        translate=recipe.translate,
        cutout=recipe.cutout,
        data_digest=images.digest(),
    )


@torch.no_grad()
def view_logits(
    network: Network, batches: tuple[torch.Tensor, ...], precision: torch.dtype, bar: tqdm
) -> np.ndarray:
    """The mean of the logits on images and on their mirror images: (N, classes) float16, in
    multiples of ``GRAIN``, of batches (n, 3, 32, 32) uint8.
    """
    logits = []
    for batch in batches:
        inputs = batch.to(torch.float32, memory_format=torch.channels_last)
        with products_in(precision, batch.device):
            outputs = (network(inputs).float() + network(inputs.flip(-1)).float()) / 2
        logits.append((outputs / GRAIN).round().mul(GRAIN).to("cpu", torch.float16))
        bar.update(len(batch))
    return torch.cat(logits).numpy()


def main() -> None:
    args = parse_args()
    params = load_params(TeachParams, args.params, section="teach")
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    images, validation = load_training_images(args.data, data)
    network = build_network(params.widths, images, seed=params.seed)
    store = EpochStore(args.resume)
    progress = fit(
        network,
        images,
        validation,
        recipe=recipe,
        schedule=params.schedule(),
        seed=params.seed,
        device=pick_device(params.device),
        store=store,
        title="teacher",
    )
    metrics = summary(network, progress, images, validation)
    teacher = teach(network, images, recipe, params)
    save_teacher(args.teacher, teacher)
    write_csv(args.curve, progress.history, header=CURVE_COLUMNS)
    write_json(args.metrics, metrics)
    store.clear()
    print(
        f"{args.teacher}: outputs on {teacher.views} views of {len(images):,} images, of a network "
        f"with {metrics['params']:,} params that reached {metrics['validation_accuracy']:.2f} % on "
        f"{len(validation)} validation images"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "resume", "teacher", "curve", "metrics"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

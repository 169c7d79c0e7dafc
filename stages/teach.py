"""Compute what the base network says of a few augmented views of every training image.

Reads   the base checkpoint, the training images (not the held-out ones, never the test images)
Writes  the logits (views, N, classes) float16, and what names the views (see common/teacher.py)
Params  data.*, recipe.translate, recipe.cutout, teach.*  (see TeachParams)
Raises  InputError for wrong params, missing data or base, a device that is not there

All fine-tuning learns from this file: pruning at any amount, with any seed. Running the base in
each of them would cost more than training the pruned network does.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from stages.common.augmentation import Augmenter
from stages.common.cli import run
from stages.common.data import DataParams, Images, load_training_images
from stages.common.model import Network, load_checkpoint
from stages.common.params import load_params, one_of, whole
from stages.common.speed import keep_freed_memory
from stages.common.teacher import Teacher, save_teacher
from stages.common.training import RecipeParams, pick_device

GRAIN = 1 / 32  # of a logit; what softened outputs do not show need not be stored


@dataclass(frozen=True)
class TeachParams:
    """How many views, and which."""

    views: int = whole(at_least=1, at_most=100)
    seed: int = whole(at_least=0)
    batch_size: int = whole(at_least=1)
    device: str = one_of("auto", "cpu", "cuda", "mps")


def teach(base: Network, images: Images, recipe: RecipeParams, params: TeachParams) -> Teacher:
    """The base's logits on every view; even and odd views are each other's mirror half."""
    device = pick_device(params.device)
    base.to(device, memory_format=torch.channels_last).eval()
    pixels = torch.from_numpy(images.pixels).to(device)
    augmenter = Augmenter(pixels, recipe.translate, recipe.cutout, params.seed)
    logits = []
    with tqdm(total=params.views * len(images), unit="img", unit_scale=True, desc="teach") as bar:
        for view in range(params.views):
            logits.append(view_logits(base, augmenter.view(view), params.batch_size, bar))
    return Teacher(
        logits=np.stack(logits),
        seed=params.seed,
        translate=recipe.translate,
        cutout=recipe.cutout,
        data_digest=images.digest(),
    )


@torch.no_grad()
def view_logits(base: Network, pixels: torch.Tensor, batch_size: int, bar: tqdm) -> np.ndarray:
    """(N, classes) float16 of pixels (N, 3, 32, 32) uint8, in multiples of ``GRAIN``."""
    logits = []
    for batch in pixels.split(batch_size):
        inputs = batch.to(torch.float32, memory_format=torch.channels_last)
        logits.append((base(inputs) / GRAIN).round().mul(GRAIN).to("cpu", torch.float16))
        bar.update(len(batch))
    return torch.cat(logits).numpy()


def main() -> None:
    args = parse_args()
    params = load_params(TeachParams, args.params, section="teach")
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    keep_freed_memory()
    images, _ = load_training_images(args.data, data)
    base = load_checkpoint(args.base)
    teacher = teach(base.model, images, recipe, params)
    save_teacher(args.teacher, teacher)
    print(f"{args.teacher}: outputs on {teacher.views} views of {len(images):,} images")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "base", "teacher"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

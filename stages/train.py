"""Train the base network, on the labels and on what a wider network, the teacher, says.

Reads   the training images (held-out validation images included; never the test images), the
        teacher's outputs on them
Writes  a checkpoint (config, weights, provenance), the training curve as CSV (one row an epoch:
        epoch, loss, learning_rate, validation_accuracy in percent), a JSON of what was reached,
        a JSON of how fast (GFLOP/s of a step beside those of the machine's matrix product)
Params  data.*, recipe.*, train.*
Raises  InputError for wrong params, missing data or teacher, a device that is not there

With train.distillation 0 the teacher is ignored, and every epoch sees a new view of the images. A
killed run goes on from its last whole epoch, kept in the folder --resume.
"""

import argparse
import dataclasses
from dataclasses import dataclass

import torch

from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params, number
from stages.common.data.cifar10 import DataParams, load_training_images
from stages.common.measuring.machine import available_cores, cpu_model
from stages.common.network.network import save_checkpoint
from stages.common.network.whitening import build_network
from stages.common.training.checkpoints import EpochStore, Progress
from stages.common.training.loop import CURVE_COLUMNS, fit, summary
from stages.common.training.losses import Lesson, from_labels, from_teacher
from stages.common.training.recipe import (
    NetworkParams,
    RecipeParams,
    pick_device,
    pick_precision,
    precision_name,
)
from stages.common.training.teacher import Teacher, load_teacher


@dataclass(frozen=True)
class TrainParams(NetworkParams):
    """How the base network is made."""

    distillation: float = number(at_least=0, at_most=1)
    temperature: float = number(at_least=0.1)


def lesson(teacher: Teacher, params: TrainParams, recipe: RecipeParams) -> Lesson:
    """Labels and teacher; without distillation labels alone."""
    if not params.distillation:
        return from_labels(recipe.label_smoothing)
    return from_teacher(teacher, params.distillation, params.temperature, recipe.label_smoothing)


def speed_summary(progress: Progress, device: torch.device, precision: torch.dtype) -> dict:
    """What metrics/train_speed.json holds: how fast, and on what."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    return {
        "device": device.type,
        "machine": machine,
        "precision": precision_name(precision),
        "cores": available_cores(),
        **progress.times.summary(progress.step_flops),
    }


def main() -> None:
    args = parse_args()
    params = load_params(TrainParams, args.params, section="train")
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    images, validation = load_training_images(args.data, data)
    teacher = load_teacher(args.teacher, recipe.translate, recipe.cutout, images.digest())
    network = build_network(params.widths, images, seed=params.seed)
    device = pick_device(params.device)
    store = EpochStore(args.resume)
    progress = fit(
        network,
        images,
        validation,
        recipe=recipe,
        schedule=params.schedule(),
        seed=params.seed,
        device=device,
        store=store,
        title="train",
        lesson=lesson(teacher, params, recipe),
    )
    provenance = {
        "data_digest": images.digest(),
        "data": dataclasses.asdict(data),
        "recipe": dataclasses.asdict(recipe),
        "teacher": teacher.digest if params.distillation else None,
        "train": dataclasses.asdict(params),
    }
    metrics = summary(network, progress, images, validation)
    save_checkpoint(args.model, network, provenance)
    write_csv(args.curve, progress.history, header=CURVE_COLUMNS)
    write_json(args.metrics, metrics)
    speed = speed_summary(progress, device, pick_precision(recipe.precision, device))
    write_json(args.speed, speed)
    store.clear()
    print(
        f"{args.model}: {metrics['validation_accuracy']:.2f} % on {len(validation)} validation "
        f"images, {metrics['params']:,} params, {metrics['macs'] / 1e6:.1f} M MACs; "
        f"{progress.flops / 1e12:.0f} TFLOP in {speed['seconds']:.0f} s, a step at "
        f"{speed['step_gflops']:.0f} GFLOP/s ({speed['step_share_of_matmul']:.0%} of torch.mm)"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "teacher", "resume", "model", "curve", "metrics", "speed"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

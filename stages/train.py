"""Train the base network, on the labels and on the outputs of wider networks, the teacher.

Reads   the training images (validation images included; never the test images), the
        teacher's outputs on them
Writes  a checkpoint (config, weights, provenance), the training curve as CSV (one row an epoch:
        epoch, loss, learning_rate, validation_accuracy in percent), a JSON of what was reached,
        a JSON of how fast (GFLOP/s of a step beside those of the machine's matrix product)
Params  data.*, network.*, recipe.*, train.*
Raises  InputError for wrong params, missing data or teacher, a factory or a device that is not
        there, weights of another network, distillation without a teacher

With train.distillation 0 the teacher is ignored, and every epoch sees a new view of the images. The
curve is written anew after every epoch. A killed run goes on from its last whole epoch, kept in the
folder --resume.
"""

import argparse
from functools import partial

import torch

from stages.common.building.build import build_network
from stages.common.building.checkpoint import save_checkpoint
from stages.common.building.pretrained import load_pretrained
from stages.common.core.accuracy import percent_text
from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params, recorded
from stages.common.data.dataset import load_training_images
from stages.common.data.params import DataParams
from stages.common.measuring.machine import available_cores, cpu_model
from stages.common.network.params import NetworkParams
from stages.common.training.checkpoints import EpochStore, Progress
from stages.common.training.context import RunContext, pick_device, precision_name
from stages.common.training.loop import CURVE_COLUMNS, Monitor, fit, summary
from stages.common.training.losses import Objective, distillation_objective, label_objective
from stages.common.training.params import RecipeParams, TrainParams
from stages.common.training.teacher import TeacherOutputs, load_teacher, require_views


def objective(teacher: TeacherOutputs, params: TrainParams, recipe: RecipeParams) -> Objective:
    """Labels and teacher; with distillation 0 the labels alone."""
    if not params.distillation:
        return label_objective(recipe.label_smoothing)
    require_views(teacher, "train.distillation")
    return distillation_objective(
        teacher, params.distillation, params.temperature, recipe.label_smoothing
    )


def speed_summary(progress: Progress, device: torch.device, precision: torch.dtype) -> dict:
    """The content of metrics/train_speed.json: the speed of training, and the machine."""
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
    teacher = load_teacher(args.teacher, recipe.augmentation(), images.digest())
    source = load_params(NetworkParams, args.params, section="network")
    network = build_network(
        source.factory,
        source.arguments,
        params.widths,
        images,
        params.seed,
        source.normalization,
    )
    if source.weights:
        print(load_pretrained(network, source))
    context = RunContext(
        images, validation, recipe, pick_device(params.device), EpochStore(args.resume)
    )
    progress = fit(
        network,
        objective(teacher, params, recipe),
        params.schedule(),
        params.seed,
        context,
        Monitor("train", partial(write_csv, args.curve, header=CURVE_COLUMNS)),
    )
    provenance = {
        "data_digest": images.digest(),
        "data": data.provenance(),
        "recipe": recorded(recipe),
        "teacher": teacher.digest if params.distillation else None,
        "train": recorded(params),
        **({"network": recorded(source)} if source.imported else {}),
    }
    metrics = summary(network, progress, images, validation)
    save_checkpoint(args.model, network, provenance)
    write_csv(args.curve, progress.history, header=CURVE_COLUMNS)
    write_json(args.metrics, metrics)
    speed = speed_summary(progress, context.device, context.precision)
    write_json(args.speed, speed)
    context.store.clear()
    reached = percent_text(metrics["validation_accuracy"], len(validation))
    print(
        f"{args.model}: {reached} on {len(validation)} validation images, "
        f"{metrics['params']:,} params, {metrics['macs'] / 1e6:.1f} M MACs; "
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

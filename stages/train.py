"""Train the base network.

Reads   the training images (held-out validation images included; never the test images)
Writes  a checkpoint (config, weights, provenance), the training curve as CSV (one row an epoch:
        epoch, loss, learning_rate, validation_accuracy in percent), a JSON of what was reached,
        a JSON of how fast (GFLOP/s of a step beside those of the machine's matrix product)
Params  data.*, recipe.*, train.*
Raises  InputError for wrong params, missing data, a device that is not there

A killed run goes on from its last whole epoch, kept in the folder --resume.
"""

import argparse
import dataclasses
from dataclasses import dataclass

import torch

from stages.common.cli import run
from stages.common.data import CLASSES, DataParams, Images, load_training_images
from stages.common.files import write_csv, write_json
from stages.common.machine import available_cores, cpu_model
from stages.common.model import (
    PIXEL_MEAN,
    PIXEL_STD,
    WHITENING_SIZE,
    Network,
    save_checkpoint,
    size_of,
)
from stages.common.params import channel_widths, load_params, number, one_of, whole
from stages.common.resume import EpochStore, Progress
from stages.common.training import RecipeParams, Schedule, fit, pick_device, pick_precision

CURVE_COLUMNS = ["epoch", "loss", "learning_rate", "validation_accuracy"]
WHITENING_IMAGES = 5000  # enough for a 12 x 12 covariance (cifar10-airbench takes as many)
WHITENING_EPSILON = 5e-4  # the same source


@dataclass(frozen=True)
class TrainParams:
    """How the base network is made."""

    seed: int = whole(at_least=0)
    widths: list = channel_widths()
    epochs: int = whole(at_least=1)
    batch_size: int = whole(at_least=2)
    learning_rate: float = number(at_least=0)
    warmup: float = number(at_least=0, below=1)
    whitening_bias_epochs: int = whole(at_least=0)
    device: str = one_of("auto", "cpu", "cuda", "mps")


def build_network(widths: list[list[int]], images: Images, seed: int) -> Network:
    """A new network whose first layer whitens patches of the given images."""
    torch.manual_seed(seed)
    network = Network({"widths": widths, "classes": len(CLASSES)})
    network.whitening.weight.data.copy_(whitening_filters(images))
    return network


def whitening_filters(images: Images) -> torch.Tensor:
    """Eigenvectors of the patch covariance, scaled to unit variance, and their negatives.

    Returns (24, 3, 2, 2) float32. Source: cifar10-airbench, ``init_whiten``.
    """
    pixels = torch.from_numpy(images.pixels[:WHITENING_IMAGES]).double()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    patches = torch.nn.functional.unfold((pixels - mean) / std, WHITENING_SIZE)  # (N, 12, 31 * 31)
    patches = patches.transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T
    return torch.cat([filters, -filters]).view(-1, 3, WHITENING_SIZE, WHITENING_SIZE).float()


def summary(network: Network, progress: Progress, images: Images, validation: Images) -> dict:
    """What metrics/train.json holds; nothing in it depends on how fast the machine was."""
    size = size_of(network)
    return {
        "validation_accuracy": progress.history[-1]["validation_accuracy"],
        "train_images": len(images),
        "validation_images": len(validation),
        "epochs": len(progress.history),
        "training_flops": progress.flops,
        "params": size.params,
        "macs": size.macs,
    }


def speed_summary(progress: Progress, device: torch.device, precision: torch.dtype) -> dict:
    """What metrics/train_speed.json holds: how fast, and on what."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    return {
        "device": device.type,
        "machine": machine,
        "precision": str(precision).removeprefix("torch."),
        "cores": available_cores(),
        **progress.times.summary(progress.step_flops),
    }


def main() -> None:
    args = parse_args()
    params = load_params(TrainParams, args.params, section="train")
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    images, validation = load_training_images(args.data, data)
    network = build_network(params.widths, images, seed=params.seed)
    device = pick_device(params.device)
    store = EpochStore(args.resume)
    progress = fit(
        network,
        images,
        validation,
        recipe=recipe,
        schedule=Schedule(
            epochs=params.epochs,
            batch_size=params.batch_size,
            learning_rate=params.learning_rate,
            warmup=params.warmup,
            whitening_bias_epochs=params.whitening_bias_epochs,
        ),
        seed=params.seed,
        device=device,
        store=store,
        title="train",
    )
    provenance = {
        "data_digest": images.digest(),
        "data": dataclasses.asdict(data),
        "recipe": dataclasses.asdict(recipe),
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
    for name in ("params", "data", "resume", "model", "curve", "metrics", "speed"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

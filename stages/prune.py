"""Prune the base network and fine-tune what is left, with the wider networks as teacher.

Reads   the base checkpoint, the teacher's outputs on the training images, the training images
        (validation images included, never the test ones), the latency model of the device
Writes  a checkpoint of the pruned network, the fine-tuning curve as CSV, after every epoch (one
        row an epoch: epoch, step, loss, learning_rate, validation_accuracy in percent), a JSON of
        the sizes and accuracies before and after
Params  data.*, recipe.*, prune.*
Raises  InputError for wrong params, a missing base, an amount or a budget that cannot be
        reached

'structured' removes whole channels, so that the network is smaller in bytes and milliseconds;
'unstructured' writes zeros in place, the classic baseline: every file and every dense runtime
carries them along. With prune.mixup_share the base teaches first, on mixtures of two images. A
killed run goes on from its last whole epoch, kept in the folder --resume.
"""

import argparse
import dataclasses

import torch

from stages.common.building.checkpoint import load_checkpoint, save_checkpoint
from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import load_training_images
from stages.common.data.params import DataParams
from stages.common.network.chain import Chain, widths_of
from stages.common.network.params import NetworkParams
from stages.common.network.size import size_of
from stages.common.pruning.cut import share_removed
from stages.common.pruning.fine_tuning import prune_in_steps
from stages.common.pruning.latency_model import LatencyModel, load_latency_model
from stages.common.pruning.mixup_teacher import teaching_flops
from stages.common.pruning.params import PruneParams, refuse_contradictions
from stages.common.training.checkpoints import EpochStore
from stages.common.training.context import RunContext, pick_device
from stages.common.training.loop import evaluate
from stages.common.training.params import RecipeParams
from stages.common.training.teacher import load_teacher

CURVE_COLUMNS = ["epoch", "step", "loss", "learning_rate", "validation_accuracy"]


def curve(histories: list[list[dict]]) -> list[dict]:
    """One row for each epoch of fine-tuning, numbered through, with its pruning step.

    ``histories``: the rows of each step's fine-tuning.
    """
    rows = [{"step": step, **row} for step, history in enumerate(histories, 1) for row in history]
    return [{**row, "epoch": epoch} for epoch, row in enumerate(rows, 1)]


def summary(
    base: Chain,
    pruned: Chain,
    params: PruneParams,
    accuracies: dict[str, float],
    latency: LatencyModel | None,
) -> dict:
    """Sizes before and after, the amount asked for and reached, accuracies in percent."""
    metrics = {
        "method": params.method,
        "target": params.target,
        "amount_asked": None if params.budget_ms or params.widths else params.amount,
        "amount_reached": round(amount_reached(base, pruned, params, latency), 4),
        "before": size_and_widths(base),
        "after": size_and_widths(pruned),
        "validation_accuracy": accuracies,
    }
    if latency is not None:
        metrics["predicted_latency_ms"] = predicted_latency(base, pruned, latency)
    return metrics


def amount_reached(
    base: Chain, pruned: Chain, params: PruneParams, latency: LatencyModel | None
) -> float:
    """The share of the target (MACs, params or predicted milliseconds) that is gone."""
    if latency is not None and params.target == "latency":
        return 1 - latency.predict(widths_of(pruned)) / latency.predict(widths_of(base))
    zeros = params.method == "unstructured"
    return share_removed(size_of(base), size_of(pruned), params.target, zeros)


def size_and_widths(network: Chain) -> dict:
    """The widths as text, '64 64 / 256 256', which `dvc metrics diff` can show."""
    widths = " / ".join(" ".join(map(str, block)) for block in widths_of(network))
    return {**dataclasses.asdict(size_of(network)), "widths": widths}


def predicted_latency(base: Chain, pruned: Chain, latency: LatencyModel) -> dict:
    """FP32 milliseconds of one image on the profile's device, and its name."""
    return {
        "before": round(latency.predict(widths_of(base)), 4),
        "after": round(latency.predict(widths_of(pruned)), 4),
        "device": latency.device,
    }


def main() -> None:
    args = parse_args()
    params = load_params(PruneParams, args.params, section="prune")
    refuse_contradictions(params)
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    images, validation = load_training_images(args.data, data)
    source = load_params(NetworkParams, args.params, section="network")
    base = load_checkpoint(args.base, source.factory)
    assert isinstance(base.model, Chain)
    teacher = load_teacher(args.teacher, recipe.augmentation(), images.digest())
    latency = load_latency_model(args.latency) if params.needs_latency() else None
    store = EpochStore(args.resume)
    context = RunContext(images, validation, recipe, pick_device(params.device), store)

    def write_curve(histories: list[list[dict]]) -> None:
        write_csv(args.curve, curve(histories), header=CURVE_COLUMNS)

    pruned = prune_in_steps(base.model, teacher, params, context, latency, write_curve)
    cpu = torch.device("cpu")
    accuracies = {
        "base": evaluate(base.model, validation, cpu),
        "before_fine_tuning": pruned.accuracy_before_fine_tuning,
        "fine_tuned": evaluate(pruned.network, validation, cpu),
    }
    metrics = summary(base.model, pruned.network, params, accuracies, latency)
    metrics["fine_tuning_flops"] = sum(progress.flops for progress in pruned.fine_tuning)
    if params.mixup_share:
        metrics["teaching_flops"] = teaching_flops(
            base.model, images, params.mixup_views, params.most_mixup_epochs()
        )
    provenance = {**base.provenance, "prune": params.provenance()}
    save_checkpoint(args.pruned, pruned.network, provenance)
    write_curve([progress.history for progress in pruned.fine_tuning])
    write_json(args.metrics, metrics)
    store.clear()
    print(
        f"{args.pruned}: {metrics['amount_reached']:.3f} of {params.target} removed "
        f"({params.asked()} asked), widths {metrics['after']['widths']}; validation "
        f"{accuracies['base']:.2f} % -> {accuracies['fine_tuned']:.2f} %"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "resume", "base", "teacher", "latency"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("pruned", "curve", "metrics"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""Prune the base network and fine-tune what is left, with the wider networks as teacher.

Reads   the base checkpoint, the teacher's outputs on the training images, the training images
        (validation images included, never the test ones), the latency model of the device
Writes  a checkpoint of the pruned network, the fine-tuning curve as CSV, after every epoch (one
        row an epoch: epoch, step, loss, learning_rate, validation_accuracy in percent), a JSON of
        the sizes and accuracies before and after
Params  data.*, recipe.*, prune.*, network.factory, network.keep_whole
Raises  InputError for wrong params, a missing base, an amount or a budget that cannot be
        reached, a network that Torch-Pruning does not understand

'structured' removes whole channels, so that the network is smaller in bytes and milliseconds;
'unstructured' writes zeros in place, the classic baseline: every file and every dense runtime
carries them along. With prune.mixup_share the base teaches first, on mixtures of two images;
without a wider network (teach.factory none) it is the only teacher. Milliseconds are predicted
from a profile for the chain; for another network they are measured on this machine, on which the
result then depends. A killed run goes on from its last whole epoch, kept in the folder --resume.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import torch

from stages.common.building.checkpoint import load_checkpoint, save_checkpoint
from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import load_training_images
from stages.common.data.params import DataParams
from stages.common.network.chain import Chain, widths_of
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.network.params import NetworkParams
from stages.common.network.size import size_of
from stages.common.pruning.base_teacher import teaching_flops
from stages.common.pruning.cut import share_removed
from stages.common.pruning.fine_tuning import Latency, prune_in_steps
from stages.common.pruning.groups import channel_groups, coupled_layers
from stages.common.pruning.latency.candidates import CandidateTimer
from stages.common.pruning.latency.model import LatencyModel, load_latency_model
from stages.common.pruning.params import PruneParams, refuse_chain_only, refuse_contradictions
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
    base: Network,
    pruned: Network,
    params: PruneParams,
    accuracies: dict[str, float],
    latency: Latency | None,
    keep_whole: Sequence[str] = (),
) -> dict:
    """Sizes before and after, the amount asked for and reached, accuracies in percent."""
    metrics = {
        "method": params.method,
        "target": params.target,
        "amount_asked": None if params.budget_ms or params.widths else params.amount,
        "amount_reached": round(amount_reached(base, pruned, params, latency, keep_whole), 4),
        "before": size_and_widths(base, params, keep_whole),
        "after": size_and_widths(pruned, params, keep_whole),
        "validation_accuracy": accuracies,
    }
    if isinstance(latency, LatencyModel):
        metrics["predicted_latency_ms"] = predicted_latency(base, pruned, latency)
    if isinstance(latency, CandidateTimer):
        metrics["measured_latency_ms"] = latency.report(group_widths(pruned, keep_whole))
    if isinstance(base, ImportedNetwork) and params.method == "structured":
        metrics["coupled_layers"] = coupled_layers(channel_groups(base, keep_whole=keep_whole))
    return metrics


def amount_reached(
    base: Network,
    pruned: Network,
    params: PruneParams,
    latency: Latency | None,
    keep_whole: Sequence[str],
) -> float:
    """The share of the target (MACs, params or milliseconds) that is gone."""
    if latency is not None and params.target == "latency":
        before, after = (milliseconds(each, latency, keep_whole) for each in (base, pruned))
        return 1 - after / before
    zeros = params.method == "unstructured"
    return share_removed(size_of(base), size_of(pruned), params.target, zeros)


def milliseconds(network: Network, latency: Latency, keep_whole: Sequence[str]) -> float:
    """Predicted of the chain, measured of another network."""
    if isinstance(latency, CandidateTimer):
        return latency.ms(group_widths(network, keep_whole))
    assert isinstance(network, Chain)
    return latency.predict(widths_of(network))


def size_and_widths(network: Network, params: PruneParams, keep_whole: Sequence[str]) -> dict:
    """The chain's widths as text, '64 64 / 256 256', which `dvc metrics diff` can show; those of
    another network by group, where channels were removed.
    """
    size = dataclasses.asdict(size_of(network))
    if isinstance(network, Chain):
        widths = " / ".join(" ".join(map(str, block)) for block in widths_of(network))
        return {**size, "widths": widths}
    if params.method == "unstructured":
        return size
    groups = channel_groups(network, keep_whole=keep_whole)
    return {**size, "widths": {group.name: group.width for group in groups}}


def group_widths(network: Network, keep_whole: Sequence[str]) -> list[int]:
    return [group.width for group in channel_groups(network, keep_whole=keep_whole)]


def widths_in_words(metrics: dict) -> str:
    """The chain's widths, or how many channels another network keeps."""
    before, after = (metrics[when].get("widths") for when in ("before", "after"))
    if isinstance(after, dict):
        return f"{sum(after.values())} of {sum(before.values())} prunable channels left"
    return f"widths {after}" if after else "all widths as before"


def predicted_latency(base: Network, pruned: Network, latency: LatencyModel) -> dict:
    """FP32 milliseconds of one image on the profile's device, and its name."""
    return {
        "before": round(milliseconds(base, latency, ()), 4),
        "after": round(milliseconds(pruned, latency, ()), 4),
        "device": latency.device,
    }


def latency_of(
    base: Network, path: str, params: PruneParams, keep_whole: Sequence[str], store: EpochStore
) -> Latency | None:
    """What answers for milliseconds, if they are asked for: the profile, or this machine."""
    if not params.needs_latency():
        return None
    if isinstance(base, ImportedNetwork):
        return CandidateTimer(base, keep_whole, store)
    return load_latency_model(path)


def main() -> None:
    args = parse_args()
    params = load_params(PruneParams, args.params, section="prune")
    refuse_contradictions(params)
    recipe = load_params(RecipeParams, args.params, section="recipe")
    data = load_params(DataParams, args.params, section="data")
    images, validation = load_training_images(args.data, data)
    source = load_params(NetworkParams, args.params, section="network")
    refuse_chain_only(params, source.factory)
    keep_whole = source.keep_whole
    base = load_checkpoint(args.base, source.factory)
    teacher = load_teacher(args.teacher, recipe.augmentation(), images.digest())
    store = EpochStore(args.resume)
    latency = latency_of(base.model, args.latency, params, keep_whole, store)
    context = RunContext(images, validation, recipe, pick_device(params.device), store)

    def write_curve(histories: list[list[dict]]) -> None:
        write_csv(args.curve, curve(histories), header=CURVE_COLUMNS)

    pruned = prune_in_steps(base.model, teacher, params, context, latency, write_curve, keep_whole)
    cpu = torch.device("cpu")
    accuracies = {
        "base": evaluate(base.model, validation, cpu),
        "before_fine_tuning": pruned.accuracy_before_fine_tuning,
        "fine_tuned": evaluate(pruned.network, validation, cpu),
    }
    metrics = summary(base.model, pruned.network, params, accuracies, latency, keep_whole)
    metrics["fine_tuning_flops"] = sum(progress.flops for progress in pruned.fine_tuning)
    view_epochs = 0 if teacher.views or not params.distillation else params.plain_epochs()
    if params.mixup_share or view_epochs:
        metrics["teaching_flops"] = teaching_flops(
            base.model, images, params.mixup_views, params.most_mixup_epochs(), view_epochs
        )
    whole = {"keep_whole": keep_whole} if keep_whole else {}
    provenance = {**base.provenance, "prune": {**params.provenance(), **whole}}
    save_checkpoint(args.pruned, pruned.network, provenance)
    write_curve([progress.history for progress in pruned.fine_tuning])
    write_json(args.metrics, metrics)
    store.clear()
    print(
        f"{args.pruned}: {metrics['amount_reached']:.3f} of {params.target} removed "
        f"({params.asked()} asked), {widths_in_words(metrics)}; validation "
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

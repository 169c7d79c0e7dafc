"""Prune the base network and fine-tune what is left, with the wider networks as teacher.

Reads   the base checkpoint, the teacher's outputs on the training images, the training images
        (validation images included, never the test ones), the latency model of the device, the
        memory model of the network
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
result then depends. Bytes on a microcontroller are predicted for every network. A killed run goes
on from its last whole epoch, kept in the folder --resume.
"""

import argparse
from collections.abc import Sequence

import torch

from stages.common.building.checkpoint import load_checkpoint, save_checkpoint
from stages.common.core.accuracy import percent_text
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_training_images
from stages.common.data.params import DataParams
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.network.params import NetworkParams
from stages.common.pruning.base_teacher import teaching_flops
from stages.common.pruning.fine_tuning import CostModel, Pruned, prune_in_steps
from stages.common.pruning.latency.candidates import CandidateTimer
from stages.common.pruning.latency.model import load_latency_model
from stages.common.pruning.memory.model import load_memory_model
from stages.common.pruning.params import PruneParams, refuse_chain_only, refuse_contradictions
from stages.common.pruning.summary import summary, widths_in_words
from stages.common.training.checkpoints import EpochStore
from stages.common.training.context import RunContext, pick_device
from stages.common.training.loop import evaluate
from stages.common.training.params import RecipeParams
from stages.common.training.teacher import TeacherOutputs, load_teacher

CURVE_COLUMNS = ["epoch", "step", "loss", "learning_rate", "validation_accuracy"]


def curve(histories: list[list[dict]]) -> list[dict]:
    """One row for each epoch of fine-tuning, numbered through, with its pruning step.

    ``histories``: the rows of each step's fine-tuning.
    """
    rows = [{"step": step, **row} for step, history in enumerate(histories, 1) for row in history]
    return [{**row, "epoch": epoch} for epoch, row in enumerate(rows, 1)]


def cost_model_of(
    base: Network,
    args: argparse.Namespace,
    params: PruneParams,
    keep_whole: Sequence[str],
    store: EpochStore,
) -> CostModel | None:
    """The latency of the chain, by a profile, or of another network, timed here; or the bytes on a
    microcontroller; if asked for.
    """
    if params.counts_bytes():
        if args.memory is None:
            raise InputError(f"prune.target is {params.target}: --memory is missing")
        return load_memory_model(args.memory)
    if not params.needs_latency():
        return None
    if isinstance(base, ImportedNetwork):
        return CandidateTimer(base, keep_whole, store)
    return load_latency_model(args.latency, params.precision)


def accuracies_of(base: Network, pruned: Pruned, validation: Images) -> dict[str, float]:
    """Percent of the validation images, on the CPU."""
    cpu = torch.device("cpu")
    return {
        "base": evaluate(base, validation, cpu),
        "before_fine_tuning": pruned.accuracy_before_fine_tuning,
        "fine_tuned": evaluate(pruned.network, validation, cpu),
    }


def operations(
    base: Network, pruned: Pruned, teacher: TeacherOutputs, params: PruneParams, images: Images
) -> dict[str, int]:
    """The floating-point operations of fine-tuning and, where the base teaches, of its outputs."""
    flops = {"fine_tuning_flops": sum(progress.flops for progress in pruned.fine_tuning)}
    view_epochs = 0 if teacher.views or not params.distillation else params.plain_epochs()
    if params.mixup_share or view_epochs:
        flops["teaching_flops"] = teaching_flops(
            base, images, params.mixup_views, params.most_mixup_epochs(), view_epochs
        )
    return flops


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
    cost_model = cost_model_of(base.model, args, params, keep_whole, store)
    context = RunContext(images, validation, recipe, pick_device(params.device), store)

    def write_curve(histories: list[list[dict]]) -> None:
        write_csv(args.curve, curve(histories), header=CURVE_COLUMNS)

    pruned = prune_in_steps(
        base.model, teacher, params, context, cost_model, write_curve, keep_whole
    )
    accuracies = accuracies_of(base.model, pruned, validation)
    metrics = summary(base.model, pruned.network, params, accuracies, cost_model, keep_whole)
    metrics |= operations(base.model, pruned, teacher, params, images)
    whole = {"keep_whole": keep_whole} if keep_whole else {}
    provenance = {**base.provenance, "prune": {**params.provenance(), **whole}}
    save_checkpoint(args.pruned, pruned.network, provenance)
    write_curve([progress.history for progress in pruned.fine_tuning])
    write_json(args.metrics, metrics)
    store.clear()
    before, after = (
        percent_text(accuracies[when], len(validation)) for when in ("base", "fine_tuned")
    )
    print(
        f"{args.pruned}: {metrics['amount_reached']:.3f} of {params.target} removed "
        f"({params.asked()} asked), {widths_in_words(metrics)}; validation {before} -> {after}"
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "data", "resume", "base", "teacher", "latency"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--memory", help="memory model, where prune.target is flash or ram")
    for name in ("pruned", "curve", "metrics"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

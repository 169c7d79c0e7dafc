"""The summary of a pruning: sizes and widths before and after, what was asked for and reached."""

import dataclasses
from collections.abc import Sequence

from stages.common.network.chain import Chain, widths_of
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.network.size import size_of
from stages.common.pruning.cut import share_removed
from stages.common.pruning.fine_tuning import CostModel
from stages.common.pruning.groups import channel_groups, coupled_layers
from stages.common.pruning.latency.candidates import CandidateTimer
from stages.common.pruning.latency.model import LatencyModel
from stages.common.pruning.memory.model import MemoryModel, outputs_of
from stages.common.pruning.params import BYTES, PruneParams


def summary(
    base: Network,
    pruned: Network,
    params: PruneParams,
    accuracies: dict[str, float],
    cost_model: CostModel | None,
    keep_whole: Sequence[str] = (),
) -> dict:
    """Sizes before and after, the amount asked for and reached, accuracies in percent."""
    metrics = {
        "method": params.method,
        "target": params.target,
        "amount_asked": None if params.names_a_size() else params.amount,
        "amount_reached": round(amount_reached(base, pruned, params, cost_model, keep_whole), 4),
        "before": size_and_widths(base, params, keep_whole),
        "after": size_and_widths(pruned, params, keep_whole),
        "validation_accuracy": accuracies,
    }
    if isinstance(cost_model, LatencyModel):
        metrics["predicted_latency_ms"] = predicted_latency(base, pruned, cost_model)
    if isinstance(cost_model, CandidateTimer):
        metrics["measured_latency_ms"] = cost_model.report(group_widths(pruned, keep_whole))
    if isinstance(cost_model, MemoryModel):
        metrics["predicted_bytes"] = predicted_bytes(base, pruned, cost_model)
    if isinstance(base, ImportedNetwork) and params.method == "structured":
        metrics["coupled_layers"] = coupled_layers(channel_groups(base, keep_whole=keep_whole))
    return metrics


def amount_reached(
    base: Network,
    pruned: Network,
    params: PruneParams,
    cost_model: CostModel | None,
    keep_whole: Sequence[str],
) -> float:
    """The share of the target (MACs, params, milliseconds or bytes) that is gone."""
    if isinstance(cost_model, MemoryModel):
        before, after = (
            cost_model.bytes(params.target, outputs_of(each)) for each in (base, pruned)
        )
        return 1 - after / before
    if cost_model is not None and params.target == "latency":
        before_ms, after_ms = (
            milliseconds(each, cost_model, keep_whole) for each in (base, pruned)
        )
        return 1 - after_ms / before_ms
    zeros = params.method == "unstructured"
    return share_removed(size_of(base), size_of(pruned), params.target, zeros)


def milliseconds(
    network: Network, latency: LatencyModel | CandidateTimer, keep_whole: Sequence[str]
) -> float:
    """Predicted of the chain, measured of another network."""
    if isinstance(latency, CandidateTimer):
        return latency.ms(group_widths(network, keep_whole))
    assert isinstance(network, Chain)
    return latency.predict(widths_of(network))


def predicted_latency(base: Network, pruned: Network, latency: LatencyModel) -> dict:
    """Milliseconds of one image on the profile's device, and its name; the precision, if INT8."""
    precision = {} if latency.precision == "fp32" else {"precision": latency.precision}
    return {
        "before": round(milliseconds(base, latency, ()), 4),
        "after": round(milliseconds(pruned, latency, ()), 4),
        "device": latency.device,
        **precision,
    }


def predicted_bytes(base: Network, pruned: Network, memory: MemoryModel) -> dict:
    """Of the INT8 TFLite file, and of the arena in TensorFlow Lite Micro on a 64-bit host."""
    return {
        when: {target: memory.bytes(target, outputs_of(network)) for target in BYTES}
        for when, network in (("before", base), ("after", pruned))
    }


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

"""Quantization-aware fine-tuning of an FP32 ONNX model: its forward pass rounds as INT8 does.

The activations' ranges stay those that calibration found. The targets are the labels and the FP32
model's own outputs. BatchNorm is folded before, so that what learns is what the file holds. The
weights that GPTQ rounds stay as it leaves them: they cancel out, which a step would undo.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from tqdm import tqdm

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import InputError
from stages.common.data.dataset import Images
from stages.common.inference.int8.first_layer import first_layer
from stages.common.inference.int8.quantizer import (
    chosen_layers,
    largest_integer,
    prepared,
    with_int8_layers,
)
from stages.common.inference.int8.sensitivity import logits_of
from stages.common.inference.params import QuantizeParams
from stages.common.qat.graph import TorchGraph
from stages.common.training.checkpoints import work_key
from stages.common.training.context import RunContext
from stages.common.training.loop import Epochs
from stages.common.training.losses import distillation
from stages.common.training.throughput import keep_freed_memory

TEMPERATURE = 1.0  # the FP32 model's outputs as they are: they are to be met, not softened


@dataclass(frozen=True)
class FineTuned:
    """An FP32 model whose weights are on the grid of its INT8 ones, and INT8's accuracies: percent
    of the validation images, computed as ONNX defines the files.
    """

    model: ModelProto
    metrics: dict


def fine_tuned_for_int8(
    model: ModelProto,
    calibration: Images,
    params: QuantizeParams,
    ranges: Path,
    context: RunContext,
) -> FineTuned:
    """Fine-tune with rounding, and, as a control, for as long without.

    ``ranges``: the file that keeps the activations' ranges, which the INT8 file must have too.
    Raises ``InputError`` for a network that cannot be trained here, and when the loss diverges.
    """
    started = time.perf_counter()
    model = prepared(model, params)
    layers = chosen_layers(model, params)

    def int8_accuracy(int8: ModelProto) -> float:
        labels = context.validation.labels
        return round(accuracy(logits_of(int8, context.validation).argmax(1), labels), 2)

    before = with_int8_layers(model, calibration, params, layers, ranges)
    first = first_layer(model)
    graph_of = partial(
        TorchGraph,
        model,
        levels=largest_integer(params),
        device=context.device,
        fixed=() if first is None else (first.node.input[1],),
    )
    student, control, teacher = graph_of(int8=before), graph_of(), graph_of()
    for graph, title in ((student, "INT8"), (control, "FP32, the control")):
        fit(graph, teacher, params, context, f"fine-tuning in {title}, epoch")
    tuned, plain = (with_weights(model, graph.trained()) for graph in (student, control))
    metrics = {
        "epochs": params.aware_epochs,
        "before": int8_accuracy(before),
        "after": int8_accuracy(with_int8_layers(tuned, calibration, params, layers, ranges)),
        "control": int8_accuracy(with_int8_layers(plain, calibration, params, layers)),
    }
    print(
        f"fine-tuning for INT8: {metrics['before']:g} % -> {metrics['after']:g} % of the "
        f"validation images; in FP32 for as long: {metrics['control']:g} %; "
        f"{time.perf_counter() - started:.0f} s"
    )
    return FineTuned(tuned, metrics)


def fit(
    graph: TorchGraph, teacher: TorchGraph, params: QuantizeParams, context: RunContext, title: str
) -> None:
    """Train ``graph`` in place, from the last whole epoch that the context's store has of it."""
    keep_freed_memory()
    key = fit_key(graph, params, context)
    optimizer = torch.optim.Adam(graph.parameters())
    progress = context.store.load(key, graph, [optimizer])
    epochs = Epochs(context, params.aware_seed, None)
    with tqdm(total=params.aware_epochs * len(epochs), unit="img", unit_scale=True) as bar:
        bar.update(len(progress.history) * len(epochs))
        for epoch in range(len(progress.history), params.aware_epochs):
            bar.set_description(f"{title} {epoch + 1}/{params.aware_epochs}")
            loss = train_epoch(graph, teacher, optimizer, epochs, epoch, params, bar)
            bar.set_postfix(loss=loss)
            progress.history.append({"epoch": epoch + 1, "loss": loss})
            context.store.save(key, graph, [optimizer], progress)


def train_epoch(
    graph: TorchGraph,
    teacher: TorchGraph,
    optimizer: torch.optim.Optimizer,
    epochs: Epochs,
    epoch: int,
    params: QuantizeParams,
    bar: tqdm,
) -> float:
    """One pass over the images; returns the mean loss."""
    smoothing = epochs.context.recipe.label_smoothing
    loss_of = distillation(params.aware_distillation, TEMPERATURE, smoothing)
    pixels, labels, _, order = epochs.load(epoch)
    batches = order.split(params.aware_batch_size)
    total = 0.0
    for index, batch in enumerate(batches):
        done = (epoch + index / len(batches)) / params.aware_epochs
        for group in optimizer.param_groups:
            group["lr"] = cosine(params.aware_learning_rate, done)
        inputs = pixels[batch].to(torch.float32, memory_format=torch.channels_last)
        with torch.no_grad():
            targets = teacher(inputs)
        loss = loss_of(graph(inputs), labels[batch], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(batch)
        bar.update(len(batch))
    if not math.isfinite(total):
        raise InputError(
            f"the loss became {total} in epoch {epoch + 1} of fine-tuning for INT8; lower "
            f"quantize.aware_learning_rate (now {params.aware_learning_rate:g})"
        )
    return round(total / len(order), 5)


def cosine(peak: float, done: float) -> float:
    """The learning rate after a share of the training."""
    return peak * (1 + math.cos(math.pi * done)) / 2


def fit_key(graph: TorchGraph, params: QuantizeParams, context: RunContext) -> str:
    """A digest of all that decides a fine-tuning's bits."""
    values = dataclasses.asdict(params)
    return work_key(
        graph,
        context.device,
        file=graph.digest,
        data=context.images.digest(),
        recipe=dataclasses.asdict(context.recipe),
        params={key: value for key, value in values.items() if key.startswith("aware_")},
    )


def with_weights(model: ModelProto, weights: Mapping[str, np.ndarray]) -> ModelProto:
    """A copy with other values for the named constants."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return changed

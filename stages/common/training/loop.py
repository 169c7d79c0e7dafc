"""The loop of training and fine-tuning, which resumes after a kill from its last whole epoch.

Recipe after KellerJordan/cifar10-airbench (airbench94_muon): Muon for the convolution filters,
SGD for biases and head, label smoothing, alternating flip, translation, cutout, linear decay.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from stages.common.core.accuracy import accuracy, decimals_of, percent_text
from stages.common.core.cli import InputError
from stages.common.core.params import recorded
from stages.common.data.dataset import Images
from stages.common.network.network import Network
from stages.common.network.size import size_of
from stages.common.training.augmentation import Augmenter, balanced, shuffled
from stages.common.training.checkpoints import Progress, work_key
from stages.common.training.context import RunContext, evaluation_batch, products_in
from stages.common.training.losses import Loss, Objective
from stages.common.training.optimizers import begin_epoch, make_optimizers, set_rate
from stages.common.training.params import Schedule
from stages.common.training.teacher import Teacher
from stages.common.training.throughput import keep_freed_memory, matmul_gflops

CURVE_COLUMNS = ["epoch", "loss", "learning_rate", "validation_accuracy"]


def ignore(rows: list) -> None:
    """The default of callbacks that are given the rows of a curve."""


@dataclass(frozen=True)
class Monitor:
    """The title of the progress bar, and a function that gets all rows of the curve so far: after
    every epoch, and when a training resumes.
    """

    title: str
    on_epoch: Callable[[list[dict]], None] = ignore


def fit(
    model: Network,
    objective: Objective,
    schedule: Schedule,
    seed: int,
    context: RunContext,
    monitor: Monitor,
) -> Progress:
    """Train ``model`` in place and return the curve.

    Every epoch sees a new view of the images, or, with a teacher, the next of the teacher's. Every
    epoch is saved in the context's store; when the same work (same start, data, recipe, objective)
    is found there, it goes on from the last whole epoch and ends in the same bits. Raises
    ``InputError`` when a batch is larger than the training split.
    """
    if schedule.batch_size > len(context.images):
        raise InputError(
            f"batch_size is {schedule.batch_size}; allowed: at most {len(context.images)}, the "
            "number of training images"
        )
    keep_freed_memory()
    key = fit_key(model, objective, schedule, seed, context)
    model.to(context.device).to(memory_format=torch.channels_last)
    optimizers = make_optimizers(model, context.recipe, context.precision)
    progress = context.store.load(key, model, optimizers)
    done = len(progress.history)
    if done:
        print(f"{monitor.title}: resumed after epoch {done} of {schedule.epochs}")
        monitor.on_epoch(progress.history)
    if done == schedule.epochs:
        return progress
    epochs = Epochs(context, seed, objective.teacher)
    trainer = Trainer(model, optimizers, objective.loss, context.precision)
    with tqdm(total=schedule.epochs * len(epochs), unit="img", unit_scale=True) as bar:
        bar.update(done * len(epochs))
        for epoch in range(done, schedule.epochs):
            bar.set_description(f"{monitor.title} {epoch + 1}/{schedule.epochs}")
            row = run_epoch(trainer, epochs, epoch, schedule, progress, bar)
            reached = percent_text(row["validation_accuracy"], len(context.validation))
            bar.set_postfix(loss=row["loss"], validation=reached)
            progress.history.append(row)
            context.store.save(key, model, optimizers, progress)
            monitor.on_epoch(progress.history)
    return progress


def fit_key(
    model: Network, objective: Objective, schedule: Schedule, seed: int, context: RunContext
) -> str:
    """A digest of all that decides a training's bits."""
    return work_key(
        model,
        context.device,
        data=context.images.digest(),
        recipe=recorded(context.recipe),
        schedule=dataclasses.asdict(schedule),
        seed=seed,
        objective=objective.key,
        precision=str(context.precision),
    )


class Epochs:
    """The data of every epoch, on the device."""

    def __init__(self, context: RunContext, seed: int, teacher: Teacher | None):
        self.context = context
        self.seed = seed
        self.device = context.device
        self.teacher = teacher
        self.labels = torch.from_numpy(context.images.labels).to(self.device)
        pixels = torch.from_numpy(context.images.pixels).to(self.device)
        view_seed = teacher.seed if teacher else seed
        augmentation = context.recipe.augmentation()
        self.augmenter = Augmenter(pixels, context.images.info, augmentation, view_seed)

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, epoch: int) -> Tensor:
        if self.context.images.info.sampling == "balanced":
            return balanced(torch.from_numpy(self.context.images.labels), self.seed, epoch)
        return shuffled(len(self), self.seed, epoch)

    def load(self, epoch: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Pixels (N, 3, H, W) uint8; labels (N,) int64 or (N, classes) float32; the teacher's
        logits (N, classes) float32 if there is one; and the order (N,) int64 to train in.
        """
        order = self.order(epoch).to(self.device)
        if self.teacher is None:
            return self.augmenter.view(epoch), self.labels, None, order
        data = self.teacher.epoch_data(self.augmenter, epoch, self.seed)
        labels = self.labels if data.labels is None else data.labels.to(self.device)
        logits = torch.from_numpy(data.logits).to(self.device, torch.float32)
        return data.pixels, labels, logits, order


class Trainer:
    """Everything that a training step needs besides its batch and its learning rate."""

    def __init__(
        self,
        model: Network,
        optimizers: list[torch.optim.Optimizer],
        loss: Loss,
        precision: torch.dtype,
    ):
        self.model = model
        self.optimizers = optimizers
        self.loss = loss
        self.precision = precision
        self.step_flops: dict[bool, int] = {}  # counted: by whether all layers learn

    def step(self, inputs: Tensor, labels: Tensor, soft: Tensor | None, rate: float) -> float:
        """Learn from one batch, and return its loss."""
        loss = self.add_gradients(inputs, labels, soft)
        self.update(rate)
        return float(loss)  # waits for the device

    def add_gradients(self, inputs: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
        """Forward and backward; returns the loss, a scalar.

        ``inputs`` (n, 3, H, W) float32 in 0-255, ``labels`` (n,) int64 or (n, classes) float32,
        ``soft`` the teacher's logits (n, classes) float32 if there is a teacher.
        """
        with products_in(self.precision, inputs.device):
            logits = self.model(inputs)
        loss = self.loss(logits.float(), labels, soft)
        loss.backward()
        return loss.detach()

    def update(self, rate: float) -> None:
        set_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def run_epoch(
    trainer: Trainer,
    epochs: Epochs,
    epoch: int,
    schedule: Schedule,
    progress: Progress,
    bar: tqdm,
) -> dict:
    """Train for an epoch, then validate; returns the curve's row and adds the epoch's cost and
    times to ``progress``.
    """
    context, times = epochs.context, progress.times
    times.matmul_gflops.append(matmul_gflops(context.device))
    row = train_epoch(trainer, epochs, epoch, schedule, progress, bar)
    started = time.perf_counter()
    reached = evaluate(trainer.model, context.validation, context.device)
    row["validation_accuracy"] = round(reached, decimals_of(len(context.validation)))
    times.validation += time.perf_counter() - started
    return row


def train_epoch(
    trainer: Trainer,
    epochs: Epochs,
    epoch: int,
    schedule: Schedule,
    progress: Progress,
    bar: tqdm,
) -> dict:
    """One pass over the images; returns the curve's row and adds its cost to ``progress``.

    Counted are the network's operations, not the optimizers'.
    """
    learns = begin_epoch(trainer.model, epoch, schedule, epochs.context.recipe)
    times = progress.times
    started = time.perf_counter()
    pixels, labels, targets, order = epochs.load(epoch)
    batches = order.split(schedule.batch_size)
    counter = None if learns in trainer.step_flops else FlopCounterMode(display=False)
    total = 0.0
    for index, batch in enumerate(batches):
        step, steps = epoch * len(batches) + index, schedule.epochs * len(batches)
        rate = schedule.rate(step, steps, epochs.context.recipe.schedule)
        inputs = pixels[batch].to(torch.float32, memory_format=torch.channels_last)
        soft = None if targets is None else targets[batch]
        times.loading += time.perf_counter() - started
        started = time.perf_counter()
        with counter if counter and index == 0 else nullcontext():  # counting is slow
            loss = trainer.add_gradients(inputs, labels[batch], soft)
        trainer.update(rate)
        total += float(loss) * len(batch)
        times.steps.append(time.perf_counter() - started)
        started = time.perf_counter()
        bar.update(len(batch))
    if not math.isfinite(total):
        raise InputError(
            f"the loss became {total} in epoch {epoch + 1}; lower the learning_rate (peak now "
            f"{schedule.learning_rate}) or check recipe.* in params.yaml"
        )
    if counter:
        trainer.step_flops[learns] = counter.get_total_flops()
    progress.step_flops = trainer.step_flops[learns]
    progress.flops += progress.step_flops * len(order) // len(batches[0])
    return {"epoch": epoch + 1, "loss": round(total / len(order), 5), "learning_rate": rate}


@torch.no_grad()
def evaluate(model: Network, images: Images, device: torch.device) -> float:
    """Accuracy in percent, in float32."""
    model.eval()
    predictions = [
        model(batch.to(device, torch.float32, memory_format=torch.channels_last)).argmax(1).cpu()
        for batch in torch.from_numpy(images.pixels).split(evaluation_batch(images))
    ]
    return accuracy(torch.cat(predictions).numpy(), images.labels)


def summary(network: Network, progress: Progress, images: Images, validation: Images) -> dict:
    """The metrics of a training that do not depend on the machine's speed."""
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

"""Training and fine-tuning: one loop, whose every epoch can be continued after a kill.

Recipe after KellerJordan/cifar10-airbench (airbench94_muon): Muon for the convolution filters,
SGD for biases and head, label smoothing, alternating flip, translation, cutout, linear decay.
"""

import dataclasses
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from stages.common.accuracy import accuracy
from stages.common.augmentation import Augmenter, shuffled
from stages.common.cli import InputError
from stages.common.data import Images
from stages.common.losses import Lesson, Loss, from_labels
from stages.common.model import Network, size_of
from stages.common.muon import Muon
from stages.common.params import channel_widths, number, one_of, whole
from stages.common.resume import EpochStore, Progress, work_key
from stages.common.speed import keep_freed_memory, matmul_gflops
from stages.common.teacher import Teaches

CURVE_COLUMNS = ["epoch", "loss", "learning_rate", "validation_accuracy"]

# ---------------------------------------------------------------------------------------- recipe


@dataclass(frozen=True)
class RecipeParams:
    """What train and prune share (params section 'recipe')."""

    momentum: float = number(at_least=0, below=1)
    sgd_momentum: float = number(at_least=0, below=1)
    bias_rate: float = number(at_least=0.000001)
    head_rate: float = number(at_least=0.000001)
    weight_decay: float = number(at_least=0)
    label_smoothing: float = number(at_least=0, below=1)
    translate: int = whole(at_least=0, at_most=8)
    cutout: int = whole(at_least=0, at_most=32)
    precision: str = one_of("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the rate rises for ``warmup`` of the steps, then falls to 0."""

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.0
    whitening_bias_epochs: int = 0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of one step, counted from 0."""
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        return self.learning_rate * (steps - step) / (steps - rising)


@dataclass(frozen=True)
class NetworkParams:
    """A network from scratch: its widths, and how it is trained (teacher and base)."""

    seed: int = whole(at_least=0)
    widths: list = channel_widths()
    epochs: int = whole(at_least=1)
    batch_size: int = whole(at_least=2)
    learning_rate: float = number(at_least=0)
    warmup: float = number(at_least=0, below=1)
    whitening_bias_epochs: int = whole(at_least=0)
    device: str = one_of("auto", "cpu", "cuda", "mps")

    def schedule(self) -> Schedule:
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            whitening_bias_epochs=self.whitening_bias_epochs,
        )


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA, then MPS, then CPU; raises ``InputError`` for one that is not there."""
    torch.backends.cudnn.deterministic = True  # the same seed, the same bits
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name == "auto":
        return torch.device(next((key for key, there in available.items() if there()), "cpu"))
    if name in available and not available[name]():
        raise InputError(f"the device '{name}' is not available here; set it to auto or cpu")
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the products in training; weights, sums and evaluation stay float32.

    'auto' is bfloat16 where the device multiplies it in hardware (CUDA; x86 with AVX-512 BF16 or
    AMX), else float32: where it is emulated, a step takes longer than in float32.
    """
    if name != "auto":
        return getattr(torch, name)
    native = device.type == "cuda" or (
        device.type == "cpu"
        and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    )
    return torch.bfloat16 if native else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """torch.bfloat16 -> 'bfloat16', as recipe.precision has it."""
    return str(precision).removeprefix("torch.")


# ----------------------------------------------------------------------------------- optimization


def make_optimizers(
    model: Network, recipe: RecipeParams, precision: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon for the 3x3 filters; SGD for biases and head, each at its multiple of the rate.

    Muon's products are of the type of the network's, as its author has them.
    """
    parameters = [value for name, value in model.named_parameters() if "whitening" not in name]
    filters = [value for value in parameters if value.requires_grad and value.dim() == 4]
    biases = [value for value in parameters if value.requires_grad and value.dim() == 1]
    sgd_groups = [
        {"params": params, "weight_decay": recipe.weight_decay / rate, "multiple": rate}
        for params, rate in (
            ([model.whitening.bias, *biases], recipe.bias_rate),
            ([model.head.weight], recipe.head_rate),
        )
    ]
    return [
        Muon([{"params": filters, "multiple": 1.0}], recipe.momentum, precision),
        torch.optim.SGD(sgd_groups, lr=0.0, momentum=recipe.sgd_momentum, nesterov=True),
    ]


# ----------------------------------------------------------------------------------------- loop


def fit(
    model: Network,
    images: Images,
    validation: Images,
    recipe: RecipeParams,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    store: EpochStore,
    title: str,
    lesson: Lesson | None = None,
) -> Progress:
    """Train ``model`` in place, on the labels if no lesson is given, and return the curve.

    Every epoch sees a new view of the images, or, with a teacher, the next of the teacher's. Every
    epoch is saved in ``store``; when the same work (same start, data, recipe, lesson) is found
    there, it goes on from the last whole epoch and ends in the same bits.
    """
    keep_freed_memory()
    lesson = lesson or from_labels(recipe.label_smoothing)
    precision = pick_precision(recipe.precision, device)
    key = work_key(
        model,
        device,
        data=images.digest(),
        recipe=dataclasses.asdict(recipe),
        schedule=dataclasses.asdict(schedule),
        seed=seed,
        lesson=lesson.key,
        precision=str(precision),
    )
    model.to(device, memory_format=torch.channels_last)
    optimizers = make_optimizers(model, recipe, precision)
    progress = store.load(key, model, optimizers)
    if progress.history:
        print(f"{title}: resumed after epoch {len(progress.history)} of {schedule.epochs}")
    if len(progress.history) == schedule.epochs:
        return progress
    epochs = Epochs(images, recipe, seed, device, lesson.teacher)
    trainer = Trainer(model, optimizers, lesson.loss, precision)
    with tqdm(total=schedule.epochs * len(images), unit="img", unit_scale=True) as bar:
        bar.update(len(progress.history) * len(images))
        for epoch in range(len(progress.history), schedule.epochs):
            bar.set_description(f"{title} {epoch + 1}/{schedule.epochs}")
            model.whitening.bias.requires_grad_(epoch < schedule.whitening_bias_epochs)
            progress.times.matmul_gflops.append(matmul_gflops(device))
            row = train_epoch(trainer, epochs, epoch, schedule, progress, bar)
            started = time.perf_counter()
            row["validation_accuracy"] = evaluate(model, validation, device)
            progress.times.validation += time.perf_counter() - started
            bar.set_postfix(loss=row["loss"], validation=f"{row['validation_accuracy']:.2f}%")
            progress.history.append(row)
            store.save(key, model, optimizers, progress)
    return progress


class Epochs:
    """The images, on the device, as what every epoch is to train on."""

    def __init__(
        self,
        images: Images,
        recipe: RecipeParams,
        seed: int,
        device: torch.device,
        teacher: Teaches | None,
    ):
        self.seed = seed
        self.device = device
        self.teacher = teacher
        self.labels = torch.from_numpy(images.labels).to(device)
        pixels = torch.from_numpy(images.pixels).to(device)
        view_seed = teacher.seed if teacher else seed
        self.augmenter = Augmenter(pixels, recipe.translate, recipe.cutout, view_seed)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, epoch: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Pixels (N, 3, 32, 32) uint8; labels (N,) int64 or (N, classes) float32; the teacher's
        logits (N, classes) float32 if there is one; and the order (N,) int64 to train in.
        """
        order = shuffled(len(self), self.seed, epoch).to(self.device)
        if self.teacher is None:
            return self.augmenter.view(epoch), self.labels, None, order
        said = self.teacher.said(self.augmenter, epoch, self.seed)
        labels = self.labels if said.labels is None else said.labels.to(self.device)
        logits = torch.from_numpy(said.logits).to(self.device, torch.float32)
        return said.pixels, labels, logits, order


class Trainer:
    """A network in training: all that a step needs besides its batch and its rate."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        loss: Loss,
        precision: torch.dtype,
    ):
        self.model = model
        self.optimizers = optimizers
        self.loss = loss
        self.precision = precision
        self.step_flops: dict[bool, int] = {}  # counted: by whether the first layer learns

    def step(self, inputs: Tensor, labels: Tensor, soft: Tensor | None, rate: float) -> float:
        """Learn from one batch, and return its loss."""
        loss = self.add_gradients(inputs, labels, soft)
        self.update(rate)
        return float(loss)  # waits for the device

    def add_gradients(self, inputs: Tensor, labels: Tensor, soft: Tensor | None) -> Tensor:
        """Forward and backward; returns the loss, a scalar.

        ``inputs`` (n, 3, 32, 32) float32 in 0-255, ``labels`` (n,) int64 or (n, classes) float32,
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


def train_epoch(
    trainer: Trainer,
    epochs: Epochs,
    epoch: int,
    schedule: Schedule,
    progress: Progress,
    bar: tqdm,
) -> dict:
    """One pass over the images; returns the curve's row and adds its cost to ``progress``.

    Counted are the network's operations, not the optimizers'. The zeros between images that lie
    side by side (see ``Convolution``) count as work.
    """
    trainer.model.train()
    times = progress.times
    started = time.perf_counter()
    pixels, labels, targets, order = epochs.load(epoch)
    batches = order.split(schedule.batch_size)
    learns = trainer.model.whitening.bias.requires_grad
    counter = None if learns in trainer.step_flops else FlopCounterMode(display=False)
    total = 0.0
    for index, batch in enumerate(batches):
        rate = schedule.rate(epoch * len(batches) + index, schedule.epochs * len(batches))
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


def products_in(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """The context in which a network's products are of this type."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["multiple"] * rate


@torch.no_grad()
def evaluate(model: Network, images: Images, device: torch.device, batch_size: int = 500) -> float:
    """Accuracy in percent, in float32."""
    model.eval()
    predictions = [
        model(batch.to(device, torch.float32, memory_format=torch.channels_last)).argmax(1).cpu()
        for batch in torch.from_numpy(images.pixels).split(batch_size)
    ]
    return accuracy(torch.cat(predictions).numpy(), images.labels)


def summary(network: Network, progress: Progress, images: Images, validation: Images) -> dict:
    """What a training reached; nothing in it depends on how fast the machine was."""
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

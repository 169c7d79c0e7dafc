"""Training and fine-tuning: one loop, whose every epoch can be continued after a kill.

Recipe after KellerJordan/cifar10-airbench (airbench94_muon): Muon for the convolution filters,
SGD for biases and head, label smoothing, alternating flip, translation, linear decay.
"""

import dataclasses
import hashlib
import io
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from stages.common.accuracy import accuracy
from stages.common.cli import InputError
from stages.common.data import Images
from stages.common.files import write_bytes
from stages.common.model import Network
from stages.common.params import number, whole

# (logits (N, classes), labels (N,), pixels (N, 3, 32, 32) float32) -> scalar loss
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


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


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA, then MPS, then CPU; raises ``InputError`` for one that is not there."""
    torch.backends.cudnn.deterministic = True  # the same seed, the same bits
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name == "auto":
        return torch.device(next((key for key, there in available.items() if there()), "cpu"))
    if name in available and not available[name]():
        raise InputError(f"the device '{name}' is not available here; set it to auto or cpu")
    return torch.device(name)


# ----------------------------------------------------------------------------------- optimization


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, for filters (out, in, height, width).

    Each filter bank is kept at the norm sqrt(out); BatchNorm makes its scale irrelevant. After
    airbench94_muon by Keller Jordan. ``torch.optim.Muon`` refuses 4-D weights and works in
    bfloat16, in which a product that takes 5 ms in float32 takes 281 ms on an AVX2 CPU.
    """

    def __init__(self, params: list[dict], momentum: float, lr: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(state["momentum"], alpha=group["momentum"])  # Nesterov
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(group["lr"] * orthogonalize(update.flatten(1)).view(update.shape))


def orthogonalize(matrix: Tensor, steps: int = 3) -> Tensor:
    """Push all singular values of a matrix (rows, columns) towards 1 (Newton-Schulz, quintic).

    Coefficients: https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if tall := len(x) > x.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def make_optimizers(model: Network, recipe: RecipeParams) -> list[torch.optim.Optimizer]:
    """Muon for the 3x3 filters; SGD for biases and head, each at its multiple of the rate."""
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
        Muon([{"params": filters, "multiple": 1.0}], momentum=recipe.momentum),
        torch.optim.SGD(sgd_groups, lr=0.0, momentum=recipe.sgd_momentum, nesterov=True),
    ]


# ----------------------------------------------------------------------------------- augmentation


class Augmenter:
    """Whole epochs of flipped and shifted pixels (N, 3, 32, 32) uint8, made in memory.

    Alternating flip (cifar10-airbench): a random half of the images is flipped in even epochs,
    the other half in odd ones. Everything random follows from the seed and the epoch's number.
    """

    def __init__(self, pixels: Tensor, translate: int, seed: int):
        self.size = pixels.shape[-1]
        self.translate = translate
        self.seed = seed
        self.padded = F.pad(pixels.float(), (translate,) * 4, mode="reflect")
        self.padded = self.padded.to(torch.uint8)  # (N, 3, 32 + 2t, 32 + 2t)
        self.flipped = torch.rand(len(pixels), generator=self._generator(-1)) < 0.5

    def epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Pixels in their own order, and the order (N,) int64 in which to train on them."""
        generator = self._generator(epoch)
        count = len(self.padded)
        shifts = torch.randint(0, 2 * self.translate + 1, (count, 2), generator=generator)
        pixels = self.padded.new_empty(count, 3, self.size, self.size)
        for y, x in torch.cartesian_prod(*[torch.arange(2 * self.translate + 1)] * 2).tolist():
            chosen = ((shifts[:, 0] == y) & (shifts[:, 1] == x)).nonzero().squeeze(1)
            chosen = chosen.to(pixels.device)
            pixels[chosen] = self.padded[chosen, :, y : y + self.size, x : x + self.size]
        turned = (self.flipped ^ bool(epoch % 2)).nonzero().squeeze(1).to(pixels.device)
        pixels[turned] = pixels[turned].flip(-1)
        return pixels, torch.randperm(count, generator=generator).to(pixels.device)

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self.seed + epoch + 1)


# ----------------------------------------------------------------------------------------- loop


@dataclass
class Progress:
    """What a fit has reached: the rows of its curve, and what its products cost."""

    history: list[dict] = dataclasses.field(default_factory=list)
    flops: int = 0
    seconds: float = 0.0


def fit(
    model: Network,
    images: Images,
    validation: Images,
    recipe: RecipeParams,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    store: "EpochStore",
    title: str,
    loss: Loss | None = None,
    loss_key: str = "",
) -> Progress:
    """Train ``model`` in place and return the curve.

    Every epoch is saved in ``store``; when the same work (same start, data, recipe, loss_key) is
    found there, it goes on from the last whole epoch and ends in the same bits.
    """
    loss = loss or smoothed_cross_entropy(recipe.label_smoothing)
    key = work_key(model, images, recipe, schedule, seed, device, loss_key)
    model.to(device, memory_format=torch.channels_last)
    optimizers = make_optimizers(model, recipe)
    progress = store.load(key, model, optimizers)
    if progress.history:
        print(f"{title}: resumed after epoch {len(progress.history)} of {schedule.epochs}")
    if len(progress.history) == schedule.epochs:
        return progress
    pixels = torch.from_numpy(images.pixels).to(device)
    labels = torch.from_numpy(images.labels).to(device)
    augmenter = Augmenter(pixels, translate=recipe.translate, seed=seed)
    with tqdm(total=schedule.epochs * len(images), unit="img", unit_scale=True) as bar:
        bar.update(len(progress.history) * len(images))
        for epoch in range(len(progress.history), schedule.epochs):
            started = time.perf_counter()
            bar.set_description(f"{title} {epoch + 1}/{schedule.epochs}")
            model.whitening.bias.requires_grad_(epoch < schedule.whitening_bias_epochs)
            row, flops = train_epoch(
                model, augmenter, labels, optimizers, schedule, epoch, loss, bar.update
            )
            row["validation_accuracy"] = evaluate(model, validation, device)
            bar.set_postfix(loss=row["loss"], validation=f"{row['validation_accuracy']:.2f}%")
            progress.history.append(row)
            progress.flops += flops
            progress.seconds += time.perf_counter() - started
            store.save(key, model, optimizers, progress)
    return progress


def train_epoch(
    model: Network,
    augmenter: Augmenter,
    labels: Tensor,
    optimizers: list[torch.optim.Optimizer],
    schedule: Schedule,
    epoch: int,
    loss: Loss,
    advance: Callable[[int], object],
) -> tuple[dict, int]:
    """One pass over the images; returns the curve's row and the operations of its products."""
    model.train()
    pixels, order = augmenter.epoch(epoch)
    batches = order.split(schedule.batch_size)
    counter = FlopCounterMode(display=False)
    total = 0.0
    for index, batch in enumerate(batches):
        rate = schedule.rate(epoch * len(batches) + index, schedule.epochs * len(batches))
        set_rate(optimizers, rate)
        inputs = pixels[batch].to(torch.float32, memory_format=torch.channels_last)
        with counter if index == 0 else nullcontext():  # counting every step would slow it down
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.is_cuda):
                value = loss(model(inputs), labels[batch], inputs)
            value.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += float(value.detach()) * len(batch)
        advance(len(batch))
    if not math.isfinite(total):
        raise InputError(
            f"the loss became {total} in epoch {epoch + 1}; lower the learning_rate (peak now "
            f"{schedule.learning_rate}) or check recipe.* in params.yaml"
        )
    flops = counter.get_total_flops() * len(order) // len(batches[0])
    row = {"epoch": epoch + 1, "loss": round(total / len(order), 5), "learning_rate": rate}
    return row, flops


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["multiple"] * rate


def smoothed_cross_entropy(label_smoothing: float) -> Loss:
    return lambda logits, labels, _: F.cross_entropy(
        logits, labels, label_smoothing=label_smoothing
    )


@torch.no_grad()
def evaluate(model: Network, images: Images, device: torch.device, batch_size: int = 500) -> float:
    """Accuracy in percent, in float32."""
    model.eval()
    predictions = [
        model(batch.to(device, torch.float32, memory_format=torch.channels_last)).argmax(1).cpu()
        for batch in torch.from_numpy(images.pixels).split(batch_size)
    ]
    return accuracy(torch.cat(predictions).numpy(), images.labels)


# ----------------------------------------------------------------------------- killed, continued


class EpochStore:
    """Epoch checkpoints of unfinished work, one file a piece of work, outside DVC's outputs."""

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.used: set[Path] = set()

    def load(self, key: str, model: Network, optimizers: list[torch.optim.Optimizer]) -> Progress:
        """Restore model and optimizers in place; empty progress when nothing is stored."""
        path = self._path(key)
        if not path.exists():
            return Progress()
        content = torch.load(path, weights_only=True)
        model.load_state_dict(content["model"])
        for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return Progress(**content["progress"])

    def save(
        self, key: str, model: Network, optimizers: list[torch.optim.Optimizer], progress: Progress
    ) -> None:
        buffer = io.BytesIO()
        content = {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "progress": dataclasses.asdict(progress),
        }
        torch.save(content, buffer)
        write_bytes(self._path(key), buffer.getvalue())

    def clear(self) -> None:
        """Remove what this run stored; call it once the results are written."""
        for path in self.used:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = self.directory / f"{key}.pt"
        self.used.add(path)
        return path


def work_key(
    model: Network,
    images: Images,
    recipe: RecipeParams,
    schedule: Schedule,
    seed: int,
    device: torch.device,
    loss_key: str,
) -> str:
    """Names a piece of work by all that decides its bits: start, data, params, library, device."""
    facts = {
        "start": model_digest(model),
        "data": images.digest(),
        "recipe": dataclasses.asdict(recipe),
        "schedule": dataclasses.asdict(schedule),
        "seed": seed,
        "loss": loss_key,
        "torch": torch.__version__,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def model_digest(model: Network) -> str:
    """SHA-256 of a model's weights, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

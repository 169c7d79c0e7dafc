"""Measure the speed of a training step with one choice of the loop changed at a time.

Reads   nothing: a step on random pixels takes as long as one on images
Writes  a Markdown table: GFLOP/s of a training step beside those of torch.mm, one row a change
Params  recipe.*, train.*  (widths, batch_size)
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from stages.common.core.cli import run
from stages.common.core.files import write_text
from stages.common.core.params import load_params
from stages.common.data.cifar10 import CLASSES, IMAGE_SHAPE
from stages.common.measuring.machine import cpu_model
from stages.common.network.chain import Chain
from stages.common.reporting.markdown import as_table
from stages.common.training.context import pick_precision, precision_name
from stages.common.training.loop import Trainer
from stages.common.training.losses import smoothed_cross_entropy
from stages.common.training.optimizers import make_optimizers
from stages.common.training.params import RecipeParams, TrainParams
from stages.common.training.throughput import keep_freed_memory, matmul_gflops

WARMUP, STEPS = 3, 10
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Change:
    """The change that a row of the table makes in the committed loop."""

    name: str
    batch_size: int
    channels_last: bool = True
    compiled: bool = False
    precision: torch.dtype = torch.float32
    fused: bool = False
    own_allocator: bool = True  # keep_freed_memory; once called, it holds for the process


def changes(batch_size: int, precision: torch.dtype) -> list[Change]:
    """The allocator's row first: what it measures ends with the next row."""
    other = torch.float32 if precision == torch.bfloat16 else torch.bfloat16
    committed = Change(
        f"as committed, {precision_name(precision)}", batch_size, precision=precision
    )
    return [
        replace(committed, name="freed tensors go back to the system", own_allocator=False),
        committed,
        replace(committed, name=f"products in {precision_name(other)}", precision=other),
        replace(committed, name="without channels_last", channels_last=False),
        replace(committed, name=f"batch {batch_size // 2}", batch_size=batch_size // 2),
        replace(committed, name=f"batch {2 * batch_size}", batch_size=2 * batch_size),
        replace(committed, name="SGD part with fused steps", fused=True),
        replace(committed, name="torch.compile", compiled=True),
    ]


def step_of(change: Change, params: TrainParams, recipe: RecipeParams) -> Callable[[], float]:
    """One training step, but for the change as the committed loop makes it."""
    torch.manual_seed(0)
    layout = torch.channels_last if change.channels_last else torch.contiguous_format
    model = Chain({"widths": params.widths, "classes": len(CLASSES)})
    model.to(memory_format=layout).train()
    optimizers = make_optimizers(model, recipe, change.precision)
    if change.fused:
        for group in optimizers[1].param_groups:
            group.update(fused=True, foreach=False)
    loss = smoothed_cross_entropy(recipe.label_smoothing)
    pixels = (255 * torch.rand(change.batch_size, *IMAGE_SHAPE)).to(memory_format=layout)
    labels = torch.randint(len(CLASSES), (change.batch_size,))
    if change.compiled:
        model.compile()
    trainer = Trainer(model, optimizers, loss, change.precision)
    return lambda: trainer.step(pixels, labels, None, params.learning_rate)


def step_gflops(change: Change, params: TrainParams, recipe: RecipeParams) -> float:
    """The median of some steps after a warm-up; operations counted on an uncompiled step."""
    if change.own_allocator:
        keep_freed_memory()
    plain = Change("", change.batch_size)
    with FlopCounterMode(display=False) as counter:
        step_of(plain, params, recipe)()
    step = step_of(change, params, recipe)
    seconds = []
    for _ in range(WARMUP + STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return counter.get_total_flops() / statistics.median(seconds[WARMUP:]) / 1e9


def table_of(rows: list[tuple[str, float, float]]) -> str:
    lines = [["changed", "GFLOP/s of a step", "GFLOP/s of torch.mm", "share"]]
    lines.append(["---", "---:", "---:", "---:"])
    for name, gflops, matmul in rows:
        lines.append([name, f"{gflops:.0f}", f"{matmul:.0f}", f"{gflops / matmul:.0%}"])
    conditions = (
        f"{cpu_model()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}; median of "
        f"{STEPS} steps after {WARMUP}; torch.mm in float32, measured before each row."
    )
    return f"{as_table(lines)}\n\n{conditions}\n"


def main() -> None:
    args = parse_args()
    params = load_params(TrainParams, args.params, section="train")
    recipe = load_params(RecipeParams, args.params, section="recipe")
    rows = []
    precision = pick_precision(recipe.precision, CPU)
    for change in tqdm(changes(params.batch_size, precision), unit="row"):
        matmul = matmul_gflops(CPU)
        rows.append((change.name, step_gflops(change, params, recipe), matmul))
    table = table_of(rows)
    write_text(args.table, table)
    print(table)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

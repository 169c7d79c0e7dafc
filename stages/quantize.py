"""Quantize an FP32 ONNX file to INT8 after training, and check it in every runtime.

The first layer's weights are rounded so that its outputs on the calibration images change least
(GPTQ): rounding each to the nearest integer cost more accuracy there than in all other layers. The
logits stay FP32, so that rounding does not tie two classes, and so do the layers that
quantize.exclude names. See inference/int8/quantizer.py.

quantize.aware_epochs fine-tunes the weights before, with INT8's rounding, and as a control for as
long without it. quantize.repair: greedy then leaves more layers in FP32, those first whose INT8
alone changes the logits most, until quantize.max_accuracy_drop is met; each such island costs time.

A runtime or engine is right where its logits are within quantize.logit_tolerance of what the file
says, or nearer to that than those of the FP32 model that it rounds. The others are left out from
here on: the JSON says which, under "wrong_here". Where the FP32 file holds the logits of a few
synthetic pictures, so does the INT8 file: see inference/runtimes/expected.py.

Reads   an FP32 ONNX file, the JSON of its check (which runtimes are right), the training images
        (calibration, fine-tuning), the validation images (check)
Writes  an INT8 ONNX file, a JSON of the accuracy that INT8 costs and the bytes that it saves
Params  data.*, quantize.*  (see DataParams, QuantizeParams), recipe.* where it fine-tunes
Raises  InputError for a layer that the network lacks, when no runtime is right, and when INT8
        loses more than quantize.max_accuracy_drop in one that is, repaired where wanted; the INT8
        file is then not written

A killed fine-tuning goes on from its last whole epoch, kept in the folder --resume.
"""

import argparse
import tempfile
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from onnx import ModelProto

from stages.common.core.accuracy import accuracy, points_text
from stages.common.core.cli import InputError, run
from stages.common.core.files import replacing, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.int8.quantizer import calibration_of, quantized
from stages.common.inference.int8.sensitivity import logits_of, sensitivities, worst_first
from stages.common.inference.onnx_graph import image_shape, load_model, read_metadata
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.agreement import (
    allowed_error,
    logit_error,
    print_wrong,
    right_logits,
)
from stages.common.inference.runtimes.expected import (
    EXPECTED,
    add_metadata,
    expected_metadata,
    sample_pictures,
)
from stages.common.inference.runtimes.onnx_files import WRONG, logits_by_runtime, read_wrong
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, installed_engines
from stages.common.qat.fine_tuning import fine_tuned_for_int8
from stages.common.training.checkpoints import EpochStore
from stages.common.training.context import RunContext, pick_device
from stages.common.training.params import RecipeParams


@dataclass(frozen=True)
class Source:
    """The FP32 model and its logits (N, classes), the file that keeps its activations' ranges once
    they are found, the images, and what the logits of the FP32 file are in the runtimes that are
    right.
    """

    model: ModelProto
    logits: np.ndarray
    ranges: Path
    calibration: Images
    validation: Images
    engines: list[str]
    fp32: dict[str, np.ndarray]


@dataclass(frozen=True)
class Attempt:
    """An INT8 file as ``params`` want it: its logits and its loss by runtime, and what is wrong."""

    params: QuantizeParams
    logits: dict[str, np.ndarray]
    losses: dict[str, dict]
    wrong: dict[str, str]

    @property
    def worst_drop(self) -> float:
        return max(loss["accuracy_drop"] for loss in self.losses.values())


def attempted(source: Source, params: QuantizeParams, path: Path) -> Attempt:
    """Write the INT8 file and check it."""
    model = quantized(source.model, source.calibration, params, source.ranges)
    path.write_bytes(model.SerializeToString(deterministic=True))
    logits, wrong = right_logits(
        path, source.validation, source.engines, params.logit_tolerance, source.logits
    )
    return Attempt(params, logits, losses(source.fp32, logits, source.validation.labels), wrong)


def repaired(source: Source, attempt: Attempt, path: Path) -> Attempt:
    """Exclude one layer after the other, the worst first, until max_accuracy_drop is met or one
    layer is left.
    """
    allowed = attempt.params.max_accuracy_drop
    if attempt.worst_drop <= allowed:
        return attempt
    found = sensitivities(source.model, source.calibration, source.validation, attempt.params)
    for layer in worst_first(found)[:-1]:
        params = replace(attempt.params, exclude=[*attempt.params.exclude, layer])
        before, attempt = attempt, attempted(source, params, path)
        images = len(source.validation)
        print(
            f"repair: {layer} stays FP32, which costs time (see benchmark); accuracy "
            f"{points_text(-before.worst_drop, images)} -> "
            f"{points_text(-attempt.worst_drop, images)}"
        )
        if attempt.worst_drop <= allowed:
            break
    return attempt


def answers(path: Path, model: ModelProto, tolerance: float) -> dict[str, str]:
    """The metadata "expected" of the INT8 file of an FP32 model."""
    pictures = sample_pictures(*image_shape(model, path)[1:])
    expected = logits_of(load_model(path), pictures)
    rounding = logit_error(expected, logits_of(model, pictures))
    return expected_metadata(expected, allowed_error(tolerance, rounding))


def metrics_of(attempt: Attempt, size: int, fp32_size: int) -> dict:
    """``excluded`` and ``wrong_here`` are there only where something is."""
    return {
        **attempt.losses,
        **({"excluded": attempt.params.exclude} if attempt.params.exclude else {}),
        **({WRONG: attempt.wrong} if attempt.wrong else {}),
        "runtime_agreement": least_agreement(attempt.logits),
        "calibration_images": attempt.params.calibration_images,
        "size_bytes": size,
        "size_ratio_to_fp32": round(size / fp32_size, 4),
    }


def losses(
    fp32: dict[str, np.ndarray], int8: dict[str, np.ndarray], labels: np.ndarray
) -> dict[str, dict]:
    """INT8's loss in each runtime; ``fp32`` and ``int8`` are logits (N, classes) by runtime.

    Where the FP32 file is wrong in a runtime, another runtime says what is right.
    """
    any_right = next(iter(fp32.values()))
    return {
        runtime: loss(fp32.get(runtime, any_right).argmax(1), logits.argmax(1), labels)
        for runtime, logits in int8.items()
    }


def loss(fp32: np.ndarray, int8: np.ndarray, labels: np.ndarray) -> dict:
    """Of predictions (N,): accuracies in percent, their difference in points, how many differ."""
    before, after = accuracy(fp32, labels), accuracy(int8, labels)
    return {
        "fp32_accuracy": round(before, 2),
        "int8_accuracy": round(after, 2),
        "accuracy_drop": round(before - after, 2),
        "flipped_predictions": int((fp32 != int8).sum()),
    }


def least_agreement(logits: dict[str, np.ndarray]) -> float:
    """Percent of equal predictions, of the two runtimes that agree least; 100 for one runtime."""
    pairs = combinations([each.argmax(axis=1) for each in logits.values()], 2)
    return round(min((accuracy(one, other) for one, other in pairs), default=100.0), 2)


def refuse_accuracy_drop(attempt: Attempt, allowed: float) -> None:
    for runtime, result in attempt.losses.items():
        if result["accuracy_drop"] > allowed:
            raise InputError(
                f"INT8 loses {result['accuracy_drop']:g} points of accuracy in {runtime}; allowed "
                f"by quantize.max_accuracy_drop: {allowed:g}; try quantize.reduce_range: true, "
                "another quantize.calibration_method, more quantize.calibration_images or "
                "quantize.repair: greedy"
            )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--resume", type=Path, required=True, help="folder of unfinished work")
    parser.add_argument("--onnx", type=Path, required=True, help="FP32 model to quantize")
    parser.add_argument("--check", type=Path, help="JSON of the stage that wrote the FP32 model")
    parser.add_argument("--int8", type=Path, required=True, help="INT8 model to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(QuantizeParams, args.params, section="quantize")
    training, validation = load_training_images(
        args.data, load_params(DataParams, args.params, section="data")
    )
    calibration = calibration_of(training, params)
    engines = installed_engines(NAMED_ENGINES)
    wrong = read_wrong(args.check)
    logits, _ = logits_by_runtime(args.onnx, validation, engines)
    fp32 = {name: each for name, each in logits.items() if name not in wrong}
    if not fp32:
        raise InputError(f"{args.onnx}: no runtime is right here; run 'dvc repro export'")
    store = EpochStore(args.resume)
    aware = {}
    with tempfile.TemporaryDirectory() as folder, replacing(args.int8) as temporary:
        ranges = Path(folder) / "ranges.json"
        model, any_right = load_model(args.onnx), next(iter(fp32.values()))
        source = Source(model, any_right, ranges, calibration, validation, engines, fp32)
        if params.aware_epochs:
            recipe = load_params(RecipeParams, args.params, section="recipe")
            device = pick_device(params.aware_device)
            context = RunContext(training, validation, recipe, device, store)
            tuned = fine_tuned_for_int8(source.model, calibration, params, ranges, context)
            aware = {"aware": tuned.metrics}
            source = replace(source, model=tuned.model, logits=logits_of(tuned.model, validation))
        attempt = attempted(source, params, temporary)
        if params.repair == "greedy":
            attempt = repaired(source, attempt, temporary)
        refuse_accuracy_drop(attempt, params.max_accuracy_drop)
        if EXPECTED in read_metadata(source.model):
            add_metadata(temporary, answers(temporary, source.model, params.logit_tolerance))
    print_wrong(attempt.wrong)
    metrics = metrics_of(attempt, size=args.int8.stat().st_size, fp32_size=args.onnx.stat().st_size)
    write_json(args.metrics, metrics | aware)
    store.clear()
    print(
        f"{args.int8}: {metrics['size_bytes']:,} bytes, {metrics['size_ratio_to_fp32']:.1%} of "
        f"FP32; accuracy {points_text(-attempt.worst_drop, len(validation))}"
    )


if __name__ == "__main__":
    run(main)

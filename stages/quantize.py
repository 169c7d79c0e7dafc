"""Quantize an FP32 ONNX file to INT8 after training, and check it in every runtime.

The first layer's weights are rounded so that its outputs on the calibration images change least
(GPTQ): rounding each to the nearest integer cost more accuracy there than in all other layers. The
logits stay FP32, so that rounding does not tie two classes, and so do the layers that
quantize.exclude names. See inference/quantizer.py.

A runtime or engine is right where its logits are within quantize.logit_tolerance of what the file
says. The others are left out from here on: the JSON says which, under "wrong_here".

Reads   an FP32 ONNX file, the JSON of its check (which runtimes are right), the training images
        (calibration), the validation images (check)
Writes  an INT8 ONNX file, a JSON of the accuracy that INT8 costs and the bytes that it saves
Params  data.*, quantize.*  (see DataParams, QuantizeParams)
Raises  InputError for a layer that the network lacks, when no runtime is right, and when INT8
        loses more than quantize.max_accuracy_drop in one that is; the INT8 file is then not written
"""

import argparse
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import InputError, run
from stages.common.core.files import replacing, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import DataParams, Images, first_images, load_training_images
from stages.common.inference.onnx_graph import load_model
from stages.common.inference.params import QuantizeParams
from stages.common.inference.quantizer import quantized
from stages.common.inference.runtimes.agreement import logit_error, require_one_right
from stages.common.inference.runtimes.onnx_files import WRONG, logits_by_runtime, read_wrong
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, installed_engines
from stages.common.inference.sessions import BATCH_SIZE, predict


def wrong_runtimes(
    logits: dict[str, np.ndarray], expected: np.ndarray, tolerance: float
) -> dict[str, str]:
    """The runtimes whose logits are further than the tolerance (percent) from the expected ones,
    each with its error in words.
    """
    errors = {name: logit_error(found, expected) for name, found in logits.items()}
    return {
        name: f"computes logits that are {error:.2g} % off"
        for name, error in errors.items()
        if not error <= tolerance  # also when it is no number
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


def right_logits(
    path: Path, images: Images, engines: list[str], tolerance: float
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Logits (N, classes) of an INT8 file in the runtimes that are right; what is wrong elsewhere.

    Right is what the file says, one operator after the other, give or take the rounding that a
    runtime's fused operators do otherwise. Raises ``InputError`` when no runtime is.
    """
    expected = predict(OnnxRuntimeSession(path, cv2.getNumberOfCPUs(), False), images, BATCH_SIZE)
    logits, refused = logits_by_runtime(path, images, engines)
    wrong = {**refused, **wrong_runtimes(logits, expected, tolerance)}
    require_one_right(
        [*logits, *refused],
        wrong,
        f"allowed by quantize.logit_tolerance: {tolerance:g} %; try quantize.reduce_range: true",
    )
    return {name: each for name, each in logits.items() if name not in wrong}, wrong


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


def refuse_accuracy_drop(results: dict[str, dict], allowed: float) -> None:
    for runtime, result in results.items():
        if result["accuracy_drop"] > allowed:
            raise InputError(
                f"INT8 loses {result['accuracy_drop']:g} points of accuracy in {runtime}; allowed "
                f"by quantize.max_accuracy_drop: {allowed:g}; try quantize.reduce_range: true, "
                "another quantize.calibration_method or more quantize.calibration_images"
            )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
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
    calibration = first_images(
        training, params.calibration_images, "quantize.calibration_images", "data.train_images"
    )
    model = quantized(load_model(args.onnx), calibration, params)
    engines = installed_engines(NAMED_ENGINES)
    before, _ = logits_by_runtime(args.onnx, validation, engines)
    for name in read_wrong(args.check):
        before.pop(name, None)
    with replacing(args.int8) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        after, wrong = right_logits(temporary, validation, engines, params.logit_tolerance)
        results = losses(before, after, validation.labels)
        refuse_accuracy_drop(results, params.max_accuracy_drop)
    size, fp32_size = args.int8.stat().st_size, args.onnx.stat().st_size
    metrics = {
        **results,
        **({WRONG: wrong} if wrong else {}),
        "runtime_agreement": least_agreement(after),
        "calibration_images": len(calibration),
        "size_bytes": size,
        "size_ratio_to_fp32": round(size / fp32_size, 4),
    }
    write_json(args.metrics, metrics)
    worst = max(result["accuracy_drop"] for result in results.values())
    print(
        f"{args.int8}: {size:,} bytes, {size / fp32_size:.1%} of FP32; accuracy {-worst:+g} points"
    )


if __name__ == "__main__":
    run(main)

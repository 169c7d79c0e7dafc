"""Quantize an FP32 ONNX file to INT8 after training, and check it in every runtime.

The first layer's weights are rounded so that its outputs on the calibration images change least
(GPTQ): rounding each to the nearest integer cost more accuracy there than in all other layers. The
logits stay FP32, so that rounding does not tie two classes, and so do the layers that
quantize.exclude names. See inference/quantizer.py.

Reads   an FP32 ONNX file, the training images (calibration), the validation images (check)
Writes  an INT8 ONNX file, a JSON of the accuracy that INT8 costs and the bytes that it saves
Params  data.*, quantize.*  (see DataParams, QuantizeParams)
Raises  InputError for a layer that the network lacks, and when INT8 loses more than
        quantize.max_accuracy_drop in a runtime; the INT8 file is then not written
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import InputError, run
from stages.common.core.files import replacing, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import DataParams, Images, first_images, load_training_images
from stages.common.inference.onnx_graph import load_model
from stages.common.inference.params import QuantizeParams
from stages.common.inference.quantizer import quantized
from stages.common.inference.runtimes.onnx_files import logits_by_runtime
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, installed_engines


def predictions_by_runtime(path: Path, images: Images, engines: list[str]) -> dict[str, np.ndarray]:
    """(N,) class indices from every runtime, OpenCV DNN in each of the engines."""
    logits = logits_by_runtime(path, images, engines)
    return {runtime: each.argmax(axis=1) for runtime, each in logits.items()}


def losses(
    fp32: dict[str, np.ndarray], int8: dict[str, np.ndarray], labels: np.ndarray
) -> dict[str, dict]:
    """INT8's loss in each runtime; ``fp32`` and ``int8`` are predictions (N,) by runtime."""
    return {runtime: loss(fp32[runtime], int8[runtime], labels) for runtime in fp32}


def loss(fp32: np.ndarray, int8: np.ndarray, labels: np.ndarray) -> dict:
    """Accuracies in percent, their difference in points, and how many predictions differ."""
    before, after = accuracy(fp32, labels), accuracy(int8, labels)
    return {
        "fp32_accuracy": round(before, 2),
        "int8_accuracy": round(after, 2),
        "accuracy_drop": round(before - after, 2),
        "flipped_predictions": int((fp32 != int8).sum()),
    }


def least_agreement(predictions: dict[str, np.ndarray]) -> float:
    """Percent of equal predictions, of the two runtimes that agree least."""
    pairs = combinations(predictions.values(), 2)
    return round(min(accuracy(one, other) for one, other in pairs), 2)


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
    before = predictions_by_runtime(args.onnx, validation, engines)
    with replacing(args.int8) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        after = predictions_by_runtime(temporary, validation, engines)
        results = losses(before, after, validation.labels)
        refuse_accuracy_drop(results, params.max_accuracy_drop)
    size, fp32_size = args.int8.stat().st_size, args.onnx.stat().st_size
    metrics = {
        **results,
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

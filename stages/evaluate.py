"""Measure a model's accuracy on the test images in OpenCV DNN, and count its size and MACs.

Nothing is chosen by the test images, which only evaluations read. The JSON has the same keys for
every model, FP32 or INT8: which ones, the test images decide (see
common/core/accuracy_metrics.py).

Where evaluate.engine is wrong for the file, another engine or ONNX Runtime takes its place, and the
JSON names it under "evaluated_in".

Reads   an ONNX file, the JSON of its check (which runtimes are right), the test images
Writes  a JSON of accuracy and cost, a CSV of actual and predicted class names in test order
Params  evaluate.*  (see EvaluateParams)
Raises  InputError when evaluate.engine is not installed, when the engine refuses the model, or
        when no runtime is right
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from stages.common.core.accuracy import percent_text
from stages.common.core.accuracy_metrics import accuracy_metrics, class_metrics
from stages.common.core.cli import run
from stages.common.core.files import write_csv, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_test_images
from stages.common.inference.onnx_graph import cost_of, load_model
from stages.common.inference.params import EvaluateParams
from stages.common.inference.runtimes.onnx_files import open_right, read_wrong, runtime_name
from stages.common.inference.sessions import predict


def prediction_metrics(predictions: np.ndarray, images: Images) -> dict:
    """Accuracy in percent, over all images and over those of each class."""
    return {
        **accuracy_metrics(predictions, images.labels, len(images.classes)),
        **class_metrics(predictions, images.labels, images.classes),
        "images": len(images),
    }


def cost_metrics(path: Path) -> dict:
    """Bytes on disk, and the counts of ``Cost``."""
    cost = cost_of(load_model(path))
    return {"size_bytes": path.stat().st_size, **dataclasses.asdict(cost)}


def confusion_rows(predictions: np.ndarray, images: Images) -> list[dict]:
    names = images.classes
    return [
        {"actual": names[label], "predicted": names[prediction]}
        for label, prediction in zip(images.labels, predictions, strict=True)
    ]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--onnx", type=Path, required=True, help="model to evaluate")
    parser.add_argument("--check", type=Path, help="JSON of the stage that wrote the model")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--predictions", type=Path, required=True, help="CSV to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(EvaluateParams, args.params, section="evaluate")
    runtime, session = open_right(args.onnx, params.engine, read_wrong(args.check))
    images = load_test_images(args.data)
    predictions = predict(session, images, params.batch_size).argmax(axis=1)
    metrics = {**prediction_metrics(predictions, images), **cost_metrics(args.onnx)}
    if runtime != runtime_name("opencv", params.engine):
        print(f"OpenCV's engine '{params.engine}' is wrong here: evaluated in {runtime}")
        metrics["evaluated_in"] = runtime
    rows = confusion_rows(predictions, images)
    write_csv(args.predictions, rows, header=["actual", "predicted"])
    write_json(args.metrics, metrics)
    found = percent_text(metrics["accuracy"], len(images))
    print(f"{args.onnx}: {found} of {len(images)} test images right")


if __name__ == "__main__":
    run(main)

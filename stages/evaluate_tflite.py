"""Measure a TFLite file's accuracy on the test images, and its agreement with the other runtimes.

All images run through LiteRT with the kernels of phones and PCs (XNNPACK). Nothing is chosen by
the result.

Reads   a TFLite file, the INT8 ONNX file that it was made from, that file's predictions in OpenCV
        DNN (CSV of ``evaluate``), the test images
Writes  a JSON of accuracy, agreement (same prediction, percent) and bytes; "unsupported" and why
        where the network has no TFLite file
Params  none
Raises  InputError when the predictions are of other images
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.accuracy import accuracy, decimals_of, percent_text
from stages.common.core.accuracy_metrics import accuracy_metrics
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json
from stages.common.data.dataset import Images, load_test_images
from stages.common.inference.runtimes.litert import LiteRTSession
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import BATCH_SIZE, predict
from stages.common.inference.tflite.file import UNSUPPORTED, why_none


def opencv_predictions(path: Path, images: Images) -> np.ndarray:
    """(N,) class indices, of these images."""
    names = images.classes
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro evaluate'") from None
    if [row.get("actual") for row in rows] != [names[label] for label in images.labels]:
        raise InputError(f"{path} is of other images; run 'dvc repro evaluate'")
    return np.array([names.index(row["predicted"]) for row in rows])


def metrics_of(
    litert: np.ndarray, onnxruntime: np.ndarray, opencv: np.ndarray, images: Images
) -> dict:
    """``litert`` and ``onnxruntime`` are logits (N, classes), ``opencv`` predictions (N,).

    ``tied_predictions``: images whose two largest logits are the same int8; the first one counts.
    """
    predictions = litert.argmax(axis=1)
    highest = litert.max(axis=1, keepdims=True)
    decimals = decimals_of(len(images))
    return {
        **accuracy_metrics(predictions, images.labels, len(images.classes)),
        "agreement_opencv": round(accuracy(predictions, opencv), decimals),
        "agreement_onnxruntime": round(accuracy(predictions, onnxruntime.argmax(axis=1)), decimals),
        "tied_predictions": int(((litert == highest).sum(axis=1) > 1).sum()),
        "images": len(images),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--tflite", type=Path, required=True, help="model to evaluate")
    parser.add_argument("--onnx", type=Path, required=True, help="INT8 model it was made from")
    parser.add_argument("--predictions", type=Path, required=True, help="CSV of OpenCV DNN's")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if reason := why_none(args.tflite):
        write_json(args.metrics, {UNSUPPORTED: reason})
        print(f"{args.tflite}: not there: {reason}")
        return
    images = load_test_images(args.data)
    opencv = opencv_predictions(args.predictions, images)
    threads = cv2.getNumberOfCPUs()
    session = LiteRTSession(args.tflite, threads=threads, kernels="xnnpack")
    litert = predict(session, images, BATCH_SIZE)
    onnxruntime = predict(OnnxRuntimeSession(args.onnx, threads=threads), images, BATCH_SIZE)
    metrics = metrics_of(litert, onnxruntime, opencv, images)
    write_json(args.metrics, {**metrics, "size_bytes": args.tflite.stat().st_size})
    print(
        f"{args.tflite}: {percent_text(metrics['accuracy'], len(images))} of {len(images)} test "
        "images right in LiteRT, "
        f"{percent_text(metrics['agreement_opencv'], len(images))} predicted as in OpenCV DNN"
    )


if __name__ == "__main__":
    run(main)

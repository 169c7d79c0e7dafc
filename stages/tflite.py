"""Write an INT8 network as a TFLite file of integers from input to output, and check it.

The file is for microcontrollers, Coral-class devices and NPU compilers, which take no FP32: its
input is int8 (NHWC) and so are its logits, whose range comes from training images. The weights and
all other scales are those of the ONNX file. LiteRT has two kinds of kernels: XNNPACK's, for phones
and PCs, and fixed-point ones, which compute as microcontrollers do. Both are checked.

A network has no TFLite file where an operator cannot be converted or a layer is FP32
(quantize.exclude): the JSON says so under "unsupported", the file holds that reason in place of a
model, and the other stages go on without it. Kernels that agree with ONNX Runtime on fewer
predictions than tflite.min_agreement are named under "wrong_here".

Reads   an INT8 ONNX file, the training images (range of the logits), the validation images (check)
Writes  a TFLite file, a JSON of LiteRT's accuracy and its agreement with ONNX Runtime
Params  data.*, tflite.*  (see DataParams, TFLiteParams)
Raises  InputError when no kind of kernels agrees as tflite.min_agreement wants; the TFLite file is
        then not written
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import run
from stages.common.core.files import replacing, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, first_images, load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.layer_graph.graph import (
    Graph,
    UnsupportedNetwork,
    quantization_between,
    require_int8,
    with_output,
)
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.params import TFLiteParams
from stages.common.inference.runtimes.agreement import require_one_right
from stages.common.inference.runtimes.litert import KERNELS, LiteRTSession
from stages.common.inference.runtimes.onnx_files import WRONG
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import BATCH_SIZE, predict
from stages.common.inference.tflite.file import UNSUPPORTED, write_none
from stages.common.inference.tflite.writer import tflite_bytes


def int8_graph(path: Path) -> Graph:
    """Raises ``UnsupportedNetwork``, see above."""
    graph = read_graph(path)
    require_int8(graph, path)
    return graph


def compare_kernels(path: Path, images: Images, expected: np.ndarray) -> dict[str, dict]:
    """LiteRT's accuracy and agreement with the ``expected`` logits, by kind of kernels.

    ``expected``: (N, classes) float32. Accuracy and agreement (same prediction) are in percent.
    """
    results = {}
    for kernels in KERNELS:
        session = LiteRTSession(path, threads=cv2.getNumberOfCPUs(), kernels=kernels)
        found = predict(session, images, BATCH_SIZE)
        predictions = found.argmax(axis=1)
        results[kernels] = {
            "accuracy": round(accuracy(predictions, images.labels), 2),
            "agreement": round(accuracy(predictions, expected.argmax(axis=1)), 2),
            "max_logit_difference": round(float(np.abs(found - expected).max()), 4),
        }
    return results


def wrong_kernels(results: dict[str, dict], least: float) -> dict[str, str]:
    """The kernels that agree on fewer predictions than ``least`` percent, each with that in words.

    Raises ``InputError`` when all do.
    """
    wrong = {
        kernels: f"agrees with ONNX Runtime on {result['agreement']:g} % of the predictions, and "
        f"{result['accuracy']:g} % of them are right"
        for kernels, result in results.items()
        if result["agreement"] < least
    }
    require_one_right(
        results,
        wrong,
        f"required by tflite.min_agreement: {least:g}; lower it if the accuracies are near, or "
        "raise tflite.calibration_images",
    )
    return wrong


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--onnx", type=Path, required=True, help="INT8 model to convert")
    parser.add_argument("--tflite", type=Path, required=True, help="TFLite model to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(TFLiteParams, args.params, section="tflite")
    data_params = load_params(DataParams, args.params, section="data")
    try:
        graph = int8_graph(args.onnx)
    except UnsupportedNetwork as error:
        write_none(args.tflite, error.reason)
        write_json(args.metrics, {UNSUPPORTED: error.reason})
        print(f"{args.tflite}: none, and the other stages go on without it: {error.reason}")
        return
    training, validation = load_training_images(args.data, data_params)
    calibration = first_images(
        training, params.calibration_images, "tflite.calibration_images", "data.train_images"
    )
    checked = first_images(
        validation, params.check_images, "tflite.check_images", "data.validation_images"
    )
    session = OnnxRuntimeSession(args.onnx, threads=cv2.getNumberOfCPUs())
    logits = predict(session, calibration, BATCH_SIZE)
    output = graph.layers[-1].output or quantization_between(
        float(logits.min()), float(logits.max())
    )
    expected = predict(session, checked, BATCH_SIZE)
    with replacing(args.tflite) as temporary:
        temporary.write_bytes(tflite_bytes(with_output(graph, output)))
        results = compare_kernels(temporary, checked, expected)
        wrong = wrong_kernels(results, params.min_agreement)
    size = args.tflite.stat().st_size
    metrics = {
        "onnxruntime_accuracy": round(accuracy(expected.argmax(axis=1), checked.labels), 2),
        **results,
        **({WRONG: wrong} if wrong else {}),
        "logit_step": round(float(output.scale[0]), 6),
        "images": len(checked),
        "size_bytes": size,
    }
    write_json(args.metrics, metrics)
    for kernels, reason in wrong.items():
        print(f"LiteRT with {kernels} kernels {reason} (tflite.min_agreement)")
    least = min(result["agreement"] for result in results.values())
    print(
        f"{args.tflite}: {size:,} bytes; LiteRT agrees with ONNX Runtime on {least:.1f} % or more"
    )


if __name__ == "__main__":
    run(main)

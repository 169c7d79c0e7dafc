"""Quantize an FP32 ONNX file to INT8 after training, and check it in both runtimes.

Weights become INT8, symmetric, one scale for each output channel; activations become 8 bits with
one scale for each tensor, from their ranges over training images. The first layer's weights are
rounded so that its outputs on those images change least (inference/gptq.py): rounding each to the
nearest integer cost more accuracy there than in all other layers. The file is a QDQ graph: each
operator stands between DequantizeLinear and QuantizeLinear, and a runtime fuses them. The logits
stay FP32, so that two classes do not tie by rounding.

Reads   an FP32 ONNX file, the training images (calibration), the validation images (check)
Writes  an INT8 ONNX file, a JSON of what INT8 costs in accuracy and saves in bytes
Params  data.*, quantize.*  (see DataParams, QuantizeParams)
Raises  InputError when INT8 loses more than quantize.max_accuracy_drop in a runtime; the INT8 file
        is then not written
"""

import argparse
import contextlib
import dataclasses
import io
import json
import tempfile
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import (
    ONNX_INT_TYPE_REDUCED_RANGE,
    ONNX_INT_TYPE_SYMMETRIC_RANGE,
    add_pre_process_metadata,
)

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import InputError, run
from stages.common.core.files import replacing, write_json
from stages.common.core.params import load_params
from stages.common.data.cifar10 import DataParams, Images, load_training_images
from stages.common.inference.gptq import patches_of, round_filters
from stages.common.inference.onnx_graph import load_model, read_metadata, strip
from stages.common.inference.params import QuantizeParams
from stages.common.inference.sessions import (
    BATCH_SIZE,
    OnnxRuntimeSession,
    OpenCVSession,
    predict,
    to_blob,
)

RUNTIMES = ("onnxruntime", "opencv_classic", "opencv_new")
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# The largest integer of a weight, with 8 bits and with 7, as onnxruntime.quantization has them.
LEVELS, REDUCED_LEVELS = (
    ranges[QuantType.QInt8.tensor_type][1].item()
    for ranges in (ONNX_INT_TYPE_SYMMETRIC_RANGE, ONNX_INT_TYPE_REDUCED_RANGE)
)
ACTIVATION_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


class CalibrationReader(CalibrationDataReader):
    """Hands images to the quantizer one at a time: its histograms take batches of one size only."""

    def __init__(self, images: Images, input_name: str):
        self._images = ({input_name: to_blob(image[None])} for image in images.pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._images, None)


def calibration_images(training: Images, count: int) -> Images:
    """The first ``count`` training images, in official order: it mixes the classes."""
    if count > len(training):
        raise InputError(
            f"quantize.calibration_images is {count}; allowed: at most {len(training)}, which is "
            "data.train_images"
        )
    return training[:count]


def quantized(model: ModelProto, images: Images, params: QuantizeParams) -> ModelProto:
    """The INT8 model; equal inputs give equal bytes."""
    prepared = ModelProto()
    prepared.CopyFrom(model)
    round_first_layer(prepared, images, REDUCED_LEVELS if params.reduce_range else LEVELS)
    add_pre_process_metadata(prepared)  # BatchNorm is folded already: nothing to pre-process
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            prepared,
            Path(folder) / "int8.onnx",
            CalibrationReader(images, model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=params.reduce_range,
            activation_type=ACTIVATION_TYPES[params.activation_type],
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[params.calibration_method],
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        result = onnx.load(Path(folder) / "int8.onnx")
    strip(result)
    shorten_names(result)
    how = json.dumps(dataclasses.asdict(params), sort_keys=True)
    onnx.helper.set_model_props(result, {**read_metadata(model), "quantize": how})
    onnx.checker.check_model(result, full_check=True)
    return result


def round_first_layer(model: ModelProto, images: Images, levels: int) -> None:
    """Put the first convolution's weights on their INT8 grid, in place."""
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    pads = next((list(each.ints) for each in first.attribute if each.name == "pads"), [])
    assert first.input[0] == model.graph.input[0].name, "it reads the pixels"
    assert not any(pads), "every patch lies within the image"
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    filters, bias = (numpy_helper.to_array(constants[name]) for name in first.input[1:])
    patches = patches_of(images.pixels, filters.shape[2:])
    for name, value in zip(
        first.input[1:], round_filters(filters, bias, patches, levels), strict=True
    ):
        constants[name].CopyFrom(numpy_helper.from_array(value, name))


def shorten_names(model: ModelProto) -> None:
    """Number the tensors and drop the nodes' names, in place: they are 8 KB that nobody reads."""
    graph = model.graph
    names = {value.name: value.name for value in [*graph.input, *graph.output]} | {"": ""}
    for node in graph.node:
        node.ClearField("name")
        node.input[:] = [names.setdefault(name, f"{len(names):x}") for name in node.input]
        node.output[:] = [names.setdefault(name, f"{len(names):x}") for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]


def logits_by_runtime(path: Path, images: Images) -> dict[str, np.ndarray]:
    """(N, classes) float32 from each runtime, and from each engine of OpenCV."""
    threads = cv2.getNumberOfCPUs()
    sessions = {
        "onnxruntime": OnnxRuntimeSession(path, threads=threads),
        "opencv_classic": OpenCVSession(path, engine="classic", threads=threads),
        "opencv_new": OpenCVSession(path, engine="new", threads=threads),
    }
    return {name: predict(session, images, BATCH_SIZE) for name, session in sessions.items()}


def compare_precisions(fp32: Path, int8: Path, images: Images) -> dict:
    """For each runtime what INT8 loses, and how far the two that differ most agree on INT8."""
    before = {name: logits.argmax(1) for name, logits in logits_by_runtime(fp32, images).items()}
    after = {name: logits.argmax(1) for name, logits in logits_by_runtime(int8, images).items()}
    losses = {name: loss(before[name], after[name], images.labels) for name in before}
    agreement = min(accuracy(one, other) for one, other in combinations(after.values(), 2))
    return {**losses, "runtime_agreement": round(agreement, 2)}


def loss(fp32: np.ndarray, int8: np.ndarray, labels: np.ndarray) -> dict:
    """Accuracies in percent, their difference in points, and how many predictions differ."""
    before, after = accuracy(fp32, labels), accuracy(int8, labels)
    return {
        "fp32_accuracy": round(before, 2),
        "int8_accuracy": round(after, 2),
        "accuracy_drop": round(before - after, 2),
        "flipped_predictions": int((fp32 != int8).sum()),
    }


def refuse_accuracy_drop(results: dict, allowed: float) -> None:
    for name in RUNTIMES:
        drop = results[name]["accuracy_drop"]
        if drop > allowed:
            raise InputError(
                f"INT8 loses {drop:g} points of accuracy in {name}; allowed by "
                f"quantize.max_accuracy_drop: {allowed:g}; try quantize.reduce_range: true, "
                "another quantize.calibration_method or more quantize.calibration_images"
            )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--onnx", type=Path, required=True, help="FP32 model to quantize")
    parser.add_argument("--int8", type=Path, required=True, help="INT8 model to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(QuantizeParams, args.params, section="quantize")
    data_params = load_params(DataParams, args.params, section="data")
    fp32 = load_model(args.onnx)
    training, validation = load_training_images(args.data, data_params)
    images = calibration_images(training, params.calibration_images)
    int8 = quantized(fp32, images, params)
    with replacing(args.int8) as temporary:
        temporary.write_bytes(int8.SerializeToString(deterministic=True))
        results = compare_precisions(args.onnx, temporary, validation)
        refuse_accuracy_drop(results, params.max_accuracy_drop)
    size = args.int8.stat().st_size
    ratio = size / args.onnx.stat().st_size
    sizes = {"size_bytes": size, "size_ratio_to_fp32": round(ratio, 4)}
    write_json(args.metrics, {**results, "calibration_images": len(images), **sizes})
    worst = max(results[name]["accuracy_drop"] for name in RUNTIMES)
    print(f"{args.int8}: {size:,} bytes, {ratio:.1%} of FP32; accuracy {-worst:+g} points")


if __name__ == "__main__":
    run(main)

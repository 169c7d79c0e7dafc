"""INT8 from an FP32 ONNX file after training, through onnxruntime.quantization.

Weights become INT8, symmetric, one scale for each output channel; activations become 8 bits with
one scale for each tensor, from their ranges over calibration images. The file is a QDQ graph: each
operator stands between DequantizeLinear and QuantizeLinear, and a runtime fuses them. With
quantize.symmetric it is what TensorRT takes (see tensorrt.py).
"""

import contextlib
import dataclasses
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto
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

from stages.common.core.cli import InputError
from stages.common.data.dataset import Images, first_images
from stages.common.inference.int8.first_layer import (
    centred,
    exact_differences,
    first_layer,
    round_first_layer,
)
from stages.common.inference.int8.layers import Layer, find_layers, layers_of, named
from stages.common.inference.int8.tensorrt import (
    refuse_what_tensorrt_refuses,
    tensorrt_options,
)
from stages.common.inference.onnx_graph import read_metadata, strip
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.expected import EXPECTED
from stages.common.inference.sessions import to_blob

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
ACTIVATION_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
LOWEST = {"uint8": 0, "int8": -128}  # of their integers
# OpenCV 5.0.0's new engine refuses their quantized scales.
STAY_FP32 = ("BatchNormalization", "InstanceNormalization", "LayerNormalization")
WITHOUT_WEIGHTS = ("AveragePool", "Flatten", "GlobalAveragePool", "Reshape", "Squeeze")
# The largest integer of a weight, with 8 bits and with 7, as onnxruntime.quantization has them.
LEVELS, REDUCED_LEVELS = (
    ranges[QuantType.QInt8.tensor_type][1].item()
    for ranges in (ONNX_INT_TYPE_SYMMETRIC_RANGE, ONNX_INT_TYPE_REDUCED_RANGE)
)


class CalibrationReader(CalibrationDataReader):
    """Hands images to the quantizer one at a time: its histograms take batches of one size only."""

    def __init__(self, images: Images, input_name: str):
        self._images = ({input_name: to_blob(image[None])} for image in images.pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._images, None)


def calibration_of(training: Images, params: QuantizeParams) -> Images:
    """The training images that set the activations' ranges; raises ``InputError`` for too few."""
    return first_images(
        training, params.calibration_images, "quantize.calibration_images", "data.train_images"
    )


def quantized(
    model: ModelProto, images: Images, params: QuantizeParams, ranges: Path | None = None
) -> ModelProto:
    """The INT8 model; equal inputs give equal bytes. The logits stay FP32, and so do the layers
    that ``params.exclude`` names. ``ranges``: see ``with_int8_layers``.

    Raises ``InputError`` for a name that no layer has, when no layer is left, and for a symmetric
    model that TensorRT would refuse.
    """
    ready = prepared(model, params)
    chosen = chosen_layers(ready, params)
    result = with_int8_layers(ready, images, params, chosen, ranges)
    if params.symmetric:
        refuse_what_tensorrt_refuses(result)
    strip(result)
    shorten_names(result)
    metadata = {**read_metadata(model), "quantize": json.dumps(recorded(params), sort_keys=True)}
    metadata.pop(EXPECTED, None)  # the FP32 file's answers
    onnx.helper.set_model_props(result, metadata)
    onnx.checker.check_model(result, full_check=True)
    return result


def prepared(model: ModelProto, params: QuantizeParams) -> ModelProto:
    """A copy that computes the same and whose nodes have names; where activations are to be
    symmetric, its first layer reads the pixels around 0.
    """
    return centred(named(model)) if params.symmetric else named(model)


def chosen_layers(model: ModelProto, params: QuantizeParams) -> list[Layer]:
    """Those that become INT8; raises as ``quantized`` does."""
    layers = layers_of(model)
    excluded = find_layers(layers, params.exclude, "quantize.exclude")
    chosen = [layer for layer in layers if layer not in excluded]
    if not chosen:
        raise InputError("quantize.exclude names every layer: there is nothing to quantize")
    return chosen


def with_int8_layers(
    model: ModelProto,
    images: Images,
    params: QuantizeParams,
    chosen: list[Layer],
    ranges: Path | None = None,
) -> ModelProto:
    """A copy of a model, whose nodes have names, in which the chosen layers are INT8.

    ``ranges``: a file that keeps the activations' ranges from one call to the next.
    """
    source = ModelProto()
    source.CopyFrom(model)
    first = first_layer(source)
    if first is not None and any(first.node.name in layer.nodes for layer in chosen):
        round_first_layer(first, source, images, largest_integer(params))
    add_pre_process_metadata(source)  # BatchNorm is folded already: nothing to pre-process
    left_out = {node for layer in layers_of(model) if layer not in chosen for node in layer.nodes}
    left_out |= {node.name for node in model.graph.node if node.op_type in STAY_FP32}
    options = {
        "OpTypesToExcludeOutputQuantization": ["Gemm"],
        "TensorQuantOverrides": exact_differences(
            first, LOWEST[params.activations], around_zero=params.symmetric
        ),
        **(tensorrt_options(source) if params.symmetric else {}),
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        quantize_static(
            source,
            Path(folder) / "int8.onnx",
            CalibrationReader(images, model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=params.reduce_range,
            activation_type=ACTIVATION_TYPES[params.activations],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(left_out),
            calibrate_method=METHODS[params.calibration_method],
            extra_options=options,
            calibration_cache_path=ranges,
        )
        result = onnx.load(Path(folder) / "int8.onnx")
    with_fp32_logits(result)
    return result


def largest_integer(params: QuantizeParams) -> int:
    """Of a weight."""
    return REDUCED_LEVELS if params.reduce_range else LEVELS


def recorded(params: QuantizeParams) -> dict:
    """The params that a file states: no check, and no exclusion or fine-tuning where there is
    none.
    """
    values = {**dataclasses.asdict(params), "activation_type": params.activations}
    if not params.symmetric:
        del values["symmetric"]
    if not params.aware_epochs:
        values = {key: value for key, value in values.items() if not key.startswith("aware_")}
    del values["logit_tolerance"], values["repair"]
    if not params.exclude:
        del values["exclude"]
    return values


def with_fp32_logits(model: ModelProto) -> None:
    """Take the 8-bit steps off the logits, in place, back to the operator that makes them: through
    pooling and changes of shape only, which need no integers.
    """
    graph = model.graph
    name = graph.output[0].name
    while True:
        maker = maker_of(name, model)
        if maker.op_type == "DequantizeLinear":
            maker = unquantize(maker, model)
        if maker.op_type not in WITHOUT_WEIGHTS:
            break
        name = maker.input[0]
    read = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def unquantize(dequantize: NodeProto, model: ModelProto) -> NodeProto:
    """Remove it and the QuantizeLinear in front of it; returns what made the values, which go by
    the name of the dequantized ones now.
    """
    quantize = maker_of(dequantize.input[0], model)
    old, new = quantize.input[0], dequantize.output[0]
    for node in (dequantize, quantize):
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    return maker_of(new, model)


def maker_of(name: str, model: ModelProto) -> NodeProto:
    [maker] = [node for node in model.graph.node if name in node.output]
    return maker


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

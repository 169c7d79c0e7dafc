"""A fixed-point network as a C++ project of hls4ml for Vitis HLS, and its simulation with g++.

hls4ml imports ONNX that QONNX has cleaned and converted to channels last. The weights are multiples
of the formats' steps already, so nothing is rounded on the way. Every convolution rounds its full
sum to a signed format with one bit more than its ReLU's output and the same step: the streams
between the two are narrow, and no value changes.
"""

import contextlib
import ctypes
import io
import multiprocessing
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node

from stages.common.core.cli import InputError
from stages.hardware.external.requirements import require_packages, require_programs
from stages.hardware.hls_design.fixed_point import FixedChain, FixedLayer, FixedPoint

NAME = "network"  # of the project and of its C++ function
PIXELS = "ap_ufixed<8,8>"
OPSET = 18
# The arithmetic header for g++ says ``volatile``, which keeps numbers out of registers while bits
# are cleared. Without that word the simulation was 3 to 9 times as fast.
ARITHMETIC = Path("firmware/ap_types/etc/ap_private.h")
SLOW, FAST = "clearUnusedBits(void) volatile", "clearUnusedBits(void)"


@dataclass(frozen=True)
class Target:
    """The FPGA's part number, its clock period, and how often a multiplier is used a position."""

    part: str
    clock_ns: float
    reuse_factor: int


def refuse_without_tools() -> None:
    require_packages("hls4ml", "qonnx", purpose="makes C++ of a network")
    require_programs("g++", purpose="compiles hls4ml's C++ for its simulation", packages="g++")


def write_project(chain: FixedChain, target: Target, folder: Path) -> list[int]:
    """Write the project; return the reuse factor that hls4ml chose for each weighted layer."""
    import hls4ml  # optional, see refuse_without_tools

    with contextlib.redirect_stdout(io.StringIO()):  # it prints every layer twice
        model = hls4ml.converters.convert_from_onnx_model(
            channels_last(onnx_of(chain)),
            output_dir=str(folder),
            project_name=NAME,
            backend="Vitis",
            io_type="io_stream",
            part=target.part,
            clock_period=target.clock_ns,
            hls_config=settings_of(chain, target.reuse_factor),
        )
        model.write()
    mark_as_one_build(folder, model.config.get_config_value("Stamp"))
    weighted = [layer for layer in model.get_layers() if layer.class_name in ("Conv2D", "Dense")]
    return [int(layer.get_attr("reuse_factor")) for layer in weighted]


def mark_as_one_build(folder: Path, stamp: str) -> None:
    """Replace the random stamp in the library's name: equal networks give equal projects."""
    for name in ("build_lib.sh", "hls4ml_config.yml"):
        file = folder / name
        file.write_text(file.read_text().replace(stamp, "simulation"))


def channels_last(model: ModelProto) -> Any:
    """A cleaned model with channels last, as QONNX's ModelWrapper."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model

    cleaned = cleanup_model(ModelWrapper(model))
    return cleanup_model(
        cleaned.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True))
    )


def onnx_of(chain: FixedChain) -> ModelProto:
    """For one image. The linear layer is a MatMul: QONNX converts no Gemm without a bias."""
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    last = "pixels"
    for index, fixed in enumerate(chain.layers):
        made, values = operators_of(fixed, last, name=f"layer{index}")
        nodes += made
        constants += [numpy_helper.from_array(value, name) for name, value in values.items()]
        last = made[-1].output[0]
    outputs = chain.layers[-1].layer.shape[0]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, *chain.shape])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, outputs])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def operators_of(
    fixed: FixedLayer, source: str, name: str
) -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """A layer's nodes in order, and its constants by name."""
    layer = fixed.layer
    if layer.weight is None:
        pool = make_node(
            "MaxPool",
            [source],
            [name],
            kernel_shape=layer.kernel,
            strides=layer.stride,
            pads=[0, 0, 0, 0],
        )
        return [pool], {}
    weight = f"{name}.weight"
    if layer.kind == "linear":
        if layer.bias is not None or layer.activation:
            raise InputError("a linear layer with a bias or a ReLU is not made into C++ yet")
        flat = make_node("Flatten", [source], [f"{name}.flat"])
        product = make_node("MatMul", [f"{name}.flat", weight], [name])
        return [flat, product], {weight: np.ascontiguousarray(layer.weight.T)}
    constants = {weight: layer.weight}
    if layer.bias is not None:
        constants[f"{name}.bias"] = layer.bias
    convolution = make_node(
        "Conv",
        [source, *constants],
        [name],
        kernel_shape=layer.kernel,
        strides=layer.stride,
        pads=layer.pads,
        dilations=[1, 1],  # QONNX needs these two spelled out
        group=1,
    )
    relu = [make_node("Relu", [name], [f"{name}.relu"])] if layer.activation else []
    return [convolution, *relu], constants


def settings_of(chain: FixedChain, reuse_factor: int) -> dict:
    """hls4ml's configuration, by QONNX's operator names (kind and number); "auto" is a full sum."""
    count = {"Conv": 0, "Relu": 0, "MaxPool": 0, "Flatten": 0, "MatMul": 0}
    layers: dict[str, dict] = {"global_in": {"Precision": {"result": PIXELS}}}

    def add(kind: str, **precision: str) -> None:
        layers[f"{kind}_{count[kind]}"] = {"Precision": precision, "ReuseFactor": reuse_factor}
        count[kind] += 1

    for fixed in chain.layers:
        if fixed.layer.kind == "max_pool":
            add("MaxPool", accum="auto", result="auto")
            continue
        weights = {"weight": str(fixed.weight), "accum": "auto"}
        weights["bias"] = str(fixed.bias or fixed.weight)  # hls4ml adds a bias of 0
        if fixed.layer.kind == "linear":
            add("Flatten", result="auto")
            add("MatMul", **weights, result=str(fixed.output or "auto"))
        elif fixed.layer.activation:
            assert fixed.output is not None, "only the last layer, a linear one, has no format"
            add("Conv", **weights, result=str(signed_too(fixed.output)))
            add("Relu", result=str(fixed.output))
        else:
            add("Conv", **weights, result=str(fixed.output))
    return {
        "Model": {
            "Precision": "ap_fixed<16,6>",  # the default; every value has a format of its own
            "ReuseFactor": reuse_factor,
            "Strategy": "Resource",
        },
        "LayerName": layers,
    }


def signed_too(form: FixedPoint) -> FixedPoint:
    """The signed format that holds ``form``'s values and their negatives, with the same step."""
    return replace(form, width=form.width + 1, integer=form.integer + 1, signed=True)


def write_test_bench(folder: Path, pixels: np.ndarray, logits: np.ndarray) -> None:
    """Write inputs and expected logits for the project's own test; pixels (N, 3, 32, 32) uint8."""
    images = pixels.transpose(0, 2, 3, 1).reshape(len(pixels), -1)
    for name, rows in (("tb_input_features", images), ("tb_output_predictions", logits)):
        lines = [" ".join(f"{value:.12g}" for value in row) for row in rows.tolist()]
        (folder / "tb_data" / f"{name}.dat").write_text("\n".join(lines) + "\n")


def simulated_logits(folder: Path, pixels: np.ndarray, classes: int, processes: int) -> np.ndarray:
    """(N, 3, 32, 32) uint8 -> (N, classes) float64, by the C++ compiled with g++.

    The project's files are left as hls4ml wrote them.
    """
    library = compiled(folder)
    images = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1), dtype=np.float64)
    parts = np.array_split(images, min(processes, len(images)))
    context = multiprocessing.get_context("spawn")  # its buffers are static: no threads
    with ProcessPoolExecutor(len(parts), mp_context=context) as pool:
        work = [pool.submit(logits_of, library, part, classes) for part in parts]
        found = np.concatenate([each.result() for each in work])
    library.unlink()
    return found


def logits_of(library: Path, images: np.ndarray, classes: int) -> np.ndarray:
    """``images`` (N, H, W, C) float64, contiguous."""
    function = getattr(ctypes.CDLL(str(library)), f"{NAME}_double")
    array = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
    function.argtypes, function.restype = [array, array], None
    logits = np.empty((len(images), classes))
    for image, row in zip(images, logits, strict=True):
        function(image, row)
    return logits


def compiled(folder: Path) -> Path:
    """The library that hls4ml's own script builds; the faster header replaces its own meanwhile."""
    header = folder / ARITHMETIC
    original = header.read_text()
    assert SLOW in original, "hls4ml ships another header"
    try:
        header.write_text(original.replace(SLOW, FAST))
        result = subprocess.run(
            ["bash", "build_lib.sh"], cwd=folder, capture_output=True, text=True
        )
    finally:
        header.write_text(original)
    assert result.returncode == 0, f"g++: {result.stderr[-2000:]}"
    return (folder / "firmware" / f"{NAME}-simulation.so").resolve()

"""A fixed-point network as a C++ project of hls4ml for Vitis HLS, and its simulation with g++.

hls4ml imports ONNX that QONNX has cleaned and turned to channels last. The weights that it gets are
multiples of the formats' steps already, so that nothing is rounded on the way. Every convolution
rounds its full sum to a signed format of one bit more than the ReLU after it puts out, which has
the same step: so the streams between the two are narrow, and no value changes.
"""

import contextlib
import ctypes
import io
import multiprocessing
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stages.common.core.cli import InputError
from stages.hardware.external.requirements import require_packages, require_programs
from stages.hardware.hls_design.fixed_point import FixedChain, FixedLayer, FixedPoint

NAME = "network"  # of the project and of its C++ function
PIXELS = "ap_ufixed<8,8>"
OPSET = 18
# The header that g++ takes in place of Vitis' own arithmetic keeps the compiler from holding a
# number in a register while bits are cleared. Without that word it was 3 to 9 times as fast.
ARITHMETIC = Path("firmware/ap_types/etc/ap_private.h")
SLOW, FAST = "clearUnusedBits(void) volatile", "clearUnusedBits(void)"


@dataclass(frozen=True)
class Target:
    """What the project is for: the FPGA's part number, the clock, how often a multiplier works."""

    part: str
    clock_ns: float
    reuse_factor: int


def refuse_without_tools() -> None:
    require_packages("hls4ml", "qonnx", purpose="makes C++ of a network")
    require_programs("g++", purpose="compiles hls4ml's C++ for its simulation", packages="g++")


def write_project(chain: FixedChain, target: Target, folder: Path) -> list[int]:
    """Write the project; returns every layer's reuse factor, as hls4ml allows it."""
    import hls4ml  # optional, see refuse_without_tools

    with contextlib.redirect_stdout(io.StringIO()):  # it describes every layer, twice
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
    """The library's name ends in a random stamp; equal networks are to give equal projects."""
    for name in ("build_lib.sh", "hls4ml_config.yml"):
        file = folder / name
        file.write_text(file.read_text().replace(stamp, "simulation"))


def channels_last(model: ModelProto):
    """QONNX' ModelWrapper."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.util.cleanup import cleanup_model

    cleaned = cleanup_model(ModelWrapper(model))
    return cleanup_model(
        cleaned.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True))
    )


def onnx_of(chain: FixedChain) -> ModelProto:
    """For one image. The linear layer is a MatMul: QONNX converts no Gemm without a bias."""
    nodes, constants, last = [], [], "pixels"
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


def operators_of(fixed: FixedLayer, source: str, name: str) -> tuple[list, dict[str, np.ndarray]]:
    """A layer's nodes in order, and its constants by name."""
    layer = fixed.layer
    if layer.kind == "max_pool":
        sizes = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": [0] * 4}
        return [helper.make_node("MaxPool", [source], [name], **sizes)], {}
    weight = f"{name}.weight"
    if layer.kind == "linear":
        if layer.bias is not None or layer.relu:
            raise InputError("a linear layer with a bias or a ReLU is not made into C++ yet")
        flat = helper.make_node("Flatten", [source], [f"{name}.flat"])
        product = helper.make_node("MatMul", [f"{name}.flat", weight], [name])
        return [flat, product], {weight: np.ascontiguousarray(layer.weight.T)}
    constants = {weight: layer.weight}
    if layer.bias is not None:
        constants[f"{name}.bias"] = layer.bias
    half = [(size - 1) // 2 if layer.same else 0 for size in layer.kernel]
    sizes = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": half + half}
    sizes |= {"dilations": [1, 1], "group": 1}  # QONNX wants them said
    nodes = [helper.make_node("Conv", [source, *constants], [name], **sizes)]
    if layer.relu:
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"]))
    return nodes, constants


def settings_of(chain: FixedChain, reuse_factor: int) -> dict:
    """hls4ml's configuration; QONNX names operators by kind and number. "auto" is a full sum."""
    count = {"Conv": 0, "Relu": 0, "MaxPool": 0, "Flatten": 0, "MatMul": 0}
    layers = {"global_in": {"Precision": {"result": PIXELS}}}

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
        elif fixed.layer.relu:
            add("Conv", **weights, result=str(signed_too(fixed.output)))
            add("Relu", result=str(fixed.output))
        else:
            add("Conv", **weights, result=str(fixed.output))
    return {
        "Model": {
            "Precision": "ap_fixed<16,6>",  # of what has none of its own: nothing that counts
            "ReuseFactor": reuse_factor,
            "Strategy": "Resource",
        },
        "LayerName": layers,
    }


def signed_too(form: FixedPoint) -> FixedPoint:
    """What holds ``form`` and its negatives, with the same step."""
    return replace(form, width=form.width + 1, integer=form.integer + 1, signed=True)


def write_test_bench(folder: Path, pixels: np.ndarray, logits: np.ndarray) -> None:
    """What the project's own test runs on, and what it should give; pixels (N, 3, 32, 32) uint8."""
    images = pixels.transpose(0, 2, 3, 1).reshape(len(pixels), -1)
    for name, rows in (("tb_input_features", images), ("tb_output_predictions", logits)):
        lines = [" ".join(f"{value:.12g}" for value in row) for row in rows.tolist()]
        (folder / "tb_data" / f"{name}.dat").write_text("\n".join(lines) + "\n")


def simulated_logits(folder: Path, pixels: np.ndarray, classes: int, processes: int) -> np.ndarray:
    """(N, 3, 32, 32) uint8 -> (N, classes) float64, by the C++ as g++ compiles it.

    The project is left as hls4ml wrote it.
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
    """hls4ml's own script, with the faster header in place of its own for as long as it runs."""
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

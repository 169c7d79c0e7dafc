"""A small network with a depthwise convolution, made without training.

OpenCV 5.0.0's new engine computes such a layer wrongly in INT8 on many processors.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stages import export, quantize
from stages.common.data.cifar10 import CLASSES as NAMES
from stages.common.inference.int8.quantizer import quantized
from stages.common.inference.params import QuantizeParams
from stages.common.inference.runtimes.expected import add_metadata
from tests.conftest import make_images

CHANNELS = 32
CLASSES = 10


def write_depthwise_int8(path: Path, params: QuantizeParams) -> Path:
    """As INT8, with the metadata that a device reads, its answers included."""
    model = depthwise_model()
    path.write_bytes(quantized(model, make_images(50), params).SerializeToString())
    description = {**export.INPUT_DESCRIPTION, "size": [32, 32]}
    described = {"classes": json.dumps(NAMES), "input": json.dumps(description)}
    add_metadata(path, described | quantize.answers(path, model, params.logit_tolerance))
    return path


def depthwise_model() -> ModelProto:
    """FP32: 3x3 convolution, twice (1x1, depthwise 3x3), each with ReLU; 1x1, mean, linear."""
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (CHANNELS, 3, 3, 3),
        "expand1": (CHANNELS, CHANNELS, 1, 1),
        "depthwise1": (CHANNELS, 1, 3, 3),
        "expand2": (CHANNELS, CHANNELS, 1, 1),
        "depthwise2": (CHANNELS, 1, 3, 3),
        "project": (CHANNELS, CHANNELS, 1, 1),
    }
    constants, nodes, last = [], [], "pixels"
    for name, shape in shapes.items():
        weight = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        scale = 1 / 128 if name == "stem" else 1  # of the pixels
        for part, value in (("weight", weight * scale), ("bias", rng.normal(size=shape[0]) * 0.1)):
            constants.append(numpy_helper.from_array(value.astype(np.float32), f"{name}.{part}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [last, f"{name}.weight", f"{name}.bias"],
                [f"{name}_out"],
                f"node_{name}",
                group=CHANNELS if name.startswith("depthwise") else 1,
                pads=[1] * 4 if name.startswith("depthwise") else [0] * 4,
            )
        )
        last = f"{name}_relu"
        nodes.append(helper.make_node("Relu", [f"{name}_out"], [last], f"node_{last}"))
    head = rng.normal(size=(CLASSES, CHANNELS)).astype(np.float32)
    constants.append(numpy_helper.from_array(head, "head.weight"))
    constants.append(numpy_helper.from_array(np.zeros(CLASSES, np.float32), "head.bias"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"], "node_mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "node_flat"),
        helper.make_node(
            "Gemm", ["flat", "head.weight", "head.bias"], ["logits"], "node_head", transB=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "depthwise",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model

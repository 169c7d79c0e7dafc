"""Small ONNX networks that tests put together operator by operator, with random weights."""

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stages.common.inference.int8.quantizer import quantized
from stages.common.inference.params import QuantizeParams
from tests.conftest import make_images
from tests.networks import PARAMS

CLASSES = 10
MEAN = 121.0


class Nodes:
    """Each method appends an operator to those that read ``pixels`` (N, 3, size, size), and returns
    the name of what it makes.
    """

    def __init__(self, size: int = 32):
        self._size = size
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def node(self, kind: str, *inputs: str, **attributes) -> str:
        """Any operator; its input is ``inputs``."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], f"node_{name}", **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def centred(self, source: str = "pixels") -> str:
        """The pixels without their mean, divided by 64 in the next convolution."""
        return self.node("Sub", source, self.constant(np.array(MEAN, np.float32)))

    def conv(self, source: str, shape: tuple[int, ...], scale: float = 1.0, **attributes) -> str:
        """``shape`` (O, I, kH, kW); the outputs have the variance of the inputs."""
        weight = self._rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:])) * scale
        bias = self._rng.normal(size=shape[0]) * 0.1
        names = [self.constant(each.astype(np.float32)) for each in (weight, bias)]
        return self.node("Conv", source, *names, **attributes)

    def first(self, channels: int, **attributes) -> str:
        """A 3x3 convolution of the centred pixels."""
        return self.conv(self.centred(), (channels, 3, 3, 3), scale=1 / 64, **attributes)

    def relu6(self, source: str) -> str:
        bounds = [self.constant(np.array(bound, np.float32)) for bound in (0, 6)]
        return self.node("Clip", source, *bounds)

    def mean(self, source: str) -> str:
        axes = self.constant(np.array([-1, -2], np.int64))
        return self.node("ReduceMean", source, axes, keepdims=1)

    def head(self, source: str, features: int) -> str:
        """Flatten and a linear layer."""
        weight = self._rng.normal(size=(CLASSES, features)).astype(np.float32)
        names = [self.constant(each) for each in (weight, np.zeros(CLASSES, np.float32))]
        return self.node("Gemm", self.node("Flatten", source), *names, transB=1)

    def model(self, last: str, channels: int | None = None) -> ModelProto:
        """With ``last`` as logits: (N, 10), or (N, ``channels``, H, W) of any size."""
        self._nodes[-1].output[0] = "logits"
        assert last.endswith(f"_{len(self._nodes) - 1}"), "the last operator makes the logits"
        shape = ["N", CLASSES] if channels is None else ["N", channels, None, None]
        graph = helper.make_graph(
            self._nodes,
            "small",
            [
                helper.make_tensor_value_info(
                    "pixels", TensorProto.FLOAT, ["N", 3, self._size, self._size]
                )
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def residual() -> ModelProto:
    """Two blocks as in ResNet, the second with stride 2 and a 1x1 convolution beside it."""
    net = Nodes()
    x = net.node("Relu", net.first(8, pads=[1] * 4))
    y = net.node("Relu", net.conv(x, (8, 8, 3, 3), pads=[1] * 4))
    y = net.conv(y, (8, 8, 3, 3), pads=[1] * 4)
    x = net.node("Relu", net.node("Add", y, x))
    y = net.node("Relu", net.conv(x, (16, 8, 3, 3), pads=[1] * 4, strides=[2, 2]))
    y = net.conv(y, (16, 16, 3, 3), pads=[1] * 4)
    x = net.node("Relu", net.node("Add", y, net.conv(x, (16, 8, 1, 1), strides=[2, 2])))
    return net.model(net.head(net.mean(x), 16))


def inverted_residual(size: int = 32) -> ModelProto:
    """Two blocks as in MobileNetV2: depthwise, ReLU6, the second with stride 2; one addition."""
    net = Nodes(size)
    x = net.relu6(net.first(8, pads=[1] * 4, strides=[2, 2]))
    y = net.relu6(net.conv(x, (24, 8, 1, 1)))
    y = net.relu6(net.conv(y, (24, 1, 3, 3), group=24, pads=[1] * 4))
    x = net.node("Add", x, net.conv(y, (8, 24, 1, 1)))
    y = net.relu6(net.conv(x, (24, 8, 1, 1)))
    y = net.relu6(net.conv(y, (24, 1, 3, 3), group=24, pads=[1] * 4, strides=[2, 2]))
    y = net.conv(y, (16, 24, 1, 1))
    return net.model(net.head(net.mean(y), 16))


def write_int8(path: Path, model: ModelProto, images=None, **changes) -> Path:
    """The model in INT8, as stages.quantize makes it without repair."""
    params = QuantizeParams(**PARAMS["quantize"] | changes)
    found = quantized(model, make_images(100) if images is None else images, params)
    path.write_bytes(found.SerializeToString())
    return path

"""The constants of an ONNX graph: weights and biases, FP32 or quantized, and scales."""

import numpy as np
from onnx import GraphProto, NodeProto, numpy_helper

from stages.common.inference.layer_graph.graph import Quantization

UNSIGNED_SHIFT = 128  # uint8 q is int8 q - 128


class Constants:
    """By the names of their tensors."""

    def __init__(self, graph: GraphProto):
        self._values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._dequantized = {
            node.output[0]: node for node in graph.node if self.is_dequantized_by(node)
        }

    def find(self, name: str) -> np.ndarray | None:
        """As the file holds it; None where it is no constant."""
        return self._values.get(name)

    def is_dequantized_by(self, node: NodeProto) -> bool:
        """The node makes reals of a weight's or a bias' integers."""
        return node.op_type == "DequantizeLinear" and node.input[0] in self._values

    def known(self, name: str) -> bool:
        """FP32 or quantized."""
        return name in self._values or name in self._dequantized

    def with_quantization(self, name: str) -> tuple[np.ndarray, Quantization | None]:
        """Reals, or integers with their quantization."""
        if name in self._values:
            return self._values[name], None
        integers, scale, zero_point = (self._values[key] for key in self._dequantized[name].input)
        return integers, Quantization(scale.reshape(-1), zero_point.reshape(-1).astype(np.int64))

    def of_activation(self, node: NodeProto) -> Quantization | None:
        """int8, of a QuantizeLinear or DequantizeLinear of an activation; None where it is not in
        the file.
        """
        names = node.input[1:]
        if len(names) < 2 or any(name not in self._values for name in names):
            return None
        scale, zero_point = (self._values[name] for name in names)
        shift = UNSIGNED_SHIFT if zero_point.dtype == np.uint8 else 0
        return Quantization(
            scale.reshape(-1), zero_point.reshape(-1).astype(np.int64) - np.int64(shift)
        )

"""Operations, weights and activation bytes of one inference, operator by operator, of an ONNX file.

FP32 or INT8 (QDQ), batch 1. Operators that a runtime fuses count as one, and multiply-accumulates
are counted as in ``stages.common.inference.onnx_graph``.
"""

import math
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto
from onnx.helper import get_attribute_value

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import (
    IN_PLACE,
    activation_buffers,
    activations,
    buffer_bytes,
    inferred,
    shape_of,
    weights_by_output,
)

COUNTED = ("Conv", "Gemm", "QLinearConv", "MaxPool")
BIAS_BYTES = 4  # float32, or int32 where the weights are int8


@dataclass(frozen=True)
class Operator:
    """``precision``: "int8" or "fp32", of the numbers that are multiplied or compared.

    ``read_bytes``, ``written_bytes``: of activations. ``nonzero_macs``: those whose weight is not
    0. ``comparisons``: of max pooling. ``weights``: without the biases.
    """

    precision: str
    read_bytes: int
    written_bytes: int
    macs: int = 0
    nonzero_macs: int = 0
    comparisons: int = 0
    weights: int = 0
    nonzero_weights: int = 0
    bias_bytes: int = 0

    @property
    def element_bytes(self) -> int:
        return 1 if self.precision == "int8" else 4

    @property
    def weight_bytes(self) -> int:
        """With the biases."""
        return self.weights * self.element_bytes + self.bias_bytes

    @property
    def packed_weight_bytes(self) -> int:
        """The weights that are not 0, a bit for each weight that says which, and the biases."""
        return (
            self.nonzero_weights * self.element_bytes
            + math.ceil(self.weights / 8)
            + self.bias_bytes
        )


@dataclass(frozen=True)
class Work:
    """The image's bytes, as the first operator reads them, and the operators in their order."""

    image_bytes: int
    operators: tuple[Operator, ...]

    def total(self, quantity: str) -> int:
        return sum(getattr(operator, quantity) for operator in self.operators)


def work_of(model: ModelProto) -> Work:
    """Raises ``InputError`` for an operator whose arithmetic is not counted here."""
    graph = inferred(model)
    counter = Counter(graph)
    operators = tuple(counter.operator(node) for node in graph.node if counter.is_operator(node))
    return Work(counter.sizes[graph.input[0].name], operators)


class Counter:
    """Looks up in a graph what counting its operators needs."""

    def __init__(self, graph: GraphProto):
        self.weights = weights_by_output(graph)
        self.buffers = activation_buffers(graph)
        self.sizes = buffer_bytes(graph, self.buffers)
        self.shapes = {value.name: shape_of(value) for value in activations(graph)}

    def is_operator(self, node: NodeProto) -> bool:
        """False for what prepares a weight, is fused into another operator, or is only a view."""
        return node.output[0] in self.buffers and node.op_type not in IN_PLACE

    def operator(self, node: NodeProto) -> Operator:
        name = node.output[0]
        if node.op_type not in COUNTED:
            raise InputError(
                f"{node.op_type} (it makes '{name}') is not counted, only {', '.join(COUNTED)}; "
                "this stage is for the chain (network.factory: chain)"
            )
        read = {self.buffers[item] for item in node.input if item in self.buffers}
        moved = {
            "read_bytes": sum(self.sizes[buffer] for buffer in read),
            "written_bytes": self.sizes[name],
        }
        if node.op_type == "MaxPool":
            elements = math.prod(self.shapes[name])
            return Operator(
                precision="int8" if self.sizes[name] == elements else "fp32",
                comparisons=elements * (math.prod(kernel_of(node)) - 1),  # n values: n - 1 of them
                **moved,
            )
        weights = self.weights[name]
        return Operator(
            precision="int8" if weights.element_bytes == 1 else "fp32",
            macs=weights.macs,
            nonzero_macs=weights.nonzero_macs,
            weights=weights.count,
            nonzero_weights=weights.nonzero,
            bias_bytes=BIAS_BYTES * weights.biases,
            **moved,
        )


def kernel_of(node: NodeProto) -> list[int]:
    attributes = {item.name: get_attribute_value(item) for item in node.attribute}
    return list(attributes["kernel_shape"])

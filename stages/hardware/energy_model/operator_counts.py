"""What one inference computes, reads and writes, operator by operator, counted from an ONNX file.

FP32 or INT8 (QDQ), batch 1. What a runtime fuses is one operator here, as in ``graph``. A
multiply-accumulate with a zero at the padded border counts like any other.
"""

import math
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto
from onnx.helper import get_attribute_value, tensor_dtype_to_np_dtype

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import (
    IN_PLACE,
    WEIGHTED,
    activation_buffers,
    activations,
    buffer_bytes,
    has_bias,
    inferred,
    shape_of,
    weight_zeros,
)

COUNTED = (*WEIGHTED, "MaxPool")
BIAS_BYTES = 4  # float32, or int32 where the weights are int8


@dataclass(frozen=True)
class Operator:
    """``precision``: "int8" or "fp32", of what is multiplied or compared.

    ``nonzero_macs``: those whose weight is not 0. ``comparisons`` are max pooling's. Weights are
    counted without the biases; ``read_bytes`` and ``written_bytes`` are of activations.
    """

    precision: str
    macs: int
    nonzero_macs: int
    comparisons: int
    weights: int
    nonzero_weights: int
    bias_bytes: int
    read_bytes: int
    written_bytes: int

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
    """What is looked up of a graph to count its operators."""

    def __init__(self, graph: GraphProto):
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.dequantized = {
            node.output[0]: node
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants
        }
        self.buffers = activation_buffers(graph)
        self.sizes = buffer_bytes(graph, self.buffers)
        self.shapes = {value.name: shape_of(value) for value in activations(graph)}

    def is_operator(self, node: NodeProto) -> bool:
        """Not what prepares a weight, nor what is fused into another or only a view."""
        return node.output[0] in self.buffers and node.op_type not in IN_PLACE

    def operator(self, node: NodeProto) -> Operator:
        if node.op_type not in COUNTED:
            raise InputError(
                f"{node.op_type} (it makes '{node.output[0]}') is not counted; known: "
                f"{', '.join(COUNTED)}; add it to stages/hardware/energy_model/operator_counts.py"
            )
        name = node.output[0]
        read = {self.buffers[item] for item in node.input if item in self.buffers}
        moved = {
            "read_bytes": sum(self.sizes[buffer] for buffer in read),
            "written_bytes": self.sizes[name],
        }
        if node.op_type == "MaxPool":
            return self._pooling(node, moved)
        zeros = weight_zeros(node, self.constants, self.dequantized)
        positions = math.prod(self.shapes[name][2:])  # each weight is used height x width times
        nonzero = int((~zeros).sum())
        return Operator(
            precision="int8" if self._weight_bytes(node) == 1 else "fp32",
            macs=zeros.size * positions,
            nonzero_macs=nonzero * positions,
            comparisons=0,
            weights=zeros.size,
            nonzero_weights=nonzero,
            bias_bytes=BIAS_BYTES * zeros.shape[0] if has_bias(node) else 0,
            **moved,
        )

    def _pooling(self, node: NodeProto, moved: dict[str, int]) -> Operator:
        """The largest of n takes n - 1 comparisons."""
        elements = math.prod(self.shapes[node.output[0]])
        kernel = {item.name: get_attribute_value(item) for item in node.attribute}["kernel_shape"]
        return Operator(
            precision="int8" if moved["written_bytes"] == elements else "fp32",
            macs=0,
            nonzero_macs=0,
            comparisons=elements * (math.prod(kernel) - 1),
            weights=0,
            nonzero_weights=0,
            bias_bytes=0,
            **moved,
        )

    def _weight_bytes(self, node: NodeProto) -> int:
        """Of one weight as the file holds it."""
        name = node.input[WEIGHTED[node.op_type][0]]
        if name in self.dequantized:
            name = self.dequantized[name].input[0]
        return tensor_dtype_to_np_dtype(self.constants[name].data_type).itemsize

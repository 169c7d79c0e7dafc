"""The layers of an FP32 graph that INT8 can be chosen for, by names that a person knows."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from stages.common.core.cli import InputError

# They compute in whatever type their input has: choosing a precision for them alone has no effect.
FOLLOWERS = (
    "Clip",
    "Dropout",
    "Flatten",
    "Identity",
    "MaxPool",
    "Relu",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
ACTIVATIONS = ("Clip", "Relu")
WEIGHT_SUFFIX = ".weight"


@dataclass(frozen=True)
class Layer:
    """One operator, with the activation that is fused into it.

    ``name`` is what tables show: the network's own name where the operator has weights.
    ``nodes``: the names of the operator's node and of the activation's.
    """

    name: str
    operator: str
    nodes: tuple[str, ...]
    outputs: tuple[str, ...]

    def is_called(self, name: str) -> bool:
        return name in (self.name, self.nodes[0], *self.outputs)


def layers_of(model: ModelProto) -> list[Layer]:
    """Every operator but the ``FOLLOWERS``, in the graph's order; nodes must have names."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        Layer(
            name=layer_name(node, constants),
            operator=node.op_type,
            nodes=(node.name, *fused_activation(node, model)),
            outputs=tuple(node.output),
        )
        for node in model.graph.node
        if node.op_type not in FOLLOWERS
    ]


def fused_activation(node: NodeProto, model: ModelProto) -> list[str]:
    """The name of the activation that alone reads the node's output, if there is one."""
    readers = [each for each in model.graph.node if node.output[0] in each.input]
    return [each.name for each in readers if len(readers) == 1 and each.op_type in ACTIVATIONS]


def layer_name(node: NodeProto, constants: set[str]) -> str:
    """'block1_conv1' for a node that reads 'block1_conv1.weight'; else the node's own name."""
    for name in node.input:
        if name in constants and name.endswith(WEIGHT_SUFFIX):
            return name.removesuffix(WEIGHT_SUFFIX)
    return node.name


def find_layers(layers: Sequence[Layer], names: Iterable[str], key: str) -> list[Layer]:
    """The layers of these names, which may be those of their nodes or outputs too.

    Raises ``InputError`` that names ``key`` and the nearest name for one that no layer has.
    """
    found = []
    for name in names:
        called = [layer for layer in layers if layer.is_called(name)]
        if not called:
            known = [layer.name for layer in layers]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise InputError(f"{key}: the network has no layer '{name}'; nearest: '{near[0]}'")
        found += called
    return found


def named(model: ModelProto) -> ModelProto:
    """A copy in which every node has a name of its own, which the quantizer selects it by."""
    copy = ModelProto()
    copy.CopyFrom(model)
    names = [node.name for node in copy.graph.node]
    for index, node in enumerate(copy.graph.node):
        if not node.name or names.count(node.name) > 1:
            node.name = f"{node.op_type}_{index}"
    return copy

"""The operators and activations of a TFLite file, and how a microcontroller registers them."""

from dataclasses import dataclass
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from stages.common.core.cli import InputError
from stages.common.inference.tflite.file import WEIGHTED
from stages.common.pruning.memory.arena import Operator, arena_bytes, buffers_of, planned_bytes

NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
# The methods of TFLM's MicroMutableOpResolver (micro_mutable_op_resolver.h), for the operators that
# this pipeline writes.
REGISTRATIONS = {
    "ADD": "AddAdd",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "HARD_SWISH": "AddHardSwish",
    "LOGISTIC": "AddLogistic",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "PADV2": "AddPadV2",
    "QUANTIZE": "AddQuantize",
}


@dataclass(frozen=True)
class Structure:
    """``shapes``: of the activations by name, (1, H, W, C) or (1, C), in the file's order.

    ``weights``: the shapes of each operator's weights, () where it has none. ``biased``: whether it
    has a bias. ``constants``: the number of other tensors.
    """

    operators: tuple[Operator, ...]
    shapes: dict[str, tuple[int, ...]]
    weights: tuple[tuple[int, ...], ...]
    biased: tuple[bool, ...]
    constants: int

    def kinds(self) -> list[str]:
        """The different operators, in alphabetical order."""
        return sorted({each.kind for each in self.operators})

    def sizes(self) -> dict[str, int]:
        """Bytes of the activations, which are int8."""
        return {name: elements(shape) for name, shape in self.shapes.items()}

    def estimated_arena(self) -> int:
        """Bytes; see ``arena.py``."""
        return arena_bytes(self.operators, self.sizes(), self.constants)

    def activation_bytes(self) -> int:
        """Of the arena."""
        return planned_bytes(buffers_of(self.operators, self.sizes()))


def structure_of(model: schema.ModelT) -> Structure:
    """Of an INT8 model with one subgraph, as ``writer.py`` makes it."""
    subgraph = model.subgraphs[0]
    names = [f"{index}" for index in range(len(subgraph.tensors))]
    nodes = subgraph.operators
    activations = {*subgraph.inputs, *(node.outputs[0] for node in nodes)}
    weights = [weight_shape(model, node) for node in nodes]
    return Structure(
        operators=tuple(
            Operator(
                kind=NAMES[code_of(model, node)],
                reads=tuple(names[each] for each in node.inputs if each in activations),
                writes=names[node.outputs[0]],
                channels=output_channels(NAMES[code_of(model, node)], shape),
            )
            for node, shape in zip(nodes, weights, strict=True)
        ),
        shapes={
            names[index]: tuple(int(side) for side in subgraph.tensors[index].shape)
            for index in sorted(activations)
        },
        weights=tuple(weights),
        biased=tuple(len(node.inputs) > 2 and node.inputs[2] >= 0 for node in nodes),
        constants=len(subgraph.tensors) - len(activations),
    )


def code_of(model: schema.ModelT, node: schema.OperatorT) -> int:
    return model.operatorCodes[node.opcodeIndex].builtinCode


def weight_shape(model: schema.ModelT, node: schema.OperatorT) -> tuple[int, ...]:
    if code_of(model, node) not in WEIGHTED:
        return ()
    return tuple(int(side) for side in model.subgraphs[0].tensors[node.inputs[1]].shape)


def output_channels(kind: str, weight: tuple[int, ...]) -> int:
    """Filters are (O, kH, kW, I), and (1, kH, kW, O) where depthwise; matrices (O, I)."""
    if not weight:
        return 0
    return weight[-1] if kind == "DEPTHWISE_CONV_2D" else weight[0]


def elements(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def registrations(structure: Structure, path: Path) -> list[str]:
    """The methods that register the operators, one each.

    Raises ``InputError`` for an operator that this pipeline does not write.
    """
    for kind in structure.kinds():
        if kind not in REGISTRATIONS:
            raise InputError(
                f"{path} has the operator {kind}; expected those that 'dvc repro tflite' writes: "
                f"{', '.join(REGISTRATIONS)}"
            )
    return [REGISTRATIONS[kind] for kind in structure.kinds()]

"""Operators that every runtime, quantizer and NPU compiler knows, in place of some that not all do.

torch.onnx folds BatchNorm into the convolution or linear layer in front of it, and drops Dropout
and Identity. The rest is done here, in place:

- The division by the pixels' deviation goes into the first convolution's weights, and the
  subtraction of their mean into its bias. Where that convolution is padded, with zeros that stand
  for the mean, the subtraction stays, of one scalar where the colours share it.
- A mean over height and width becomes GlobalAveragePool, a Reshape to (N, features) Flatten.
- HardSigmoid, the gate of MobileNetV3's squeeze-and-excitation, becomes Clip, and its slope and
  offset go into the convolution in front of it: OpenCV 5.0.0 takes a product with
  HardSigmoid(1/6, 1/2) for HardSwish, whatever the other factor is.
"""

import math

import numpy as np
from onnxscript import ir

WEIGHT, BIAS = 1, 2  # inputs of Conv
SPATIAL = {2, 3}  # axes of height and width in (N, C, H, W)


def use_common_operators(model: ir.Model) -> None:
    """All of the above; equal graphs give equal bytes."""
    graph = model.graph
    fold_deviation(graph)
    fold_mean(graph)
    fold_hard_sigmoid(graph)
    use_global_average_pool(graph)
    use_flatten(graph)
    ir.passes.common.RemoveUnusedNodesPass()(model)


def fold_deviation(graph: ir.Graph) -> None:
    """w * (x / std) = (w / std) * x, where only convolutions read the quotient."""
    for node in normalizing(graph, "Div"):
        readers = node.outputs[0].consumers()
        if all(has_constant_filters(reader) for reader in readers):
            std = constant(node, 1)
            for reader in readers:
                set_filters(reader, filters(reader) / by_input_channel(std, reader), bias(reader))
            bypass(node)


def fold_mean(graph: ir.Graph) -> None:
    """w * (x - mean) + b = w * x + (b - sum(w * mean)), where nothing is padded."""
    for node in normalizing(graph, "Sub"):
        readers = node.outputs[0].consumers()
        mean = constant(node, 1)
        if all(has_constant_filters(each) and not is_padded(each) for each in readers):
            for reader in readers:
                shift = (filters(reader) * by_input_channel(mean, reader)).sum(axis=(1, 2, 3))
                set_filters(reader, filters(reader), bias(reader) - shift)
            bypass(node)
        elif (mean == mean.flat[0]).all():
            set_constant(node, 1, mean.flat[0])


def fold_hard_sigmoid(graph: ir.Graph) -> None:
    """max(0, min(1, alpha * (w * x + b) + beta)), where nothing else reads the convolution."""
    for node in list(graph):
        before = source(node).producer() if node.op_type == "HardSigmoid" else None
        if before is not None and has_constant_filters(before) and is_only_reader(node):
            alpha = node.attributes.get_float("alpha", 0.2)
            beta = node.attributes.get_float("beta", 0.5)
            set_filters(before, alpha * filters(before), alpha * bias(before) + beta)
            low, high = (new_constant(node, f"{node.name}_{end}", np.array(end)) for end in (0, 1))
            replace(node, [ir.node("Clip", [node.inputs[0], low, high], name=node.name)])


def use_global_average_pool(graph: ir.Graph) -> None:
    """In place of ReduceMean over height and width; where it drops them, Flatten follows."""
    for node in list(graph):
        if node.op_type == "ReduceMean" and is_spatial_mean(node):
            pool = ir.node("GlobalAveragePool", [node.inputs[0]], name=node.name)
            if node.attributes.get_int("keepdims", 1):
                replace(node, [pool])
            else:
                pool.outputs[0].name = f"{node.outputs[0].name}_pooled"
                replace(node, [pool, flatten(pool.outputs[0], f"{node.name}_flatten")])


def use_flatten(graph: ir.Graph) -> None:
    """In place of a Reshape to (N, features), whose shape tensor not every compiler takes."""
    reshapes = [node for node in graph if node.op_type == "Reshape" and is_flattening(node)]
    for index, node in enumerate(reshapes):
        replace(node, [flatten(source(node), f"flatten_{index}" if index else "flatten")])


def normalizing(graph: ir.Graph, operator: str) -> list[ir.Node]:
    """Nodes that apply one constant, or one for each colour, to the pixels or to their difference
    from another.
    """
    return [
        node
        for node in graph
        if node.op_type == operator and has_constant(node, sizes=(1, 3)) and reads_pixels(node)
    ]


def reads_pixels(node: ir.Node) -> bool:
    """Directly, or with one Sub of a constant between."""
    before = source(node).producer()
    if before is not None and before.op_type == "Sub" and has_constant(before, sizes=(1, 3)):
        return source(before).is_graph_input()
    return source(node).is_graph_input()


def has_constant(node: ir.Node, sizes: tuple[int, ...]) -> bool:
    value = source(node, 1).const_value
    return value is not None and value.size in sizes


def has_constant_filters(node: ir.Node) -> bool:
    constants = [each for each in node.inputs[WEIGHT:] if each is not None]
    return node.op_type == "Conv" and all(each.const_value is not None for each in constants)


def is_padded(convolution: ir.Node) -> bool:
    attributes = convolution.attributes
    automatic = attributes.get_string("auto_pad", "NOTSET")
    return automatic not in ("NOTSET", "VALID") or any(attributes.get_ints("pads", ()))


def is_only_reader(node: ir.Node) -> bool:
    return len(source(node).uses()) == 1 and not source(node).is_graph_output()


def is_spatial_mean(node: ir.Node) -> bool:
    shape = source(node).shape
    if shape is None or len(shape) != 4 or len(node.inputs) == 1:
        return False
    axes = source(node, 1).const_value
    return axes is not None and {int(axis) % 4 for axis in axes.numpy()} == SPATIAL


def is_flattening(node: ir.Node) -> bool:
    before, after = source(node).shape, node.outputs[0].shape
    if before is None or after is None or len(after) != 2:
        return False
    features = before[1:]
    return all(isinstance(size, int) for size in features) and math.prod(features) == after[1]


def filters(convolution: ir.Node) -> np.ndarray:
    """(O, C / groups, kH, kW) float64"""
    return constant(convolution, WEIGHT)


def bias(convolution: ir.Node) -> np.ndarray:
    """(O,) float64, zeros where there is none."""
    if len(convolution.inputs) > BIAS:
        return constant(convolution, BIAS)
    return np.zeros(len(filters(convolution)))


def set_filters(convolution: ir.Node, weight: np.ndarray, bias: np.ndarray) -> None:
    """Without a bias, zeros add none."""
    set_constant(convolution, WEIGHT, weight)
    if len(convolution.inputs) > BIAS:
        set_constant(convolution, BIAS, bias)
    elif bias.any():
        convolution.resize_inputs(BIAS + 1)
        name = (
            f"{source(convolution, WEIGHT).name}_bias"  # as the exporter names those of BatchNorm
        )
        convolution.replace_input_with(BIAS, new_constant(convolution, name, bias))


def by_input_channel(values: np.ndarray, convolution: ir.Node) -> np.ndarray:
    """One value, or one for each of C channels, as (O, C / groups, 1, 1): what each filter sees."""
    outputs, depth = filters(convolution).shape[:2]
    groups = convolution.attributes.get_int("group", 1)
    by_group = np.broadcast_to(values.reshape(-1), (depth * groups,)).reshape(groups, depth)
    return np.repeat(by_group, outputs // groups, axis=0)[:, :, None, None]


def source(node: ir.Node, index: int = 0) -> ir.Value:
    """An input that the node cannot be without."""
    value = node.inputs[index]
    assert value is not None
    return value


def constant(node: ir.Node, index: int) -> np.ndarray:
    """A constant input, float64."""
    tensor = source(node, index).const_value
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def set_constant(node: ir.Node, index: int, values: np.ndarray) -> None:
    """Other values, stored as float32, for this node alone: the exporter lets nodes share equal
    constants.
    """
    old = source(node, index)
    if len(old.uses()) > 1:
        node.replace_input_with(index, new_constant(node, f"{old.name}_{node.name}", values))
    else:
        old.const_value = ir.tensor(values.astype(np.float32), name=old.name)
        old.shape = ir.Shape(values.shape)


def new_constant(node: ir.Node, name: str, values: np.ndarray) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(values.astype(np.float32), name=name))
    graph_of(node).register_initializer(value)
    return value


def graph_of(node: ir.Node) -> ir.Graph:
    assert node.graph is not None
    return node.graph


def flatten(value: ir.Value, name: str) -> ir.Node:
    return ir.node("Flatten", [value], {"axis": 1}, name=name)


def bypass(node: ir.Node) -> None:
    """Remove the node; what read its output reads its first input."""
    node.outputs[0].replace_all_uses_with(source(node))
    graph_of(node).remove(node, safe=True)


def replace(node: ir.Node, new: list[ir.Node]) -> None:
    """Put new nodes in a node's place; the last one's output takes its output's name."""
    ir.convenience.replace_nodes_and_values(
        graph_of(node), node, [node], new, node.outputs, new[-1].outputs
    )

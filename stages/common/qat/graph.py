"""An ONNX graph as a torch module whose weights learn, computed operator by operator.

An INT8 file (QDQ) is computed as a runtime will: QuantizeLinear rounds an activation with the
file's scale and zero point, and weights are rounded as the file's are. The libraries that turn ONNX
into torch (onnx2torch, onnx2pytorch) do not train these two operators.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn

from stages.common.core.cli import InputError
from stages.common.qat.layers import FloatLayer, Int8Layer, rounded
from stages.common.qat.operators import OPERATORS

LEARNING = ("Conv", "Gemm")
HALF_STEP = 0.49  # of an integer: what is at most so far from it is rounded to it


@dataclass(frozen=True)
class Step:
    """An operator: what computes its output from those of its inputs that depend on the pixels."""

    compute: Callable[..., Tensor]
    inputs: tuple[str, ...]
    output: str


class TorchGraph(nn.Module):
    """Pixels (N, 3, H, W) float32 -> logits (N, classes) float32.

    ``fp32``: an FP32 model, whose nodes have names. ``int8``: a QDQ model of it, whose nodes have
    the same names; it is what is computed then, and its weights start as near to those of ``fp32``
    as their integers allow. ``levels``: the largest integer of its weights. ``fixed``: names in
    ``fp32`` of weights that do not learn.

    Raises ``InputError`` for an operator that torch has not here, and for a weight that two
    operators share.
    """

    def __init__(
        self,
        fp32: ModelProto,
        int8: ModelProto | None = None,
        levels: int = 127,
        device: torch.device | None = None,
        fixed: Collection[str] = (),
    ):
        super().__init__()
        reader = Reader(fp32, int8 or fp32, levels, device or torch.device("cpu"))
        self.steps = [step for node in reader.graph.node for step in reader.steps_of(node)]
        self.input = reader.graph.input[0].name
        self.output = reader.graph.output[0].name
        self.last_reads = last_reads(self.steps, kept=self.output)
        self.layers = nn.ModuleList(reader.layers.values())
        for (weight, *_), layer in reader.layers.items():
            layer.change.requires_grad_(weight not in fixed)
        self.names = list(reader.layers)  # of each layer's weight, and bias if any, in ``fp32``
        self.digest = digest_of(fp32, int8 or fp32)

    def forward(self, pixels: Tensor) -> Tensor:
        values = {self.input: pixels}
        for step, unused in zip(self.steps, self.last_reads, strict=True):
            values[step.output] = step.compute(*(values[name] for name in step.inputs))
            for name in unused:
                del values[name]
        return values[self.output]

    @torch.no_grad()
    def trained(self) -> dict[str, np.ndarray]:
        """Weights and biases, float32, by the names that they have in ``fp32``. Those weights that
        are computed in INT8 are multiples of their scales: a quantizer finds the same integers.
        """
        found = {}
        for names, layer in zip(self.names, self.layers, strict=True):
            assert isinstance(layer, FloatLayer)
            weight, _ = layer()
            for name, value in zip(names, (weight, layer.bias()), strict=False):
                assert value is not None
                found[name] = value.cpu().contiguous().numpy()
        return found


class Reader:
    """The steps and the layers of a graph, node by node."""

    def __init__(self, fp32: ModelProto, model: ModelProto, levels: int, device: torch.device):
        self.graph = model.graph
        self.levels = levels
        self.device = device
        self.constants = self.tensors(model)
        self.originals = self.tensors(fp32)
        self.original_nodes = {node.name: node for node in fp32.graph.node}
        self.dequantizers = {
            node.output[0]: node for node in self.graph.node if node.op_type == "DequantizeLinear"
        }
        self.layers: dict[tuple[str, ...], FloatLayer] = {}

    def tensors(self, model: ModelProto) -> dict[str, Tensor]:
        return {tensor.name: self.tensor(tensor) for tensor in model.graph.initializer}

    def tensor(self, proto: Any) -> Tensor:
        return torch.tensor(numpy_helper.to_array(proto), device=self.device)

    def steps_of(self, node: NodeProto) -> list[Step]:
        """The steps that a node takes for the pixels; none where it computes a constant."""
        if node.op_type == "QuantizeLinear":
            return [Step(self.rounding(node), (node.input[0],), node.output[0])]
        attributes = attributes_of(node)
        if node.op_type == "Constant":
            self.constants[node.output[0]] = self.tensor(attributes["value"])
            return []
        if node.op_type == "DequantizeLinear":
            if node.input[0] not in self.constants:
                return [Step(lambda rounded: rounded, (node.input[0],), node.output[0])]
            self.constants[node.output[0]] = self.dequantized(node)
            return []
        refuse_unknown(node, attributes)
        compute = partial(OPERATORS[node.op_type], attributes)
        if node.op_type in LEARNING and node.input[1] in self.constants:
            layer = self.layer(node, axis=channel_axis(node, attributes))
            return [Step(lambda x: compute(x, *layer()), (node.input[0],), node.output[0])]
        given = {name: self.constants[name] for name in node.input if name in self.constants}
        changing = tuple(name for name in node.input if name and name not in given)
        names = list(node.input)

        def computed(*inputs: Tensor) -> Tensor:
            values: dict[str, Tensor] = {**given, **dict(zip(changing, inputs, strict=True))}
            return compute(*(values.get(name) for name in names))

        return [Step(computed, changing, node.output[0])]

    # ---------------------------------------------------------------------------- quantization

    def rounding(self, node: NodeProto) -> Callable[[Tensor], Tensor]:
        """A function that rounds an activation to the values that its 8 bits have."""
        scale, zero_point = self.quantization(node)
        limits, zero = torch.iinfo(zero_point.dtype), int(zero_point)
        return lambda values: rounded(values, scale, limits.min - zero, limits.max - zero)

    def quantization(self, node: NodeProto) -> tuple[Tensor, Tensor]:
        """Scale and zero point of a QuantizeLinear or DequantizeLinear; without one it is uint8."""
        scale = self.constants[node.input[1]]
        if len(node.input) > 2 and node.input[2]:
            return scale, self.constants[node.input[2]]
        return scale, torch.zeros_like(scale, dtype=torch.uint8)

    def dequantized(self, node: NodeProto) -> Tensor:
        integers = self.constants[node.input[0]]
        scale, zero_point = self.quantization(node)
        if scale.numel() > 1:
            shape = [1] * integers.dim()
            shape[attributes_of(node).get("axis", 1)] = -1
            scale, zero_point = scale.view(shape), zero_point.view(shape)
        return (integers.double() - zero_point.double()).float() * scale

    # ---------------------------------------------------------------------------------- layers

    def layer(self, node: NodeProto, axis: int) -> FloatLayer:
        """The weight and bias of a node, which learn from here on."""
        names = tuple(name for name in self.original_nodes[node.name].input[1:] if name)
        for name in names:
            if any(name in others for others in self.layers):
                raise InputError(
                    f"two operators of the network share '{name}', which cannot be trained here; "
                    "set quantize.aware_epochs: 0"
                )
        weight = self.constants[node.input[1]]
        bias = self.constants[node.input[2]] if node.input[2:] else None
        quantized = self.dequantizers.get(node.input[1])
        if quantized is None:
            layer = FloatLayer(weight, bias, axis)
        else:
            scale, _ = self.quantization(quantized)
            input_scale, _ = self.quantization(self.dequantizers[node.input[0]])
            layer = Int8Layer(
                self.start(self.originals[names[0]], weight, scale, axis),
                bias,
                axis,
                levels=self.levels,
                by_channel=scale.numel() > 1,
                input_scale=float(input_scale),
                int32_bias=bool(node.input[2:]) and node.input[2] in self.dequantizers,
            )
        self.layers[names] = layer.to(self.device)
        return layer

    def start(self, original: Tensor, rounded: Tensor, scale: Tensor, axis: int) -> Tensor:
        """The value nearest to the FP32 weight that rounds to the file's integer, which need not be
        the nearest one (see inference/int8/gptq.py).
        """
        shape = [1] * rounded.dim()
        shape[axis] = -1
        reach = HALF_STEP * scale.view(shape)
        return original.clamp(rounded - reach, rounded + reach)


def last_reads(steps: list[Step], kept: str) -> list[set[str]]:
    """After each step, the values that no later one reads: memory is for those that are."""
    found, later = [], {kept}
    for step in reversed(steps):
        found.append({step.output, *step.inputs} - later)
        later |= set(step.inputs)
    return found[::-1]


def digest_of(*models: ModelProto) -> str:
    """SHA-256 of the models, hexadecimal."""
    digest = hashlib.sha256()
    for model in models:
        digest.update(model.SerializeToString(deterministic=True))
    return digest.hexdigest()


def attributes_of(node: NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def channel_axis(node: NodeProto, attributes: dict[str, Any]) -> int:
    """The axis of an operator's weight that its outputs are along."""
    return 1 if node.op_type == "Gemm" and not attributes.get("transB", 0) else 0


def refuse_unknown(node: NodeProto, attributes: dict[str, Any]) -> None:
    known = node.op_type in OPERATORS
    if not known or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        where = "" if not known else " with auto_pad"
        raise InputError(
            f"the network has the operator {node.op_type}{where}, which cannot be trained here; "
            "set quantize.aware_epochs: 0"
        )

"""A network as ONNX.

Normalization is folded into the first convolution and BatchNorm into the convolution in front of
it, so that the file holds operators that every runtime, quantizer and NPU compiler knows. It takes
raw pixels, in batches of any size.
"""

import copy

import onnx
import torch
from onnx import ModelProto
from onnxscript import ir
from torch import nn

from stages.common.inference.export.folding import folded
from stages.common.inference.export.operators import use_common_operators
from stages.common.inference.export.translations import TRANSLATIONS
from stages.common.inference.onnx_graph import strip
from stages.common.network.chain import Chain
from stages.common.network.network import Network

INPUT = "pixels"
OUTPUT = "logits"
BODY = "body."  # of ImportedNetwork


def onnx_of(model: Network, opset: int, metadata: dict[str, str]) -> ModelProto:
    """Input "pixels", RGB float32 in 0-255 (N, 3, H, W); output "logits" (N, classes).

    Of the network in eval mode, which stays as it was. Equal weights and metadata give equal bytes
    (serialized deterministically).
    """
    if isinstance(model, Chain):
        module: nn.Module = folded(model, size=model.input_shape[1])
    else:
        module = copy.deepcopy(model).cpu().eval()
    return to_onnx(module, model.input_shape, opset, metadata)


def to_onnx(
    module: nn.Module, shape: tuple[int, int, int], opset: int, metadata: dict[str, str]
) -> ModelProto:
    """Of a module in eval mode, for images of one shape."""
    program = torch.onnx.export(
        module,
        (torch.zeros(2, *shape),),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    assert program is not None
    use_common_operators(program.model)
    name_as_the_factory(program.model)
    proto = program.model_proto
    strip(proto)
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def name_as_the_factory(model: ir.Model) -> None:
    """Weights are called as in the module that the factory made: "features.0.weight"."""
    for tensor in list(model.graph.initializers.values()):
        assert tensor.name is not None
        short = tensor.name.removeprefix(BODY)
        if short not in model.graph.initializers:
            tensor.name = short

"""The graphs that are chains, for programs that take nothing else."""

from pathlib import Path

from stages.common.core.cli import InputError
from stages.common.inference.layer_graph.graph import (
    PIXELS,
    Graph,
    Layer,
    UnsupportedNetwork,
)
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.layer_graph.windows import NO_PADS, centred

KINDS = ("conv", "max_pool", "linear")


class Chain(Graph):
    """Every layer reads the one before it: a conv, a max_pool or a linear layer.

    A conv has no pads, or stride 1 and (kernel - 1) / 2 on every side; a pool has none; a linear
    layer reads (C, 1, 1). The only activation is ReLU. The input is the pixels.
    """


def read_chain(path: str | Path) -> Chain:
    """Raises ``InputError`` in one line for a graph that is no such chain."""
    try:
        graph = read_graph(path)
    except UnsupportedNetwork as error:
        raise no_chain(path, error.reason) from None
    if graph.mean:
        raise no_chain(path, f"it subtracts {graph.mean:g} from the pixels")
    before, shape = PIXELS, graph.shape
    for layer in graph.layers:
        if reason := reason_against(layer, before, shape):
            raise no_chain(path, f"{layer.name} {reason}")
        before, shape = layer.name, layer.shape
    return Chain(graph.shape, graph.input, graph.layers, graph.metadata)


def no_chain(path: str | Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}; this stage is for the chain (network.factory: chain)")


def reason_against(layer: Layer, before: str, shape: tuple[int, int, int]) -> str:
    """Why a layer that gets ``shape`` after the layer ``before`` is none of a chain's; or ""."""
    if layer.inputs != (before,):
        return f"reads {' and '.join(layer.inputs)}, not only {before}"
    if layer.kind not in KINDS:
        return f"is none of {', '.join(KINDS)}"
    if layer.activation not in ("", "relu"):
        return f"has the activation {layer.activation}"
    if layer.kind == "conv" and layer.weight is not None and layer.weight.shape[1] != shape[0]:
        return "has groups"
    if layer.kind == "linear" and shape[1:] != (1, 1):
        return f"gets {shape}, not (C, 1, 1)"
    if layer.pads != NO_PADS and not has_centred_pads(layer):
        return f"has the pads {layer.pads} and the stride {layer.stride}"
    return ""


def has_centred_pads(layer: Layer) -> bool:
    """(kernel - 1) / 2 on every side of a convolution with stride 1: its output has H x W."""
    return (
        layer.kind == "conv"
        and layer.stride == (1, 1)
        and layer.pads != NO_PADS
        and layer.pads == centred(layer.kernel)
    )

"""Describe the base network as a microcontroller holds it, where pruning counts its bytes.

The TFLite file that INT8 will make of the network is written with zeros for weights, so that its
operators, tensors and bytes are known before anything is quantized.

Reads   the base checkpoint, if pruning counts bytes
Writes  a JSON of the file's operators, activations and bytes, or the constant {"used": false}, so
        that nothing here makes a pruning stale that counts no bytes
Params  prune.*, network.factory  (see PruneParams: the file holds them)
Raises  InputError when the network can have no TFLite file
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from onnx import ModelProto

from stages.common.building.checkpoint import Checkpoint, load_checkpoint
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json
from stages.common.core.params import load_params
from stages.common.inference.export.onnx_export import onnx_of
from stages.common.inference.int8.layers import WEIGHT_SUFFIX
from stages.common.inference.layer_graph.graph import UnsupportedNetwork
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.tflite.file import load_tflite
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.mcu.blank_int8 import blank_int8
from stages.common.mcu.structure import Structure, elements, structure_of
from stages.common.network.params import NetworkParams
from stages.common.pruning.memory.model import FORMAT
from stages.common.pruning.params import PruneParams

OPSET = 18  # of the ONNX file on the way: it makes no difference here
CHANNEL_BYTES = 12  # a scale and its zero point, which the file holds as float32 and int64
BIAS_BYTES = 16  # the bias itself besides
# What stages after pruning add to the file's metadata: class names, input, quantize.*. An estimate
# from above: the prediction must not promise more than is there.
METADATA_BYTES = 800


def blank_file(checkpoint: Checkpoint, params: PruneParams, folder: Path) -> tuple[Path, list[str]]:
    """The INT8 TFLite file without its weights, and the names of the layers that have some."""
    provenance = {**checkpoint.provenance, "prune": params.provenance()}
    metadata = {"provenance": json.dumps(provenance, sort_keys=True)}
    model = onnx_of(checkpoint.model, OPSET, metadata)
    onnx, tflite = folder / "base.onnx", folder / "base.tflite"
    onnx.write_bytes(model.SerializeToString())
    tflite.write_bytes(tflite_bytes(blank_int8(read_graph(onnx))))
    return tflite, weighted_layers(model)


def weighted_layers(model: ModelProto) -> list[str]:
    """In the graph's order, which is that of the TFLite file's operators."""
    return [
        node.input[1].removesuffix(WEIGHT_SUFFIX)
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
    ]


def described(structure: Structure, layers: list[str]) -> list[dict]:
    """The operators as ``Described`` has them."""
    names = iter(layers)
    return [
        {
            "kind": operator.kind,
            "reads": list(operator.reads),
            "writes": operator.writes,
            "layer": next(names) if weight else "",
            **seen_inputs(operator.kind, weight, structure.shapes[operator.reads[0]]),
            "channel_bytes": channel_bytes(bool(weight), biased),
        }
        for operator, weight, biased in zip(
            structure.operators, structure.weights, structure.biased, strict=True
        )
    ]


def seen_inputs(kind: str, weight: tuple[int, ...], source: tuple[int, ...]) -> dict[str, int]:
    """How many weights an output channel has; ``source``: the shape of what the operator reads."""
    if not weight:
        return {"kernel": 0, "groups": 0}
    if kind == "DEPTHWISE_CONV_2D":
        return {"kernel": weight[1] * weight[2], "groups": 0}
    if kind == "FULLY_CONNECTED":
        return {"kernel": weight[1] // source[-1], "groups": 1}
    return {"kernel": weight[1] * weight[2], "groups": source[-1] // weight[3]}


def channel_bytes(weighted: bool, biased: bool) -> int:
    if not weighted:
        return 0
    return CHANNEL_BYTES + (BIAS_BYTES if biased else 0)


def weight_bytes(operators: list[dict], structure: Structure) -> int:
    """The bytes of the file that the operators' widths account for."""
    return sum(
        elements(weight) + each["channel_bytes"] * operator.channels
        for each, operator, weight in zip(
            operators, structure.operators, structure.weights, strict=True
        )
    )


def memory_model(checkpoint: Checkpoint, params: PruneParams) -> dict:
    """The content of the JSON. Raises ``InputError`` for a network that can have no TFLite file."""
    with TemporaryDirectory() as folder:
        try:
            path, layers = blank_file(checkpoint, params, Path(folder))
        except UnsupportedNetwork as error:
            raise InputError(
                f"prune.target is {params.target}, but the network can have no TFLite file: "
                f"{error.reason}; let prune.target be macs or params"
            ) from None
        structure, size = structure_of(load_tflite(path)), path.stat().st_size
    operators = described(structure, layers)
    return {
        "used": True,
        "format": FORMAT,
        "operators": operators,
        "activations": {
            name: [elements(shape[1:-1]), shape[-1]] for name, shape in structure.shapes.items()
        },
        "fixed_bytes": size + METADATA_BYTES - weight_bytes(operators, structure),
        "constants": structure.constants,
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "base", "memory"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(PruneParams, args.params, section="prune")
    if not params.counts_bytes():
        write_json(args.memory, {"used": False})
        print(f"{args.memory}: pruning counts no bytes")
        return
    source = load_params(NetworkParams, args.params, section="network")
    content = memory_model(load_checkpoint(args.base, source.factory), params)
    write_json(args.memory, content)
    print(f"{args.memory}: {len(content['operators'])} operators of {args.base} as INT8 TFLite")


if __name__ == "__main__":
    run(main)

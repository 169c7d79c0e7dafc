"""Write a network as an FP32 ONNX file for deployment, and check that it is the same network.

Normalization is folded into the whitening convolution and BatchNorm into the other convolutions,
so that the file is a chain of Conv, Relu and MaxPool, then Flatten and Gemm: operators that every
runtime, quantizer and NPU compiler knows. It takes raw pixels, in batches of any size.

Reads   a checkpoint, the validation images
Writes  an ONNX file (input "pixels": RGB float32 in 0-255 (N, 3, H, W); output "logits"
        (N, classes)), a JSON of each runtime's difference from PyTorch
Params  data.*, export.*  (see DataParams, ExportParams)
Raises  InputError when no runtime is right; the ONNX file is then not written

A runtime or engine is right where it differs from PyTorch by at most export.logit_tolerance. The
others are left out from here on: the JSON says which, under "wrong_here".
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import nn

from stages.common.core.cli import run
from stages.common.core.files import replacing, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, first_images, load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.folding import folded
from stages.common.inference.onnx_graph import strip
from stages.common.inference.params import ExportParams
from stages.common.inference.runtimes.agreement import print_wrong, require_one_right
from stages.common.inference.runtimes.onnx_files import WRONG, logits_by_runtime
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, installed_engines
from stages.common.inference.sessions import BATCH_SIZE
from stages.common.network.network import Checkpoint, Network, load_checkpoint

INPUT = "pixels"
OUTPUT = "logits"
INPUT_DESCRIPTION = {
    "name": INPUT,
    "layout": "NCHW",
    "channels": "RGB",
    "type": "float32",
    "range": [0, 255],
}


def to_onnx(
    model: nn.Sequential, shape: tuple[int, int, int], opset: int, metadata: dict[str, str]
) -> ModelProto:
    """The network as ONNX, for images of one shape; equal weights and metadata give equal bytes."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, *shape),),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    strip(proto)
    use_flatten(proto)
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def use_flatten(model: ModelProto) -> None:
    """Flatten in place of the exporter's Reshape, whose shape tensor not every compiler takes."""
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape"]
    assert len(reshapes) == 1
    for node in reshapes:
        shape = node.input.pop()
        node.CopyFrom(onnx.helper.make_node("Flatten", node.input, node.output, "flatten", axis=1))
        kept = [tensor for tensor in model.graph.initializer if tensor.name != shape]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def metadata_of(checkpoint: Checkpoint, images: Images) -> dict[str, str]:
    """The metadata that goes into the file, of a network for such images; each value is JSON."""
    assert "data_digest" in checkpoint.provenance, "a checkpoint names the data that made it"
    description = {**INPUT_DESCRIPTION, "size": images.shape[1:]}
    if images.info.resize:  # a device brings its pictures to size in the same way
        description["resize"] = images.info.resize
    content = {
        "classes": images.classes,
        "input": description,
        "widths": checkpoint.model.config["widths"],
        "provenance": checkpoint.provenance,
    }
    return {key: json.dumps(value, sort_keys=True) for key, value in content.items()}


def compare_runtimes(
    path: Path, model: Network, images: Images
) -> tuple[dict[str, dict], dict[str, str]]:
    """Each runtime's difference from the network in PyTorch, before any folding; refusals."""
    expected = pytorch_logits(model, images)
    found, refused = logits_by_runtime(path, images, installed_engines(NAMED_ENGINES))
    return {runtime: differences(logits, expected) for runtime, logits in found.items()}, refused


def pytorch_logits(model: Network, images: Images) -> np.ndarray:
    """(N, classes) float32."""
    with torch.inference_mode():
        batches = torch.from_numpy(images.pixels).split(BATCH_SIZE)
        return torch.cat([model(batch.float()) for batch in batches]).numpy()


def differences(found: np.ndarray, expected: np.ndarray) -> dict:
    """Largest absolute difference of a logit (two digits), and how many predictions differ."""
    return {
        "max_logit_difference": float(f"{np.abs(found - expected).max():.1e}"),
        "flipped_predictions": int((found.argmax(1) != expected.argmax(1)).sum()),
    }


def wrong_runtimes(results: dict[str, dict], tolerance: float) -> dict[str, str]:
    """The runtimes beyond the tolerance, each with its difference in words."""
    return {
        name: f"differs from PyTorch by {result['max_logit_difference']:g} in a logit"
        for name, result in results.items()
        if not result["max_logit_difference"] <= tolerance  # also when it is no number
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--checkpoint", type=Path, required=True, help="network to export")
    parser.add_argument("--onnx", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(ExportParams, args.params, section="export")
    data_params = load_params(DataParams, args.params, section="data")
    checkpoint = load_checkpoint(args.checkpoint)
    _, validation = load_training_images(args.data, data_params)
    images = first_images(
        validation, params.check_images, "export.check_images", "data.validation_images"
    )
    chain = folded(checkpoint.model, size=images.shape[1])
    model = to_onnx(chain, images.shape, params.opset, metadata_of(checkpoint, images))
    with replacing(args.onnx) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        results, refused = compare_runtimes(temporary, checkpoint.model, images)
        wrong = {**refused, **wrong_runtimes(results, params.logit_tolerance)}
        require_one_right(
            [*results, *refused],
            wrong,
            f"allowed by export.logit_tolerance: {params.logit_tolerance:g}; raise it if "
            "predictions still agree",
        )
    print_wrong(wrong)
    size = args.onnx.stat().st_size
    checked = {**results, **({WRONG: wrong} if wrong else {})}
    write_json(args.metrics, {**checked, "images": len(images), "size_bytes": size})
    worst = max(
        result["max_logit_difference"] for name, result in results.items() if name not in wrong
    )
    print(f"{args.onnx}: {size:,} bytes; runtimes within {worst:g} of PyTorch's logits")


if __name__ == "__main__":
    run(main)

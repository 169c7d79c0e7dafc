"""Write a network as an ONNX file for deployment, and check that it is the same network.

Normalization and BatchNorm are folded into convolutions (see inference/export). The file takes raw
pixels, in batches of any size. For networks other than the chain it holds the logits of a few
synthetic pictures, so that a device finds engines that compute it wrongly: see
inference/runtimes/expected.py. With export.precision: fp16, weights and activations are FP16 (see
inference/export/fp16.py).

Reads   a checkpoint, the validation images
Writes  an ONNX file (input "pixels": RGB float32 in 0-255 (N, 3, H, W); output "logits"
        (N, classes)), a JSON of each runtime's difference from PyTorch, and of an FP16 file the
        precision in which each runtime computes it here
Params  data.*, export.*  (see DataParams, ExportParams)
Raises  InputError when no runtime is right; the ONNX file is then not written

A runtime or engine is right where its logits differ from PyTorch's by at most
export.logit_tolerance, or by a tenth of that share of the largest logit where this is above 10. The
others are left out from here on: the JSON says which, under "wrong_here".
"""

import argparse
import json
from pathlib import Path

from stages.common.building.checkpoint import Checkpoint, load_checkpoint
from stages.common.core.cli import run
from stages.common.core.files import replacing, write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, first_images, load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.export.check import (
    answers,
    compare_runtimes,
    precisions,
    rounding_error,
)
from stages.common.inference.export.fp16 import in_fp16
from stages.common.inference.export.onnx_export import INPUT, onnx_of
from stages.common.inference.params import FP16, ExportParams
from stages.common.inference.runtimes.agreement import print_wrong, require_one_right
from stages.common.inference.runtimes.onnx_files import WRONG
from stages.common.network.chain import Chain
from stages.common.network.network import Network
from stages.common.network.params import NetworkParams

ROUNDED = "computed_in_fp16"  # key of an FP16 file's JSON: what FP16 arithmetic costs
INPUT_DESCRIPTION = {
    "name": INPUT,
    "layout": "NCHW",
    "channels": "RGB",
    "type": "float32",
    "range": [0, 255],
}


def metadata_of(checkpoint: Checkpoint, images: Images) -> dict[str, str]:
    """The metadata that goes into the file, of a network for such images; each value is JSON."""
    assert "data_digest" in checkpoint.provenance, "a checkpoint names the data that made it"
    description = {**INPUT_DESCRIPTION, "size": images.shape[1:]}
    if images.info.resize:  # a device brings its pictures to size in the same way
        description["resize"] = images.info.resize
    content = {
        "classes": images.classes,
        "input": description,
        **structure(checkpoint.model),
        "provenance": checkpoint.provenance,
    }
    return {key: json.dumps(value, sort_keys=True) for key, value in content.items()}


def structure(model: Network) -> dict:
    """The chain's widths; of another network, what made it."""
    if isinstance(model, Chain):
        return {"widths": model.config["widths"]}
    return {"network": {key: model.config[key] for key in ("factory", "arguments")}}


def with_precisions(
    results: dict[str, dict], path: Path, model: Network, images: Images
) -> dict[str, dict]:
    """Of an FP16 file: also the precision in which each runtime computes it here, and what FP16
    arithmetic changes.
    """
    found = precisions(path, images)
    computed = {name: {**each, "computes_in": found[name]} for name, each in results.items()}
    return {**computed, ROUNDED: rounding_error(path, model, images)}


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
    source = load_params(NetworkParams, args.params, section="network")
    checkpoint = load_checkpoint(args.checkpoint, source.factory)
    _, validation = load_training_images(args.data, data_params)
    images = first_images(
        validation, params.check_images, "export.check_images", "data.validation_images"
    )
    metadata = metadata_of(checkpoint, images)
    metadata |= answers(checkpoint.model, params.logit_tolerance)
    model = onnx_of(checkpoint.model, params.opset, metadata)
    if params.precision == FP16:
        model = in_fp16(model)
    with replacing(args.onnx) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        results, wrong = compare_runtimes(
            temporary, checkpoint.model, images, params.logit_tolerance
        )
        require_one_right(
            {*results, *wrong},
            wrong,
            f"allowed by export.logit_tolerance: {params.logit_tolerance:g}; raise it if "
            "predictions still agree",
        )
        checked = results
        if params.precision == FP16:
            checked = with_precisions(results, temporary, checkpoint.model, images)
    print_wrong(wrong)
    size = args.onnx.stat().st_size
    checked = {**checked, **({WRONG: wrong} if wrong else {})}
    write_json(args.metrics, {**checked, "images": len(images), "size_bytes": size})
    worst = max(
        result["max_logit_difference"] for name, result in results.items() if name not in wrong
    )
    print(f"{args.onnx}: {size:,} bytes; runtimes within {worst:g} of PyTorch's logits")


if __name__ == "__main__":
    run(main)

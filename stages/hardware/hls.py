"""Make an FPGA design of a network with hls4ml, and measure the accuracy that fixed point costs.

The FP32 network is rounded to fixed point in several widths (hls_design/fixed_point.py). Formats
are chosen on training images, the width of the design on validation images: the narrowest that
loses at most hls.max_accuracy_drop points. The C++ of the design, compiled with g++, must equal our
own arithmetic bit for bit. So that arithmetic, which is faster, gives the accuracies of the other
widths and those on all test images.

Reads   an FP32 ONNX file, training, validation and test images (test: for accuracy alone)
Writes  hls4ml's project for Vitis HLS, a JSON of accuracies by width and of costs by reuse factor
Params  data.*, hls.*  (see DataParams, HLSParams)
Raises  InputError when hls4ml, QONNX or g++ is missing, or when every width loses too much
"""

import argparse
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_test_images, load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.layer_graph.chain import Chain, read_chain
from stages.hardware.hls_design.cost import cost_of
from stages.hardware.hls_design.design import BATCH_SIZE, percent_right, verified_design
from stages.hardware.hls_design.fixed_point import (
    FixedChain,
    fixed_chain,
    real_activations,
    real_logits,
)
from stages.hardware.hls_design.params import HLSParams
from stages.hardware.hls_design.project import Target, refuse_without_tools

BENCH_IMAGES = 10  # validation images for the project's own test


def fixed_chains(chain: Chain, pixels: np.ndarray, params: HLSParams) -> dict[int, FixedChain]:
    """The chain in every width; formats are chosen on ``pixels``."""
    activations = real_activations(chain, pixels)
    return {
        width: fixed_chain(chain, activations, width, params.first_layer_width)
        for width in params.widths
    }


def narrowest(validation: dict[int, float], reference: float, most: float) -> int:
    """The narrowest width that loses at most ``most`` points.

    ``validation``: accuracy on the validation images by width, ``reference``: of FP32, in percent.
    """
    for width, found in sorted(validation.items()):
        if reference - found <= most:
            return width
    widest = validation[max(validation)]
    raise InputError(
        f"every width of hls.widths loses more than {most:g} points on the validation images "
        f"(the widest has {widest:.2f} %, FP32 {reference:.2f} %); add a wider one, or raise "
        "hls.max_accuracy_drop"
    )


def fixed_accuracy(chain: FixedChain, images: Images) -> float:
    return percent_right(chain.logits(images.pixels, BATCH_SIZE), images)


def real_accuracy(chain: Chain, images: Images) -> float:
    return percent_right(real_logits(chain, images.pixels, BATCH_SIZE), images)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--onnx", type=Path, required=True, help="FP32 model")
    parser.add_argument("--project", type=Path, required=True, help="folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(HLSParams, args.params, section="hls")
    refuse_without_tools()
    chain = read_chain(args.onnx)
    training, validation = load_training_images(
        args.data, load_params(DataParams, args.params, section="data")
    )
    test = load_test_images(args.data)
    fixed = fixed_chains(chain, training.pixels[: params.calibration_images], params)
    reference = real_accuracy(chain, validation)
    by_width = {width: fixed_accuracy(each, validation) for width, each in fixed.items()}
    width = narrowest(by_width, reference, params.max_accuracy_drop)
    built = verified_design(
        fixed[width],
        Target(params.part, params.clock_ns, params.reuse_factor),
        args.project,
        images=test[: params.simulated_images],
        bench=validation[:BENCH_IMAGES],
    )
    metrics = {
        "design": built,
        "fp32": {"validation_accuracy": reference, "accuracy": real_accuracy(chain, test)},
        "widths": {
            str(each): {
                "validation_accuracy": by_width[each],
                "accuracy": fixed_accuracy(fixed[each], test),
            }
            for each in fixed
        },
        "reuse_factors": {
            str(factor): cost_of(fixed[width], factor) for factor in params.reuse_factors
        },
    }
    write_json(args.metrics, metrics)
    print(
        f"{args.project}: {width} bits, bit-exact on {built['simulated_images']:,} test images; "
        f"with Vitis: cd {args.project} && vitis-run --mode hls --tcl build_prj.tcl "
        "(before 2024.2: vitis_hls -f build_prj.tcl)"
    )


if __name__ == "__main__":
    run(main)

"""Make an FPGA design of a network with hls4ml, and measure what fixed-point numbers cost it.

The FP32 network is rounded to fixed point in several widths; hls_design/fixed_point.py says how.
The formats are chosen on training images, the width of the design on validation images: the
narrowest that loses at most hls.max_accuracy_drop points. Its C++, compiled with g++, must then
give the logits of our own arithmetic bit by bit; so the accuracies of the other widths, and those
on all test images, are computed by the latter, which is faster.

Reads   an FP32 ONNX file, training, validation and test images (the last ones for accuracy alone)
Writes  hls4ml's project for Vitis HLS, a JSON of accuracies by width and of costs by reuse factor
Params  data.*, hls.*  (see DataParams, HLSParams)
Raises  InputError when hls4ml, QONNX or g++ is missing, or when every width loses too much
"""

import argparse
import os
from pathlib import Path

import numpy as np

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json
from stages.common.core.params import load_params
from stages.common.data.cifar10 import DataParams, Images, load_test_images, load_training_images
from stages.common.inference.layer_chain import Chain, read_chain
from stages.hardware.hls_design.cost import cost_of
from stages.hardware.hls_design.fixed_point import (
    FixedChain,
    FixedLayer,
    fixed_chain,
    real_activations,
    real_logits,
)
from stages.hardware.hls_design.params import HLSParams
from stages.hardware.hls_design.project import (
    Target,
    refuse_without_tools,
    simulated_logits,
    write_project,
    write_test_bench,
)

BATCH_SIZE = 100  # it bounds memory and shapes no result
BENCH_IMAGES = 10  # validation images for the project's own test


def fixed_chains(chain: Chain, pixels: np.ndarray, params: HLSParams) -> dict[int, FixedChain]:
    """By width; formats chosen on ``pixels``."""
    activations = real_activations(chain, pixels)
    return {
        width: fixed_chain(chain, activations, width, params.first_layer_width)
        for width in params.widths
    }


def narrowest(validation: dict[int, float], reference: float, most: float) -> int:
    """Of the widths, by their accuracy on the validation images, in percent."""
    for width, found in sorted(validation.items()):
        if reference - found <= most:
            return width
    raise InputError(
        f"every width of hls.widths loses more than {most:g} points on the validation images "
        f"(the widest has {found:.2f} %, FP32 {reference:.2f} %); add a wider one, or raise "
        "hls.max_accuracy_drop"
    )


def right(logits: np.ndarray, images: Images) -> float:
    return round(accuracy(logits.argmax(axis=1), images.labels), 2)


def design(chain: FixedChain, target: Target, folder: Path, images: Images, bench: Images) -> dict:
    """Write the project and simulate it; nothing is reported that computes something else."""
    factors = write_project(chain, target, folder)
    cost = cost_of(chain, target.reuse_factor)
    low_high = [cost["reuse_factor_low"], cost["reuse_factor_high"]]
    assert [min(factors), max(factors)] == low_high, "hls4ml allows other reuse factors"
    write_test_bench(folder, bench.pixels, chain.logits(bench.pixels, BATCH_SIZE))
    classes = chain.layers[-1].layer.shape[0]
    found = simulated_logits(folder, images.pixels, classes, processes=os.cpu_count())
    differing = int((found != chain.logits(images.pixels, BATCH_SIZE)).sum())
    assert differing == 0, f"{differing} of {found.size} logits are not those of our arithmetic"
    return {
        "width": chain.width,
        "reuse_factor": target.reuse_factor,
        "simulated_images": len(images),
        "simulated_accuracy": right(found, images),
        "logits": found.size,
        "logits_differing": differing,
        "formats": [formats_of(fixed) for fixed in chain.layers if fixed.weight is not None],
    }


def formats_of(fixed: FixedLayer) -> dict[str, str]:
    """Of what the layer has; the sums of the last one are kept in full, and so its output."""
    forms = {"weight": fixed.weight, "bias": fixed.bias, "output": fixed.output}
    return {name: str(form) for name, form in forms.items() if form is not None}


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
    reference = real_logits(chain, validation.pixels, BATCH_SIZE)
    chosen_on = {
        width: right(each.logits(validation.pixels, BATCH_SIZE), validation)
        for width, each in fixed.items()
    }
    width = narrowest(chosen_on, right(reference, validation), params.max_accuracy_drop)
    target = Target(params.part, params.clock_ns, params.reuse_factor)
    built = design(
        fixed[width],
        target,
        args.project,
        images=test[: params.simulated_images],
        bench=validation[:BENCH_IMAGES],
    )
    metrics = {
        "design": built,
        "fp32": {
            "validation_accuracy": right(reference, validation),
            "accuracy": right(real_logits(chain, test.pixels, BATCH_SIZE), test),
        },
        "widths": {
            str(each): {
                "validation_accuracy": chosen_on[each],
                "accuracy": right(fixed[each].logits(test.pixels, BATCH_SIZE), test),
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

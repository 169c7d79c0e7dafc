"""A design of a fixed-point network: the project written, and its C++ verified bit for bit."""

import os
from pathlib import Path

import numpy as np

from stages.common.core.accuracy import accuracy
from stages.common.data.dataset import Images
from stages.hardware.hls_design.cost import cost_of
from stages.hardware.hls_design.fixed_point import FixedChain, FixedLayer
from stages.hardware.hls_design.project import (
    Target,
    simulated_logits,
    write_project,
    write_test_bench,
)

BATCH_SIZE = 100  # it bounds memory and shapes no result


def verified_design(
    chain: FixedChain, target: Target, folder: Path, images: Images, bench: Images
) -> dict:
    """Write the project and simulate it on ``images``; return the figures of the design.

    ``bench``: images for the project's own test. An assertion fails where the C++ does not give the
    logits of our arithmetic.
    """
    factors = write_project(chain, target, folder)
    cost = cost_of(chain, target.reuse_factor)
    low_high = [cost["reuse_factor_low"], cost["reuse_factor_high"]]
    assert [min(factors), max(factors)] == low_high, "hls4ml allows other reuse factors"
    write_test_bench(folder, bench.pixels, chain.logits(bench.pixels, BATCH_SIZE))
    classes = chain.layers[-1].layer.shape[0]
    found = simulated_logits(folder, images.pixels, classes, processes=os.cpu_count() or 1)
    differing = int((found != chain.logits(images.pixels, BATCH_SIZE)).sum())
    assert differing == 0, f"{differing} of {found.size} logits are not those of our arithmetic"
    return {
        "width": chain.width,
        "reuse_factor": target.reuse_factor,
        "simulated_images": len(images),
        "simulated_accuracy": percent_right(found, images),
        "logits": found.size,
        "logits_differing": differing,
        "formats": [formats_of(fixed) for fixed in chain.layers if fixed.weight is not None],
    }


def formats_of(fixed: FixedLayer) -> dict[str, str]:
    """The formats that the layer has; the last one's sums are kept in full, so it has no output."""
    forms = {"weight": fixed.weight, "bias": fixed.bias, "output": fixed.output}
    return {name: str(form) for name, form in forms.items() if form is not None}


def percent_right(logits: np.ndarray, images: Images) -> float:
    return round(accuracy(logits.argmax(axis=1), images.labels), 2)

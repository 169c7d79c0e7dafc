"""A synthetic profile: tables whose every entry the tests know."""

from itertools import pairwise

import numpy as np

from stages.common.pruning.latency.model import FORMAT

STEP = 8


def profile(
    widths: list[list[int]], engines: dict[str, float] | None = None, seed: int = 0
) -> dict:
    """Random tables without order: wider may be faster. ``engines``: what each multiplies them by.

    INT8 takes half the time of FP32.
    """
    rng = np.random.default_rng(seed)
    sizes = [1, *(width // STEP for block in widths for width in block), 1]
    tables = [rng.uniform(0.01, 0.1, size=shape).round(4) for shape in pairwise(sizes)]
    fitted = {
        precision: {
            engine: {
                "constant_ms": 0.05,
                "layers_ms": [(share * times * table).tolist() for table in tables],
            }
            for engine, times in (engines or {"new": 1.0}).items()
        }
        for precision, share in (("fp32", 1.0), ("int8", 0.5))
    }
    return {"format": FORMAT, "device": "test", "step": STEP, "widths": widths, "fitted": fitted}


def smooth_profile(widths: list[list[int]]) -> dict:
    """Time is MACs at every layer's own resolution, but free up to 16 channels: a cliff."""
    content = profile(widths)
    flat = [width for block in widths for width in block]
    inputs = [[24], *([*range(STEP, width + 1, STEP)] for width in flat)]
    outputs = [*inputs[1:], [10]]
    positions = [961, 225, 225, 49, 49, 9, 1]
    tables = [
        [[1e-7 * 9 * count * max(a, 16) * max(b, 16) for b in after] for a in before]
        for before, after, count in zip(inputs, outputs, positions, strict=True)
    ]
    for precision in content["fitted"].values():
        precision["new"]["layers_ms"] = tables
    return content

"""A figure of every variant on one platform, and how it was found; lower is better."""

import math
from dataclasses import dataclass

CPU, NPU, FPGA, ASIC = PLATFORMS = ("CPU", "NPU", "FPGA", "ASIC")
KINDS = ("time", "memory", "multipliers", "arithmetic", "energy")
VARIANTS = {  # in the order of tables and pictures; a quantity may lack some of them
    "base": "base",
    "pruned": "structured",
    "unstructured": "unstructured",
    "base_int8": "INT8",
    "pruned_int8": "structured INT8",
    "unstructured_int8": "unstructured INT8",
}


@dataclass(frozen=True)
class Quantity:
    """``values`` by variant (see ``VARIANTS``), in ``unit``; lower is better for all of them."""

    platform: str
    kind: str
    name: str
    unit: str
    found: str  # measured, simulated, synthesized, counted, or estimated
    values: dict[str, float]

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        assert self.platform in PLATFORMS, self.platform
        assert self.values, f"{self.name}: no values"
        assert self.values.keys() <= VARIANTS.keys(), f"{self.name}: {self.values.keys()}"
        assert all(math.isfinite(value) and value > 0 for value in self.values.values()), self

    @property
    def reference(self) -> str:
        """The first variant with a value: "base", or "base_int8" where FP32 does not run."""
        return next(variant for variant in VARIANTS if variant in self.values)

    def ratio(self, variant: str, to: str = "") -> float:
        """The variant's value as a multiple of another's, or of the reference's."""
        return self.values[variant] / self.values[to or self.reference]

    def shown(self, variant: str, to: str = "") -> str:
        return two_digits(self.ratio(variant, to))


def two_digits(ratio: float) -> str:
    """Two significant digits below 1, at least two decimals."""
    return f"{ratio:.3f}" if ratio < 0.1 else f"{ratio:.2f}"

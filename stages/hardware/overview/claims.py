"""Common claims on pruning and quantization in hardware, judged by figures.

Each claim is judged by all ratios that measure what it says, chosen before their values were known.
"""

from dataclasses import dataclass

from stages.hardware.overview.quantities import Quantity

Pair = tuple[str, str]  # a variant, and the one it is compared with
CHANNELS: tuple[Pair, ...] = (("pruned", "base"), ("pruned_int8", "base_int8"))
ZEROS: tuple[Pair, ...] = (("unstructured", "base"), ("unstructured_int8", "base_int8"))
INT8: tuple[Pair, ...] = (("base_int8", "base"), ("pruned_int8", "pruned"))
# Claim, the kinds of quantities that it is about, the comparisons that judge it.
CLAIMS: tuple[tuple[str, tuple[str, ...], tuple[Pair, ...]], ...] = (
    ("Pruning needs fewer multipliers", ("multipliers",), CHANNELS + ZEROS),
    ("Pruning needs smaller memories", ("memory",), CHANNELS + ZEROS),
    ("Pruning gives higher throughput", ("time",), CHANNELS + ZEROS),
    ("Pruning saves energy", ("energy",), CHANNELS + ZEROS),
    ("INT8 arithmetic is smaller", ("arithmetic",), INT8[:1]),
    ("INT8 is faster", ("time",), INT8),
    ("INT8 needs smaller memories", ("memory",), INT8),
    ("INT8 saves energy", ("energy",), INT8),
    ("Sparse models map well on hardware", ("time", "memory", "energy"), ZEROS),
)


@dataclass(frozen=True)
class Evidence:
    """One ratio that judges a claim: ``variant`` as a multiple of ``to``."""

    quantity: Quantity
    variant: str
    to: str

    @property
    def ratio(self) -> float:
        return self.quantity.ratio(self.variant, self.to)

    def holds(self, noise: float) -> bool:
        return self.ratio < 1 - noise


@dataclass(frozen=True)
class Claim:
    """A claim, the kinds of quantities that it is about, and the ratios that judge it."""

    text: str
    kinds: tuple[str, ...]
    evidence: tuple[Evidence, ...]

    def verdict(self, noise: float) -> str:
        """confirmed: every ratio is below 1 by more than the noise; refuted: none; else
        conditional.
        """
        holding = sum(each.holds(noise) for each in self.evidence)
        if holding == len(self.evidence):
            return "confirmed"
        return "conditional" if holding else "refuted"


def claims_of(quantities: list[Quantity]) -> list[Claim]:
    """Every claim with all evidence that the quantities hold."""
    claims = []
    for text, kinds, pairs in CLAIMS:
        evidence = tuple(
            Evidence(quantity, variant, to)
            for quantity in quantities
            if quantity.kind in kinds
            for variant, to in pairs
            if {variant, to} <= quantity.values.keys()
        )
        assert evidence, f"no figure judges '{text}'"
        claims.append(Claim(text, kinds, evidence))
    return claims

"""What is often said of pruning and quantization in hardware, judged by figures.

The sentences are those of the chapter that this project grew from. Each is judged by ratios that
were chosen before they were known: all that measure what the sentence speaks of.
"""

from dataclasses import dataclass

from stages.hardware.overview.quantities import VARIANTS, Quantity

Pair = tuple[str, str]  # a variant, and what it is compared with
CHANNELS: tuple[Pair, ...] = (("pruned", "base"), ("pruned_int8", "base_int8"))
ZEROS: tuple[Pair, ...] = (("unstructured", "base"), ("unstructured_int8", "base_int8"))
INT8: tuple[Pair, ...] = (("base_int8", "base"), ("pruned_int8", "pruned"))


@dataclass(frozen=True)
class Evidence:
    """One ratio by which a claim is judged."""

    quantity: Quantity
    variant: str
    to: str  # compared with

    @property
    def ratio(self) -> float:
        return self.quantity.ratio(self.variant, self.to)

    def holds(self, noise: float) -> bool:
        return self.ratio < 1 - noise

    def __str__(self) -> str:
        return f"{VARIANTS[self.variant]} {self.quantity.shown(self.variant, self.to)}"


@dataclass(frozen=True)
class Claim:
    """A sentence, and the ratios that it is judged by."""

    text: str
    evidence: tuple[Evidence, ...]

    def verdict(self, noise: float) -> str:
        """confirmed: every ratio is below 1 by more than the noise; refuted: none; else
        conditional.
        """
        holding = sum(each.holds(noise) for each in self.evidence)
        if holding == len(self.evidence):
            return "confirmed"
        return "conditional" if holding else "refuted"


# What is said, the kinds of quantities that it speaks of, and what is compared.
SAID: tuple[tuple[str, tuple[str, ...], tuple[Pair, ...]], ...] = (
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


def claims_of(quantities: list[Quantity]) -> list[Claim]:
    """Every claim with all evidence that the quantities hold."""
    claims = []
    for text, kinds, pairs in SAID:
        evidence = tuple(
            Evidence(quantity, variant, to)
            for quantity in quantities
            if quantity.kind in kinds
            for variant, to in pairs
            if {variant, to} <= quantity.values.keys()
        )
        assert evidence, f"nothing speaks of '{text}'"
        claims.append(Claim(text, evidence))
    return claims


def in_words(evidence: list[Evidence]) -> str:
    """The ratios, grouped by what they are of: 'CPU model file (structured 0.22, ...); ...'."""
    groups: dict[str, list[str]] = {}
    for each in evidence:
        place = f"{each.quantity.platform} {each.quantity.name}"
        groups.setdefault(place, []).append(str(each))
    return "; ".join(f"{place} ({', '.join(ratios)})" for place, ratios in groups.items())

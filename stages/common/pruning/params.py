"""The params section 'prune', and which of its values contradict each other."""

import math
from dataclasses import dataclass

from stages.common.core.cli import InputError
from stages.common.core.params import (
    channel_widths,
    number,
    one_of,
    recorded,
    whole,
    with_stored_names,
)
from stages.common.network.params import CHAIN

BYTES = ("flash", "ram")  # targets that are bytes on a microcontroller


@dataclass(frozen=True)
class PruneParams:
    """How much is removed, in how many steps, and how the rest is fine-tuned."""

    seed: int = whole(at_least=0)
    method: str = one_of("structured", "unstructured")
    target: str = one_of("macs", "params", "latency", *BYTES)
    amount: float = number(at_least=0, below=1)
    budget_ms: float = number(at_least=0)
    precision: str = one_of("fp32", "int8", usual="fp32")
    budget_bytes: int = whole(at_least=0, usual=0)
    widths: list = channel_widths(fewest_blocks=0)
    importance: str = one_of("taylor", "magnitude", "random")
    allocation: str = one_of("global", "uniform", "proportional")
    proportions: list = channel_widths(fewest_blocks=0)
    round_to: int = whole(at_least=1, at_most=256)
    steps: int = whole(at_least=1)
    epochs_between: int = whole(at_least=0)
    epochs: int = whole(at_least=0)
    batch_size: int = whole(at_least=2)
    learning_rate: float = number(at_least=0)
    warmup: float = number(at_least=0, below=1)
    mixup_share: float = number(at_least=0, at_most=1)
    mixup_views: int = whole(at_least=1, at_most=1000)
    distillation: float = number(at_least=0, at_most=1)
    temperature: float = number(at_least=0.1)
    device: str = one_of("auto", "cpu", "cuda", "mps")

    def needs_latency(self) -> bool:
        return self.target == "latency" or self.budget_ms > 0

    def counts_bytes(self) -> bool:
        return self.target in BYTES

    def names_a_size(self) -> bool:
        """Whether the size to reach is named, so that the amount is not read."""
        return bool(self.budget_ms or self.budget_bytes or self.widths)

    def asked(self) -> str:
        """How much is to be removed, for the printed line."""
        if self.widths:
            return "prune.widths"
        if self.budget_bytes:
            return f"{self.budget_bytes:,} bytes"
        return f"{self.budget_ms:g} ms" if self.budget_ms else f"{self.amount:g}"

    def provenance(self) -> dict:
        """The params as a checkpoint states them; those of mixup only where it is used."""
        values = recorded(self)
        if not self.mixup_share:
            values = {key: value for key, value in values.items() if "mixup" not in key}
        return with_stored_names("prune", values)

    def mixup_epochs(self, epochs: int) -> int:
        """How many of so many epochs are on mixtures: the first ones, rounded down.

        A short fine-tuning thus ends on plain views as well, and a single epoch is plain.
        """
        return math.floor(round(self.mixup_share * epochs, 6))  # 0.29 * 100 is 28.999...

    def plain_epochs(self) -> int:
        """The epochs of all steps that are not on mixtures."""
        epochs = [*[self.epochs_between] * (self.steps - 1), self.epochs]
        return sum(each - self.mixup_epochs(each) for each in epochs)

    def most_mixup_epochs(self) -> int:
        """The epochs on mixtures of the step that has most of them."""
        between = self.epochs_between if self.steps > 1 else 0
        return self.mixup_epochs(max(self.epochs, between))


def refuse_contradictions(params: PruneParams) -> None:
    """Raise ``InputError`` where two params exclude each other."""
    if params.method == "unstructured" and params.needs_latency():
        raise InputError(
            "prune.method is unstructured, but zeros in place save no time: prune.target latency "
            "and prune.budget_ms need prune.method structured"
        )
    if params.precision == "int8" and not params.needs_latency():
        raise InputError(
            "prune.precision is int8, but no milliseconds are asked for: set it to fp32, or say by "
            "prune.target latency or prune.budget_ms how few"
        )
    if params.method == "unstructured" and params.widths:
        raise InputError(
            "prune.method is unstructured, but zeros in place change no width: prune.widths needs "
            "prune.method structured"
        )
    refuse_contradicting_bytes(params)
    if params.budget_ms and params.widths:
        raise InputError(
            "prune.budget_ms and prune.widths both say how much to keep: set budget_ms to 0, or "
            "widths to []"
        )


def refuse_contradicting_bytes(params: PruneParams) -> None:
    """The same of what counts bytes on a microcontroller."""
    if params.counts_bytes() and params.method == "unstructured":
        raise InputError(
            f"prune.method is unstructured, but zeros in place save no bytes: prune.target "
            f"{params.target} needs prune.method structured"
        )
    if params.counts_bytes() and params.budget_ms:
        raise InputError(
            f"prune.target is {params.target}, but prune.budget_ms counts milliseconds: set "
            "budget_ms to 0, and say by budget_bytes or amount how much to remove"
        )
    if params.budget_bytes and not params.counts_bytes():
        raise InputError(
            f"prune.budget_bytes counts bytes, but prune.target is {params.target}: set target to "
            "flash or ram, or budget_bytes to 0"
        )
    if params.budget_bytes and params.widths:
        raise InputError(
            "prune.budget_bytes and prune.widths both say how much to keep: set budget_bytes to 0, "
            "or widths to []"
        )


def refuse_chain_only(params: PruneParams, factory: str) -> None:
    """Raise ``InputError`` for params of the chain where another network is pruned."""
    if factory == CHAIN:
        return
    if params.widths:
        raise InputError(
            f"prune.widths is for the chain, but network.factory is {factory}: set it to [], and "
            "say by prune.amount or a budget how much to remove"
        )
    if params.precision == "int8":
        raise InputError(
            f"prune.precision is int8, which a profile of the chain predicts, but network.factory "
            f"is {factory}, whose FP32 milliseconds are measured: set it to fp32"
        )
    if params.method == "structured" and params.allocation == "proportional":
        raise InputError(
            "prune.allocation is proportional, which is for the chain, but network.factory is "
            f"{factory}: set it to uniform or global"
        )


def refuse_other_shapes(params: PruneParams, base: list[list[int]]) -> None:
    """Raise ``InputError`` where prune.widths or prune.proportions do not fit the base's widths."""
    ranked = params.method == "structured" and params.target != "latency"
    if params.widths:
        require_narrower(params.widths, base)
    elif ranked and params.allocation == "proportional":
        require_proportions(params.proportions, base)


def require_narrower(widths: list[list[int]], base: list[list[int]]) -> None:
    """Raise ``InputError`` unless every layer of the base has as many channels as are to stay."""
    if not no_wider(widths, base):
        raise InputError(
            f"prune.widths is {widths}, the base has {base}; expected as many blocks and "
            "convolutions, and none of them wider"
        )


def require_proportions(proportions: list[list[int]], base: list[list[int]]) -> None:
    """Raise ``InputError`` unless there is a proportion for every convolution."""
    if not same_layers(proportions, base):
        raise InputError(
            f"prune.proportions is {proportions}, the base has {base}; with prune.allocation "
            "proportional as many blocks and convolutions are expected (prune.allocation uniform "
            "or global needs none)"
        )


def same_layers(widths: list[list[int]], others: list[list[int]]) -> bool:
    """As many blocks, and in each as many convolutions."""
    return [len(block) for block in widths] == [len(block) for block in others]


def no_wider(widths: list[list[int]], base: list[list[int]]) -> bool:
    """The same layers, and none with more channels."""
    return same_layers(widths, base) and all(
        kept <= whole for kept, whole in zip(flat(widths), flat(base), strict=True)
    )


def flat(blocks: list[list[int]]) -> list[int]:
    """[[1, 2], [3]] -> [1, 2, 3]."""
    return [each for block in blocks for each in block]

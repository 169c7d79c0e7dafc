"""Section 'network' of params.yaml, importable without torch."""

import difflib
from dataclasses import dataclass
from typing import Any

from stages.common.core.cli import InputError
from stages.common.core.params import rule, text, texts

CHAIN = "chain"
NONE = "none"
DATA = "data"
TORCHVISION = "torchvision:"


def split_name(name: str) -> tuple[str, str]:
    """'package.module:function' -> its two parts."""
    module, _, attribute = name.partition(":")
    return module, attribute


def is_factory(value: Any) -> bool:
    """'torchvision:NAME' or 'package.module:function'."""
    if not isinstance(value, str):
        return False
    module, attribute = split_name(value)
    return bool(attribute) and all(
        part.isidentifier() for part in [*module.split("."), *attribute.split(".")]
    )


def factory(*words: str) -> Any:
    """A field that names a factory, or is one of the words."""
    return rule(
        lambda value: value in words or is_factory(value),
        f"{' or '.join(words)} or torchvision:NAME or package.module:function",
    )


def arguments() -> Any:
    """A field of keyword arguments: plain values by name."""
    return rule(
        lambda value: (
            isinstance(value, dict)
            and all(isinstance(key, str) and key.isidentifier() for key in value)
            and "num_classes" not in value
        ),
        "keyword arguments, such as {width_mult: 0.5}, or {}; num_classes is known from the data",
    )


def normalization() -> Any:
    """A field: 'data', or the mean (whole, of all colours) and deviation that weights expect."""
    return rule(
        lambda value: (
            value == DATA
            or (
                isinstance(value, list)
                and len(value) == 2
                and type(value[0]) is int
                and 0 <= value[0] <= 255
                and type(value[1]) in (int, float)
                and 1 <= value[1] <= 255
            )
        ),
        "data, or [mean, deviation] in 0-255, the mean whole, such as [127, 128]",
        usual=DATA,
    )


@dataclass(frozen=True)
class NetworkParams:
    """The network that is trained, pruned and deployed."""

    factory: str = factory(CHAIN)
    arguments: dict = arguments()
    code: str = text()
    weights: str = text()
    weights_sha256: str = text()
    normalization: str | list = normalization()
    keep_whole: list = texts()

    @property
    def imported(self) -> bool:
        """Whether a factory makes it; else it is the chain of train.widths."""
        return self.factory != CHAIN


def require_layers(known: list[str], names: list[str]) -> None:
    """Raise ``InputError``, with the nearest name, for a layer that the network lacks."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise InputError(
                f"network.keep_whole: the network has no layer '{name}'; nearest: '{near}'"
            )

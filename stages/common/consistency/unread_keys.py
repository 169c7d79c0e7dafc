"""Keys of params.yaml that nothing reads, because of the value of another key.

One with a neutral value is refused at any other. The others, such as the widths of the chain, may
stay as they are where the chain is not used: a line names them.
"""

from collections.abc import Iterator
from typing import Any

from stages.common.consistency.image_counts import value_of
from stages.common.core.cli import InputError
from stages.common.network.params import CHAIN, DATA, NONE

OF_PHOTOS = {
    "data.path": "examples/photos",
    "data.bad_files": "refuse",
}
OF_OTHER_SOURCES = {
    **OF_PHOTOS,
    "data.resize": "crop",
    "data.validation_share": 0.15,
    "data.test_share": 0.15,
    "data.split_seed": 0,
}
OF_OTHER_NETWORKS = {
    "network.arguments": {},
    "network.weights": "",
    "network.weights_sha256": "",
    "network.normalization": DATA,
    "network.keep_whole": [],
    "train.frozen_epochs": 0,
}
OF_TRAINING_OTHER_NETWORKS = {
    "recipe.optimizer": "muon",
    "recipe.body_rate": 1.0,
    "recipe.frozen_norms": False,
}
OF_CHAINS = ("recipe.bias_rate", "recipe.head_rate")
OF_THE_CHAIN = ("train.widths", "train.whitening_bias_epochs", "prune.proportions")


def refuse_unread_keys(params: dict[str, Any]) -> None:
    """Raise ``InputError`` for the first key that is set and that nothing reads; ``params`` by
    section.
    """
    for because, keys in with_neutral_value(params):
        for key, neutral in keys.items():
            if (found := value_of(key, params)) != neutral:
                raise InputError(
                    f"{key} is {found!r}, but nothing reads it while {because} is "
                    f"{value_of(because, params)!r}: change {because}, or set {key} to {neutral!r}"
                )


def with_neutral_value(params: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key that is the reason, and the neutral values of the keys that are not read."""
    source = params["data"].source
    if source == "cifar10":
        yield "data.source", OF_OTHER_SOURCES
    elif source != "folder":
        yield "data.source", OF_PHOTOS
    if source != "cifar10":
        yield "data.source", {"prepare.local_path": ""}
    elif "local" not in params["prepare"].sources:
        yield "prepare.sources", {"prepare.local_path": ""}
    kinds = kinds_of_networks(params)
    if not params["network"].imported:
        yield "network.factory", OF_OTHER_NETWORKS
    if kinds == {CHAIN}:
        yield "network.factory", OF_TRAINING_OTHER_NETWORKS
    if not params["network"].weights:
        yield "network.weights", {"network.weights_sha256": ""}
    if params["teach"].factory in (CHAIN, NONE):
        yield "teach.factory", {"teach.arguments": {}}


def notes_on_unread_keys(params: dict[str, Any]) -> list[str]:
    """A line for each reason why keys without a neutral value are not read."""
    return [
        f"not read while {because} is {value_of(because, params)}: {', '.join(keys)}"
        for because, keys in without_neutral_value(params)
    ]


def without_neutral_value(params: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The key that is the reason, and the keys that are not read."""
    kinds, recipe = kinds_of_networks(params), params["recipe"]
    if params["network"].imported:
        yield "network.factory", OF_THE_CHAIN if CHAIN in kinds else (*OF_THE_CHAIN, *OF_CHAINS)
    if CHAIN not in kinds and recipe.optimizer == "adamw":
        yield "recipe.optimizer", ("recipe.momentum", "recipe.sgd_momentum")
    if CHAIN not in kinds and recipe.optimizer == "sgd":
        yield "recipe.optimizer", ("recipe.momentum",)
    if params["teach"].factory not in (CHAIN, NONE):
        yield "teach.factory", ("teach.widths", "teach.whitening_bias_epochs")
    if params["prune"].method == "unstructured":
        yield "prune.method", ("prune.importance", "prune.round_to")


def kinds_of_networks(params: dict[str, Any]) -> set[str]:
    """The factories of base and teacher."""
    return {params["network"].factory, params["teach"].factory} - {NONE}

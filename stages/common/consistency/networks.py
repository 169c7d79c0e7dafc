"""Whether the networks of base and teacher take the images, and pruning the network."""

from typing import TYPE_CHECKING, Any

from stages.common.core.cli import InputError
from stages.common.data.params import refuse_image_size
from stages.common.network.params import CHAIN, NONE
from stages.common.pruning.params import PruneParams, refuse_chain_only, refuse_other_shapes
from stages.common.training.params import refuse_missing_teacher

if TYPE_CHECKING:
    from stages.common.network.imported import ImportedNetwork

IMAGE_SIZE = [32, 32]  # of the profiles in deploy/profiles


def check_networks(params: dict[str, Any]) -> None:
    """The networks of base and teacher must be there, and take the images; ``params`` by section.

    One that a factory makes is built and run, its weights read, which takes torch: seconds.
    """
    network, teach, size = params["network"], params["teach"], params["data"].image_size
    if chain_blocks := blocks_of_chains(params):
        refuse_image_size(size, chain_blocks)
    refuse_missing_teacher(teach, params["train"])
    if network.imported:
        from stages.common.building.check import refuse_network

        refuse_unprunable(refuse_network(network, size), params["prune"], network.keep_whole)
    if teach.factory not in (CHAIN, NONE):
        from stages.common.building.check import refuse_untracked, tried

        tried(teach.factory, teach.arguments, size)
        refuse_untracked(teach.factory, network.code)


def refuse_unprunable(
    network: "ImportedNetwork", prune: PruneParams, keep_whole: list[str]
) -> None:
    """Raise ``InputError`` for a network of which no channels can be removed, where some are to."""
    if prune.method == "structured":
        from stages.common.pruning.groups import channel_groups

        channel_groups(network, keep_whole=keep_whole)


def blocks_of_chains(params: dict[str, Any]) -> dict[str, int]:
    """The number of blocks by the key of the widths, of base and teacher where they are chains."""
    factories = {"train": params["network"].factory, "teach": params["teach"].factory}
    return {
        f"{section}.widths": len(params[section].widths)
        for section, factory in factories.items()
        if factory == CHAIN
    }


def check_pruning(params: dict[str, Any]) -> None:
    """Section prune must ask for something that the network allows; ``params`` by section."""
    prune, network = params["prune"], params["network"]
    if network.imported:
        refuse_chain_only(prune, network.factory)
        return
    refuse_other_shapes(prune, params["train"].widths)
    refuse_unprofiled(prune, params["data"].image_size)


def refuse_unprofiled(prune: PruneParams, size: list[int]) -> None:
    """The layers in deploy/profiles were timed on the shapes that images of 32x32 pixels give."""
    if prune.needs_latency() and size != IMAGE_SIZE:
        raise InputError(
            f"prune counts milliseconds of a profile for images of {IMAGE_SIZE}, but "
            f"data.image_size is {size}; let prune.target count macs or params, without budget_ms"
        )

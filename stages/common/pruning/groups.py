"""A network as groups of channels: what they are called, and which stay whole.

In the chain the output channels of every 3x3 convolution are a group; the whitening layer and the
classes stay whole. In any other network a group are the channels that must go together (see
``couplings.py``); the output layer and the layers of ``network.keep_whole`` keep their outputs.
"""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import nn
from torch_pruning import DependencyGraph

from stages.common.core.cli import InputError
from stages.common.network.chain import Chain
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.network.params import require_layers
from stages.common.pruning.couplings import (
    Coupling,
    couplings_of,
    dependency_graph,
    network_name,
)
from stages.common.pruning.plan.ranking import Group

BODY = "body."  # of an ImportedNetwork: before the names that its factory gives to the layers

# ----------------------------------------------------------------------------------------- groups


def channel_groups(
    model: Network, graph: DependencyGraph | None = None, keep_whole: Sequence[str] = ()
) -> list[Group]:
    """The groups in the order of their first layers, all channels of the same importance.

    Raises ``InputError`` for a network that Torch-Pruning does not understand, for a name in
    ``keep_whole`` that no layer has, and where no channels are left that can be pruned.
    """
    if isinstance(model, Chain):
        return chain_groups(model)
    assert isinstance(model, ImportedNetwork)
    whole = {model.output_layer(), *layers_named(model, keep_whole)}
    couplings = couplings_of(model, graph or dependency_graph(model), whole)
    if not couplings:
        raise InputError(
            f"no channels of {network_name(model)} can be pruned; shorten network.keep_whole or "
            "choose another network.factory"
        )
    return [
        Group(
            name=name,
            importance=np.ones(coupling.width // coupling.channels_each, dtype=np.float32),
            layers=coupling.layers,
            channels_each=coupling.channels_each,
        )
        for name, coupling in zip(group_names(couplings), couplings, strict=True)
    ]


def chain_groups(model: Chain) -> list[Group]:
    names = {layer: name for name, layer in model.named_modules()}
    return [
        Group(
            name=f"block{number}.conv{index}",
            importance=np.ones(convolution.out_channels, dtype=np.float32),
            layers=(names[convolution],),
        )
        for number, block in enumerate(model.layers(), 1)
        for index, (convolution, _) in enumerate(block, 1)
    ]


def layers_named(model: ImportedNetwork, names: Sequence[str]) -> list[nn.Module]:
    """The layers with these names, and all that they contain.

    Raises ``InputError`` for a name that no layer has.
    """
    known = {name: layer for name, layer in model.body.named_modules() if name}
    require_layers(list(known), list(names))
    return [layer for name in names for layer in known[name].modules()]


def convolutions(model: Network, keep_whole: Sequence[str] = ()) -> list[nn.Conv2d]:
    """The convolutions whose weights may become 0: the chain's 3x3 convolutions, in the order of
    its groups; of another network all but its output layer and those that are kept whole.
    """
    if isinstance(model, Chain):
        return [convolution for block in model.layers() for convolution, _ in block]
    assert isinstance(model, ImportedNetwork)
    whole = {model.output_layer(), *layers_named(model, keep_whole)}
    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    return [layer for layer in layers if layer not in whole]


# ------------------------------------------------------------------------------------------ names


def group_names(couplings: list[Coupling]) -> list[str]:
    """A different name for each: that of its first layer, or that of its residual stream.

    'layer2 residual stream' where no other lies in layer2; else 'features.2 to features.3 residual
    stream'; else 'residual stream of features.2.conv.2'.
    """
    candidates = [stream_names(each) for each in couplings]
    tallies = [Counter(names) for names in zip(*candidates, strict=True)]
    return [
        next(name for name, tally in zip(names, tallies, strict=True) if name and tally[name] == 1)
        for names in candidates
    ]


def stream_names(coupling: Coupling) -> tuple[str, str, str]:
    """From the shortest to one that no other coupling has; '' where there is none."""
    layers = [shown_name(layer) for layer in coupling.layers]
    if not coupling.added or len(layers) == 1:
        return "", "", layers[0]
    parts = [layer.split(".") for layer in (layers[0], layers[-1])]
    shared = os.path.commonprefix([layer.split(".") for layer in layers])
    first, last = (".".join(each[: len(shared) + 1]) for each in parts)
    return (
        f"{'.'.join(shared)} residual stream" if shared else "",
        f"{first} to {last} residual stream",
        f"residual stream of {layers[0]}",
    )


def shown_name(layer: str) -> str:
    """The name that the factory gives to a layer."""
    return layer.removeprefix(BODY)


def coupled_layers(groups: list[Group]) -> dict[str, list[str]]:
    """The groups of more than one layer, with their layers' names."""
    return {
        group.name: [shown_name(layer) for layer in group.layers]
        for group in groups
        if len(group.layers) > 1
    }

"""The network that params.yaml names, tried before any work."""

from pathlib import Path

from stages.common.building.pretrained import load_pretrained
from stages.common.core.cli import InputError
from stages.common.network.factories import require_runs, source_file
from stages.common.network.imported import ImportedNetwork
from stages.common.network.params import NetworkParams, require_layers

TRIED_CLASSES = 2  # any number: how many there are is known after prepare


def refuse_network(params: NetworkParams, image_size: list[int]) -> ImportedNetwork:
    """The network of a factory, untrained.

    Raises ``InputError`` for a factory that is not there or takes no such arguments or images, one
    whose file is no DVC dependency, weights that are missing or of another network, and layers
    that it lacks.
    """
    network = tried(params.factory, params.arguments, image_size)
    refuse_untracked(params.factory, params.code)
    if params.weights:
        load_pretrained(network, params)
    require_layers([name for name, _ in network.body.named_modules() if name], params.keep_whole)
    return network


def tried(factory: str, arguments: dict, image_size: list[int]) -> ImportedNetwork:
    """The factory's network; raises ``InputError`` unless it takes images of that size, and its
    outputs are logits in training and in use.
    """
    config = {
        "factory": factory,
        "arguments": arguments,
        "classes": TRIED_CLASSES,
        "image_size": image_size,
    }
    network = ImportedNetwork(config)
    for training in (False, True):
        network.train(training)
        require_runs(factory, network, network.input_shape, TRIED_CLASSES)
    network.output_layer()
    return network.eval()


def refuse_untracked(factory: str, code: str) -> None:
    """A factory of this repository must be in ``network.code``, which DVC watches."""
    file = source_file(factory)
    root, watched = Path.cwd().resolve(), Path(code).resolve()
    if file is None or not file.resolve().is_relative_to(root):
        return
    name = file.resolve().relative_to(root)
    installed = "site-packages" in name.parts
    if not installed and not file.resolve().is_relative_to(watched):
        raise InputError(
            f"network.code is {code!r}, but {factory} is in {name}; set network.code "
            "to that file or its folder, so that a change of it makes stale what depends on it"
        )

"""The network that params.yaml names, tried before any work."""

from pathlib import Path

from torch import nn

from stages.common.building.pretrained import weights_file
from stages.common.core.cli import InputError
from stages.common.network.factories import make_body, require_runs, source_file
from stages.common.network.params import NetworkParams, require_layers

TRIED_CLASSES = 2  # any number: how many there are is known after prepare


def refuse_network(params: NetworkParams, image_size: list[int]) -> None:
    """Raise ``InputError`` for a factory that is not there or takes no such arguments or images,
    one whose file is no DVC dependency, missing or other weights, and layers that it lacks.
    """
    if not params.imported:
        return
    body = tried(params.factory, params.arguments, image_size)
    refuse_untracked(params.factory, params.code)
    if params.weights:
        weights_file(params)
    require_layers([name for name, _ in body.named_modules() if name], params.keep_whole)


def tried(factory: str, arguments: dict, image_size: list[int]) -> nn.Module:
    """The factory's network; raises ``InputError`` unless it takes images of that size."""
    body = make_body(factory, arguments, TRIED_CLASSES)
    height, width = image_size
    require_runs(factory, body, (3, height, width), TRIED_CLASSES)
    return body


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

"""Factories: functions that make a network's ``nn.Module``, found by their names in params.yaml.

``torchvision:NAME`` is a classification model of torchvision, ``package.module:function`` any
function that takes ``num_classes`` as a keyword, besides network.arguments.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.common.core.cli import InputError, first_line
from stages.common.network.params import TORCHVISION, split_name

Factory = Callable[..., nn.Module]


def find_factory(name: str) -> Factory:
    """Raises ``InputError``, naming what is there, for a name that leads to no function."""
    if name.startswith(TORCHVISION):
        return torchvision_factory(name.removeprefix(TORCHVISION))
    module_name, attribute = split_name(name)
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise InputError(f"the factory {name} cannot be imported: {error}") from None
    except AttributeError:
        raise InputError(f"the factory {name}: {module_name} has no '{attribute}'") from None
    if not callable(found):
        raise InputError(f"the factory {name} is no function")
    return found


def torchvision_factory(name: str) -> Factory:
    from torchvision import models  # slow to import, and only these need it

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise InputError(
            f"torchvision has no classification model '{name}'; did you mean {TORCHVISION}{near}?"
        )
    return models.get_model_builder(name)


def make_body(name: str, arguments: dict, classes: int) -> nn.Module:
    """Raises ``InputError`` where the factory takes no such arguments, or makes no module."""
    factory = find_factory(name)
    try:
        body = factory(num_classes=classes, **arguments)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the factory {name} fails with num_classes={classes} and the arguments {arguments} "
            f"({first_line(error)})"
        ) from None
    if not isinstance(body, nn.Module):
        raise InputError(f"the factory {name} makes {type(body).__name__}, not a torch.nn.Module")
    return body


def source_file(name: str) -> Path | None:
    """The source file of a factory; None for torchvision's and those of compiled modules."""
    if name.startswith(TORCHVISION):
        return None
    try:
        found = inspect.getsourcefile(inspect.unwrap(find_factory(name)))
    except TypeError:
        return None
    return Path(found) if found else None


@torch.no_grad()
def require_runs(name: str, body: nn.Module, shape: tuple[int, int, int], classes: int) -> None:
    """Raise ``InputError`` unless the body makes logits (2, classes) of two images (2, *shape)."""
    try:
        logits = body.eval()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the network {name} cannot take images of {shape[1]}x{shape[2]} "
            f"({first_line(error)}); change data.image_size"
        ) from None
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the network {name} gives {found} for 2 images; expected (2, {classes})")

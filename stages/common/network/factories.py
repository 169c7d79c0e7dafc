"""Factories: functions that make a network's ``nn.Module``, found by their names in params.yaml.

``torchvision:NAME`` is a classification model of torchvision, ``package.module:function`` any
function that takes ``num_classes`` as a keyword, besides network.arguments.
"""

import difflib
import importlib
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.common.core.cli import InputError, first_line
from stages.common.network.params import TORCHVISION, split_name

Factory = Callable[..., nn.Module]
OF_FOREIGN_CODE = (  # what a factory, its file or its network may raise
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


def find_factory(name: str) -> Factory:
    """Raises ``InputError``, naming what is there, for a name that leads to no function."""
    if name.startswith(TORCHVISION):
        return torchvision_factory(name.removeprefix(TORCHVISION))
    module_name, attribute = split_name(name)
    try:
        found = importlib.import_module(module_name)
    except OF_FOREIGN_CODE as error:
        raise InputError(
            f"the factory {name} cannot be imported ({reason(error)}); check its name and "
            "its file, and that its packages are installed"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"the factory {name}: {module_name} has no '{attribute}'{hint}")
        found = getattr(found, part)
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
    except OF_FOREIGN_CODE as error:
        raise InputError(
            f"the factory {name} fails with num_classes={classes} and the arguments {arguments} "
            f"({reason(error)}); change its arguments, or mend it"
        ) from None
    if not isinstance(body, nn.Module):
        raise InputError(f"the factory {name} makes {type(body).__name__}, not a torch.nn.Module")
    return body


def reason(error: Exception) -> str:
    """An error's kind, the first line of its text, and where in a person's own file it arose."""
    text, kind = first_line(error), type(error).__name__
    described = text if text == kind else f"{kind}: {text}"
    place = place_of(error)
    return f"{described}, {place}" if place else described


def place_of(error: Exception) -> str:
    """'file:line' of the last line that ran below the current folder, and is of no installed
    package and not of this room; '' where there is none, as of a syntax error, whose text says it.
    """
    room, here = Path(__file__).parent, Path.cwd()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not path.is_relative_to(here) or path.is_relative_to(room):
            continue
        if "site-packages" not in path.parts:
            return f"{path.relative_to(here)}:{frame.lineno}"
    return ""


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
    """Raise ``InputError`` unless the body, in its mode, makes logits (2, classes) of two images
    (2, *shape).
    """
    try:
        logits = body(torch.zeros(2, *shape))
    except OF_FOREIGN_CODE as error:
        raise InputError(
            f"the network {name} cannot take images of {shape[1]}x{shape[2]} "
            f"({reason(error)}); change data.image_size, or mend the network"
        ) from None
    found = described(logits)
    expected = described(torch.zeros(2, classes))
    if found != expected:
        mode = " in training, where auxiliary outputs must be off" if body.training else ""
        raise InputError(
            f"the network {name} gives {found} for 2 images; expected {expected}{mode}"
        )


def described(outputs: object) -> str:
    """'float32 (2, 10)', or the type of what is no tensor."""
    if not isinstance(outputs, Tensor):
        return type(outputs).__name__
    return f"{str(outputs.dtype).removeprefix('torch.')} {tuple(outputs.shape)}"

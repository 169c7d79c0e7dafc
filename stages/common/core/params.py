"""params.yaml as frozen dataclasses, which refuse the first value that is not allowed.

A stage declares its section as a dataclass whose fields carry a rule:

    @dataclass(frozen=True)
    class PruneParams:
        method: str = one_of("structured", "unstructured")
        amount: float = number(at_least=0, below=1)
        flip: bool = flag(usual=True)    # left out of what ``recorded`` returns where true

pydantic would not make this shorter: its errors take several lines and name no nearest key, so that
each would be written anew from its list of errors, and the rules for widths and lists would stay.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ruamel.yaml import YAML, YAMLError

from stages.common.core.cli import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Params = TypeVar("Params", bound="DataclassInstance")

EXTENDS = "extends"

# Old keys of params.yaml, and their names now.
RENAMED = {
    "prune.mixed": "prune.mixup_share",
    "prune.mixed_views": "prune.mixup_views",
    "verdict": "compare_revisions",
}


@dataclass(frozen=True)
class Rule:
    """A test of a params value, and the allowed values in words for the error message."""

    accepts: Callable[[Any], bool]
    allowed: str


def rule(accepts: Callable[[Any], bool], allowed: str, usual: Any = None) -> Any:
    """A required dataclass field that takes only what ``accepts`` is true for.

    ``usual``: the value that ``recorded`` leaves out; None: every value is recorded.
    """
    assert usual is None or accepts(usual), f"{usual!r} is not {allowed}"
    return dataclasses.field(metadata={"rule": Rule(accepts, allowed), "usual": usual})


def one_of(*choices: str, usual: str | None = None) -> Any:
    return rule(lambda value: value in choices, " or ".join(choices), usual)


def number(
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    usual: float | None = None,
) -> Any:
    """A finite number in ``[at_least, at_most]`` and under ``below``; int counts as float."""
    return rule(
        lambda value: (
            _is_number(value)
            and math.isfinite(value)
            and at_least <= value <= at_most
            and value < below
        ),
        f"a number {_interval(at_least, at_most, below)}".strip(),
        usual,
    )


def whole(at_least: int, at_most: float = math.inf, usual: int | None = None) -> Any:
    """A whole number in ``[at_least, at_most]``."""
    return rule(
        lambda value: _is_whole(value) and at_least <= value <= at_most,
        f"a whole number {_interval(at_least, at_most, math.inf)}".strip(),
        usual,
    )


def flag(usual: bool | None = None) -> Any:
    return rule(lambda value: isinstance(value, bool), "true or false", usual)


def text(usual: str | None = None) -> Any:
    return rule(lambda value: isinstance(value, str), "a text", usual)


def texts(usual: list[str] | None = None) -> Any:
    """A list of different texts; it may be empty."""
    return rule(
        lambda value: (
            isinstance(value, list)
            and all(isinstance(item, str) and item for item in value)
            and len(set(value)) == len(value)
        ),
        "a list of different texts, or []",
        usual,
    )


def list_of(*choices: str, usual: list[str] | None = None) -> Any:
    """A non-empty list of different choices."""
    return rule(
        lambda value: (
            isinstance(value, list)
            and len(value) > 0
            and all(isinstance(item, str) and item in choices for item in value)
            and len(set(value)) == len(value)
        ),
        f"a list of one or more of {', '.join(choices)}",
        usual,
    )


def channel_widths(fewest_blocks: int = 1, usual: list[list[int]] | None = None) -> Any:
    """A list of blocks, each a list of convolution widths: ``[[64, 64], [256, 256], ...]``."""
    return rule(
        lambda value: (
            isinstance(value, list)
            and fewest_blocks <= len(value) <= 4
            and all(
                isinstance(block, list)
                and len(block) > 0
                and all(_is_whole(width) and 1 <= width <= 4096 for width in block)
                for block in value
            )
        ),
        f"{fewest_blocks} to 4 blocks, each a list of channel counts from 1 to 4096, such as "
        "[[64, 64], [256]]",
        usual,
    )


def load_params(cls: type[Params], path: str | Path, section: str) -> Params:
    """Read one section of a params file into its dataclass.

    Raises ``InputError`` naming the key, its value and what is allowed when the file cannot be
    read or the section has a missing key, an unknown key, or a value that its rule refuses.
    """
    return parse_section(cls, read_params(path), section=section, path=path)


def read_params(path: str | Path) -> dict:
    """The whole params file as a dictionary of sections, read as DVC reads it (YAML 1.2).

    DVC writes 0.00001 as 1e-05, which is a text in YAML 1.1. A file with the line
    ``extends: ../params.yaml`` has the values of that file, beside it, where it states no others.
    """
    content = read_yaml(path)
    base = content.pop(EXTENDS, None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise InputError(f"{path}: {EXTENDS} is {base!r}; allowed: the path of a params file")
    sections = read_params(Path(path).parent / base)
    for name, values in content.items():
        if not isinstance(values, dict):
            raise InputError(f"{path}: the section '{name}' holds no keys")
        sections[name] = {**sections.get(name, {}), **values}
    return sections


def read_yaml(path: str | Path) -> dict:
    try:
        content = YAML(typ="safe").load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run from the repository's root") from None
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no sections; expected lines such as 'prune:'")
    return content


def parse_section(cls: type[Params], content: dict, section: str, path: str | Path) -> Params:
    """Check one section of an already read params file; see ``load_params``."""
    values = content.get(section)
    if not isinstance(values, dict):
        raise InputError(f"{path}: the section '{section}' is missing or holds no keys")
    rules = {field.name: field.metadata["rule"] for field in dataclasses.fields(cls)}
    reject_unknown_keys(values, known=list(rules), prefix=f"{section}.", path=path)
    for key, key_rule in rules.items():
        if key not in values:
            raise InputError(f"{path}: {section}.{key} is missing; allowed: {key_rule.allowed}")
        if not key_rule.accepts(values[key]):
            raise InputError(
                f"{path}: {section}.{key} is {values[key]!r}; allowed: {key_rule.allowed}"
            )
    return cls(**values)


def reject_unknown_keys(values: dict, known: list[str], prefix: str, path: str | Path) -> None:
    """Raise ``InputError`` for the first key that is not known, with its new name or the nearest
    known one.
    """
    for key in values:
        if key in known:
            continue
        if new_name := RENAMED.get(f"{prefix}{key}"):
            raise InputError(f"{path}: {prefix}{key} is now {new_name}")
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
        raise InputError(f"{path}: {prefix}{key} is unknown; {hint}")


def recorded(params: "DataclassInstance") -> dict:
    """The params as a checkpoint or a model states them: without those at their usual value.

    A new param, whose usual value changes no result, thus changes no file's bytes.
    """
    usual = {field.name: field.metadata.get("usual") for field in dataclasses.fields(params)}
    values = dataclasses.asdict(params)
    return {
        key: value for key, value in values.items() if usual[key] is None or value != usual[key]
    }


def with_stored_names(section: str, values: dict) -> dict:
    """The values of a section under the keys that checkpoints have always had in their
    provenance, so that a new name in params.yaml changes no checkpoint's bytes.
    """
    stored = {new: old.rpartition(".")[2] for old, new in RENAMED.items()}
    return {stored.get(f"{section}.{key}", key): value for key, value in values.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _interval(at_least: float, at_most: float, below: float) -> str:
    """'in [0, 1)'; empty where everything is allowed."""
    low = "(-inf" if at_least == -math.inf else f"[{at_least}"
    if below < math.inf:
        return f"in {low}, {below})"
    if at_most < math.inf:
        return f"in {low}, {at_most}]"
    return "" if at_least == -math.inf else f"of at least {at_least}"

"""Studies: the params of each, and the experiments that their combinations make."""

import dataclasses
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from stages.common.core.cli import InputError
from stages.common.core.params import rule

RESULTS_STAGE = "compare"  # of dvc.yaml; the stages that it does not need are not run
SEED = "prune.seed"
SEARCH = "pareto"  # the study that is no grid; see search.py


def is_sections(value: Any) -> bool:
    """Whether it is a dictionary of sections, each with a key at least."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(keys, dict) and len(keys) > 0 for keys in value.values())
    )


def is_grid(value: Any) -> bool:
    """Whether it is sections of keys, each with a list of values."""
    return is_sections(value) and all(
        isinstance(values, list) and len(values) > 0
        for keys in value.values()
        for values in keys.values()
    )


def grid() -> Any:
    """Sections of keys, each with the list of values to combine; or a list of such sections."""
    return rule(
        lambda value: (
            len(value) > 0 and all(map(is_grid, value))
            if isinstance(value, list)
            else is_grid(value)
        ),
        "sections of keys, each with a list of values, such as prune: {amount: [0.5, 0.7]}; or a "
        "list of those",
    )


@dataclass(frozen=True)
class StudiesParams:
    """The values that each study combines, and a search; see ``stages.tools.study``."""

    sweep: dict | list = grid()
    seeds: dict | list = grid()
    tiny: dict | list = grid()
    precision: dict | list = grid()
    pareto: dict = rule(lambda value: isinstance(value, dict), "trials, seed, cost and space")

    def grids(self) -> dict[str, list[dict]]:
        """The grids of each study that runs every combination of a grid."""
        studies = dataclasses.asdict(self)
        del studies[SEARCH]
        return {
            name: grids if isinstance(grids, list) else [grids] for name, grids in studies.items()
        }


@dataclass(frozen=True)
class Experiment:
    """One combination: its name in DVC, and what it changes in params.yaml."""

    name: str
    changes: dict[str, Any]  # "prune.amount": 0.5
    varied: tuple[str, ...]  # the keys that differ within the study

    def settings(self) -> list[str]:
        """The options of `dvc exp run`: -S key=value for every change, as Hydra reads values."""
        return [
            word
            for key, value in self.changes.items()
            for word in ("-S", f"{key}={as_setting(value)}")
        ]


def as_setting(value: Any) -> str:
    """Lists without spaces; a text with other characters than those of a word in quotes."""
    if isinstance(value, str) and re.fullmatch(r"[\w.-]+", value, re.ASCII):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def experiments_of(study: str, grids: list[dict[str, dict[str, list]]]) -> list[Experiment]:
    """Every combination of each grid, the last key's values in turn first; named after what varies.

    Raises ``InputError`` when two of them are the same, or the grids have different keys.
    """
    combinations = [changes for sections in grids for changes in combined(sections)]
    if any(set(changes) != set(combinations[0]) for changes in combinations):
        raise InputError(f"studies.{study}: its grids have different keys; give each the same")
    varied = tuple(
        key
        for key, value in combinations[0].items()
        if any(changes[key] != value for changes in combinations)
    )
    experiments = []
    for changes in combinations:
        name = "-".join([study, *(in_a_name(changes[key]) for key in varied)])
        experiments.append(Experiment(name=name, changes=changes, varied=varied))
    [(name, count)] = Counter(each.name for each in experiments).most_common(1)
    if count > 1:
        raise InputError(f"studies.{study}: {count} experiments are '{name}'; give each value once")
    return experiments


def combined(sections: dict[str, dict[str, list]]) -> list[dict[str, Any]]:
    """Every combination of the values of one grid, by section.key."""
    values = {
        f"{section}.{key}": each for section, keys in sections.items() for key, each in keys.items()
    }
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def in_a_name(value: Any) -> str:
    """A value in the name of an experiment, which is one of git's: [[32,40],[48]] is 32_40_48."""
    return re.sub(r"[^\w.-]+", "_", str(value), flags=re.ASCII).strip("_")

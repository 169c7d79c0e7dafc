"""Studies: the params of each, and the experiments that their combinations make."""

import itertools
import json
from dataclasses import dataclass
from typing import Any

from stages.common.core.params import rule


def grid() -> Any:
    """Sections of keys, each with the list of values to combine."""
    return rule(
        lambda value: (
            isinstance(value, dict)
            and len(value) > 0
            and all(isinstance(keys, dict) and len(keys) > 0 for keys in value.values())
            and all(
                isinstance(values, list) and len(values) > 0
                for keys in value.values()
                for values in keys.values()
            )
        ),
        "sections of keys, each with a list of values, such as prune: {amount: [0.5, 0.7]}",
    )


@dataclass(frozen=True)
class StudiesParams:
    """What each study combines; see ``stages.tools.study``."""

    sweep: dict = grid()
    seeds: dict = grid()
    tiny: dict = grid()
    targets: dict = grid()


@dataclass(frozen=True)
class Experiment:
    """One combination: its name in DVC, and what it changes in params.yaml."""

    name: str
    changes: dict[str, Any]  # "prune.amount": 0.5
    varied: tuple[str, ...]  # the keys that differ within the study

    def settings(self) -> list[str]:
        """What follows `dvc exp run`: -S key=value for every change, lists without spaces."""
        values = {
            key: json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
            for key, value in self.changes.items()
        }
        return [word for key, value in values.items() for word in ("-S", f"{key}={value}")]


def experiments_of(study: str, sections: dict[str, dict[str, list]]) -> list[Experiment]:
    """Every combination, the last key's values in turn first; named after what varies."""
    grids = {
        f"{section}.{key}": values
        for section, keys in sections.items()
        for key, values in keys.items()
    }
    varied = tuple(key for key, values in grids.items() if len(values) > 1)
    experiments = []
    for combination in itertools.product(*grids.values()):
        changes = dict(zip(grids, combination, strict=True))
        name = "-".join([study, *(str(changes[key]) for key in varied)])
        experiments.append(Experiment(name=name, changes=changes, varied=varied))
    return experiments

"""A search in place of a grid: its params, its trials, and those of them that no other beats."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError
from stages.common.core.params import number, one_of, parse_section, rule, whole
from stages.common.network.params import CHAIN
from stages.common.studies.grid import SEARCH, Experiment, in_a_name, is_sections

SECTION = f"studies.{SEARCH}"
LATENCY, BYTES = "predicted_latency_ms", "int8_bytes"
MOST_VALUES = 10_000  # of a range
DIGITS = 9  # of a value between low and high: 0.1 + 2 * 0.1 is 0.30000000000000004


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to at most ``high``, by ``step``."""

    low: float = number()
    high: float = number()
    step: float = rule(
        lambda value: isinstance(value, int | float) and 0 < value < math.inf, "a number above 0"
    )

    def count(self) -> int:
        """Less than 1 where high is below low."""
        return math.floor(round((self.high - self.low) / self.step, DIGITS)) + 1

    def values(self) -> list:
        """Whole numbers where low and step are."""
        return [round(self.low + index * self.step, DIGITS) for index in range(self.count())]


@dataclass(frozen=True)
class SearchParams:
    """The budget, the seed and the space of a search, and what it weighs against accuracy."""

    trials: int = whole(at_least=1)
    seed: int = whole(at_least=0)
    cost: str = one_of(LATENCY, BYTES)
    space: dict = rule(
        is_sections,
        "sections of keys, such as prune: {amount: {low: 0.3, high: 0.9, step: 0.1}}",
    )

    def definition(self) -> dict:
        """The part that may not change within a journal: all but the budget, as JSON has it."""
        return json.loads(json.dumps({**asdict(self), "trials": None}))

    def choices(self) -> dict[str, list | Range]:
        """'prune.amount': its values, or the range between two."""
        return {
            f"{section}.{key}": values if isinstance(values, list) else Range(**values)
            for section, keys in self.space.items()
            for key, values in keys.items()
        }

    def values(self) -> dict[str, list]:
        """'prune.amount': every value that a trial can have."""
        return {
            key: choice.values() if isinstance(choice, Range) else choice
            for key, choice in self.choices().items()
        }

    def varied(self) -> tuple[str, ...]:
        return tuple(key for key, values in self.values().items() if len(values) > 1)


@dataclass(frozen=True)
class Trial:
    """A finished trial: accuracy in percent of the validation images, cost in its own unit."""

    number: int
    experiment: Experiment
    accuracy: float
    cost: float


def parse_search(values: dict, path: str | Path) -> SearchParams:
    """Check studies.pareto of a read params file.

    Raises ``InputError`` naming the key that is unknown, missing or not allowed.
    """
    search = parse_section(SearchParams, {SECTION: values}, section=SECTION, path=path)
    where = f"{path}: {SECTION}.space"
    for section, keys in search.space.items():
        for key, choice in keys.items():
            refuse_no_choice(f"{section}.{key}", choice, where)
    if not search.varied():
        raise InputError(f"{where}: every key has one value; expected several for one of them")
    return search


def refuse_no_choice(key: str, choice: Any, where: str) -> None:
    """Raise ``InputError`` unless there is a value to choose, and each has a name of its own."""
    if isinstance(choice, dict):
        count = parse_section(Range, {key: choice}, section=key, path=where).count()
        if not 1 <= count <= MOST_VALUES:
            raise InputError(
                f"{where}: {key} has {max(count, 0)} values from low to high; allowed: 1 to "
                f"{MOST_VALUES}"
            )
    elif not isinstance(choice, list) or not choice:
        raise InputError(
            f"{where}: {key} is {choice!r}; allowed: a list of values, or low, high and step"
        )
    elif len({in_a_name(value) for value in choice}) < len(choice):
        raise InputError(f"{where}: {key} is {choice!r}; give each value once")


def require_untimed_trials(search: SearchParams, params: dict) -> None:
    """Raise ``InputError`` where pruning would predict no milliseconds, measure them in a trial, or
    count those of INT8 for a cost of FP32.

    ``params``: the whole params file, in which the space changes some values.
    """

    def values(key: str) -> list:
        section, name = key.split(".")
        return search.values().get(key, [params[section][name]])

    factories, targets, budgets, precisions = map(
        values, ("network.factory", "prune.target", "prune.budget_ms", "prune.precision")
    )
    is_predicted, is_chain = search.cost == LATENCY, factories == [CHAIN]
    if not is_chain and (is_predicted or "latency" in targets or max(budgets) > 0):
        raise InputError(
            f"{SECTION} would count milliseconds, which are predicted of the chain alone, and "
            f"network.factory is {factories[-1]}; expected cost {BYTES}, prune.target macs or "
            "params, and prune.budget_ms 0"
        )
    if is_predicted and targets != ["latency"] and min(budgets) <= 0:
        raise InputError(
            f"{SECTION}.cost is {LATENCY}, but a trial may count no milliseconds; expected in "
            f"{SECTION}.space a prune.budget_ms above 0, or latency as the only prune.target"
        )
    if is_predicted and "int8" in precisions:
        raise InputError(
            f"{SECTION}.cost is {LATENCY}, which is of FP32, and prune.precision is int8; expected "
            "fp32"
        )


def experiment_of(search: SearchParams, proposed: dict[str, Any]) -> Experiment:
    """The experiment of a trial, named after what varies.

    ``proposed``: of each key that varies a number, or a value of its list as JSON.
    """
    changes = {
        key: chosen(proposed[key], values) if key in proposed else values[0]
        for key, values in search.values().items()
    }
    varied = search.varied()
    name = "-".join([SEARCH, *(in_a_name(changes[key]) for key in varied)])
    return Experiment(name=name, changes=changes, varied=varied)


def chosen(proposed: str | float, values: list) -> Any:
    """The value that was meant: of JSON what it says, of a number the nearest."""
    if isinstance(proposed, str):
        return json.loads(proposed)
    return min(values, key=lambda value: abs(value - proposed))


def front_of(trials: list[Trial]) -> list[Trial]:
    """Those that no other beats in both, the cheapest first; of equals the first."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda each: (each.cost, -each.accuracy, each.number)):
        if not front or trial.accuracy > front[-1].accuracy:
            front.append(trial)
    return front

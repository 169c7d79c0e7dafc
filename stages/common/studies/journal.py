"""The trials of a search, which Optuna proposes: each from the results of those before it.

A proposal depends on the trials before it and on the seed alone, so that a search that was killed
goes on to the same trials.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.core.cli import InputError, first_line
from stages.common.studies.grid import SEARCH, Experiment
from stages.common.studies.search import (
    SECTION,
    Range,
    SearchParams,
    Trial,
    experiment_of,
)

MOST_REPEATS = 40  # proposals of what was tried, until a space counts as exhausted


def import_optuna() -> Any:
    """The package, which only a search needs; raises ``InputError`` where it is missing."""
    try:
        import optuna
    except ImportError:
        raise InputError(
            f"the study {SEARCH} needs Optuna: python -m pip install -r requirements-cluster.txt"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Journal:
    """The trials of a search, in a file that Optuna appends to."""

    def __init__(self, path: Path, search: SearchParams):
        """Open or begin it.

        Raises ``InputError`` for a file that is damaged or of another search.
        """
        optuna = import_optuna()
        self.optuna, self.path, self.search = optuna, path, search
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_unfinished_line(path)
        try:
            backend = optuna.storages.journal.JournalFileBackend(str(path))
            self.study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name=SEARCH,
                directions=["maximize", "minimize"],
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is damaged ({first_line(error)}); delete it: experiments that are done "
                "are not run again"
            ) from None
        self._require_same_search()

    def _require_same_search(self) -> None:
        wanted, found = self.search.definition(), self.study.user_attrs.get("definition")
        if found is None:
            self.study.set_user_attr("definition", wanted)
        elif found != wanted:
            [key, *_] = [key for key in wanted if found.get(key) != wanted[key]]
            raise InputError(
                f"{self.path} is of a search with another {SECTION}.{key}; delete it to begin anew"
            )

    def next(self) -> tuple[int, Experiment] | None:
        """The number of a trial and what to run: one that was left unfinished, or one of another
        experiment than all before; None when the budget is spent or nothing new is proposed.
        """
        running = self.optuna.trial.TrialState.RUNNING
        if not self._trials(running):
            proposed = self._proposal() if len(self.tried()) < self.search.trials else None
            if proposed is None:
                return None
            trial = self.optuna.trial.create_trial(
                state=running, params=proposed, distributions=self._distributions()
            )
            self.study.add_trial(trial)
        [trial] = self._trials(running)
        return trial.number, self._experiment(trial.params)

    def _proposal(self) -> dict[str, Any] | None:
        """Params of an experiment that was not tried yet, asked of a copy in memory.

        TPE (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011) proposes; at
        random where it proposes what is known again and again. None where that does too.
        """
        of, tried = self.optuna.samplers, self.tried()
        copy = self.optuna.create_study(directions=self.study.directions)
        copy.add_trials(self._trials(self.optuna.trial.TrialState.COMPLETE))
        for repeat in range(MOST_REPEATS):
            seeds = np.random.SeedSequence([self.search.seed, len(tried), repeat])
            sampler = of.TPESampler if repeat < MOST_REPEATS // 2 else of.RandomSampler
            copy.sampler = sampler(seed=int(seeds.generate_state(1)[0]))
            trial = copy.ask(self._distributions())
            if self._experiment(trial.params).name not in tried:
                return trial.params
            copy.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        return None

    def tried(self) -> list[str]:
        """The names of the experiments that have ended, with a result or without."""
        states = self.optuna.trial.TrialState
        ended = self._trials(states.COMPLETE, states.FAIL)
        return [self._experiment(each.params).name for each in ended]

    def tell(self, trial: int, figures: tuple[float, float] | None) -> None:
        """Finish a trial with its accuracy and cost; None: it has no result."""
        if figures is None:
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, figures)

    def trials(self) -> list[Trial]:
        """Those with a result."""
        complete = self._trials(self.optuna.trial.TrialState.COMPLETE)
        return [
            Trial(each.number, self._experiment(each.params), *each.values) for each in complete
        ]

    def failed(self) -> int:
        return len(self._trials(self.optuna.trial.TrialState.FAIL))

    def _trials(self, *states: Any) -> list:
        return self.study.get_trials(deepcopy=False, states=states)

    def _distributions(self) -> dict[str, Any]:
        """The space for Optuna: every key that varies, a value of a list as JSON."""
        of = self.optuna.distributions
        choices, values = self.search.choices(), self.search.values()
        return {
            key: of.FloatDistribution(values[key][0], values[key][-1], step=choice.step)
            if isinstance(choice, Range)
            else of.CategoricalDistribution([json.dumps(value) for value in choice])
            for key, choice in choices.items()
            if len(values[key]) > 1
        }

    def _experiment(self, proposed: dict[str, Any]) -> Experiment:
        return experiment_of(self.search, proposed)


def drop_unfinished_line(path: Path) -> None:
    """Cut off a last line that a full disk or a power cut left: Optuna would append to it."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)

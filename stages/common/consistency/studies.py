"""Whether params.yaml allows what its studies try."""

from pathlib import Path
from typing import Any

from stages.common.core.params import parse_section, reject_unknown_keys
from stages.common.studies.grid import StudiesParams, experiments_of
from stages.common.studies.search import SECTION, parse_search


def check_studies(
    studies: StudiesParams, content: dict, sections: dict[str, type], path: str | Path
) -> None:
    """Every value that a study tries must be allowed where it is tried.

    ``content``: a read params file; ``sections``: the dataclass of each of its sections.
    """

    def require_allowed(key: str, value: Any, where: str) -> None:
        section, name = key.split(".")
        changed = {section: {**content[section], name: value}}
        parse_section(sections[section], changed, section=section, path=f"{path}: {where}")

    for study, grids in studies.grids().items():
        for grid in grids:
            reject_unknown_keys(grid, known=list(sections), prefix=f"studies.{study}.", path=path)
        for experiment in experiments_of(study, grids):
            for key, value in experiment.changes.items():
                require_allowed(key, value, where=f"studies.{study}")
    search = parse_search(studies.pareto, path)
    reject_unknown_keys(search.space, known=list(sections), prefix=f"{SECTION}.space.", path=path)
    for key, values in search.values().items():
        for value in values:
            require_allowed(key, value, where=f"{SECTION}.space")

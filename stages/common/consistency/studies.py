"""Whether params.yaml allows what its studies try."""

import dataclasses
from pathlib import Path

from stages.common.core.params import parse_section, reject_unknown_keys
from stages.common.studies.grid import StudiesParams, experiments_of


def check_studies(
    studies: StudiesParams, content: dict, sections: dict[str, type], path: str | Path
) -> None:
    """Every value that a study tries must be allowed where it is tried.

    ``content``: a read params file; ``sections``: the dataclass of each of its sections.
    """
    for study, grids in dataclasses.asdict(studies).items():
        reject_unknown_keys(grids, known=list(sections), prefix=f"studies.{study}.", path=path)
        for experiment in experiments_of(study, grids):
            for key, value in experiment.changes.items():
                section, name = key.split(".")
                changed = {section: {**content[section], name: value}}
                where = f"{path}: studies.{study}"
                parse_section(sections[section], changed, section=section, path=where)

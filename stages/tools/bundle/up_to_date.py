"""Whether figures are of the models at hand: by the digests that DVC noted when it measured."""

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo

from stages.common.core.cli import InputError, first_line


def refuse_stale(repository: Repo, model: Path, measured: Path) -> None:
    """Raise ``InputError`` where ``measured`` is not what its stage wrote, or where that stage ran
    on another ``model``, or on others beside it. dvc.lock says so; changed code counts for nothing.
    """
    try:
        output = output_at(repository, measured)
        remedy = f"run 'dvc repro {output.stage.addressing}'"
        if not output.hash_info or output.changed_checksum():
            raise InputError(f"{measured} is not what dvc.lock says was measured; {remedy}")
        for dep in output.stage.deps:
            if is_of_models(dep, model) and dep.changed_checksum():
                raise InputError(f"{measured} was measured on another {dep} than this; {remedy}")
    except DvcException as error:
        raise InputError(f"DVC cannot compare {measured}: {first_line(error)}") from error


def output_at(repository: Repo, path: Path) -> Output:
    """Raises ``InputError`` where no stage writes this file."""
    for output in repository.index.outs:
        if Path(output.fs_path) == path.resolve():
            return output
    raise InputError(f"{path}: no stage of this repository writes it")


def is_of_models(dep: Output, model: Path) -> bool:
    """Whether a dependency is this model, one beside it, or their folder."""
    path, folder = Path(dep.fs_path), model.resolve().parent
    return path == folder or path.parent == folder

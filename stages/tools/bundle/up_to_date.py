"""Whether figures are of the models at hand: by the digests that DVC noted when it measured."""

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo

from stages.common.core.cli import InputError, first_line


def refuse_stale(repository: Repo, model: Path, measured: Path) -> None:
    """Raise ``InputError`` where ``measured`` is not what its stage wrote, or where that stage ran
    on another ``model``, or on others beside it. dvc.lock says so; changed code counts for nothing.

    Not all models travel with the repository: one that is missing is taken to be as it was.
    """
    try:
        output = output_at(repository, measured)
        remedy = f"run 'dvc repro {output.stage.addressing}'"
        if not output.hash_info or output.changed_checksum():
            raise InputError(f"{measured} is not what dvc.lock says was measured; {remedy}")
        for dep in output.stage.deps:
            if is_of_models(dep, model) and is_another(repository, dep, model):
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


def is_another(repository: Repo, dep: Output, model: Path) -> bool:
    """Whether a dependency is not what it was; of a folder that lacks a model, the model at hand
    counts alone: it must be the one that dvc.lock names.
    """
    if not dep.exists:
        return False
    if dep.isdir() and lacks_a_model(repository, Path(dep.fs_path)):
        return output_at(repository, model).changed_checksum()
    return dep.changed_checksum()


def lacks_a_model(repository: Repo, folder: Path) -> bool:
    return any(
        Path(output.fs_path).parent == folder and not output.exists
        for output in repository.index.outs
    )

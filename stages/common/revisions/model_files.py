"""The model files of a git revision or of the working tree, found by the MD5 in its dvc.lock.

Each is looked for in the working tree, the DVC cache, the DVC remote that the revision itself
carried in git, and the DVC remote of today; what is found has that MD5, or nothing is returned.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import resolve_rev
from dvc_data.hashfile.hash_info import HashInfo
from ruamel.yaml import YAML, YAMLError

from stages.common.core.cli import InputError
from stages.common.core.files import digest, replacing
from stages.common.inference.runtimes.onnx_files import WRONG
from stages.common.revisions.git import commit_of, require_repository
from stages.common.revisions.remote import remote_errors, unusable

WORKING_TREE = "the working tree"
VARIANTS = "variants"  # the var of dvc.yaml that names them


@dataclass(frozen=True)
class ModelFile:
    """One variant's ONNX file in dvc.lock; ``wrong``: the runtimes that its check found wrong."""

    path: str
    md5: str
    wrong: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Revision:
    """``name`` as the user gave it; ``commit`` is None for the working tree."""

    name: str
    commit: str | None
    models: dict[str, ModelFile]  # by variant


@contextmanager
def open_repository(root: Path) -> Iterator[Repo]:
    """The git and DVC repository whose root this is; ``InputError`` when it is none."""
    require_repository(root)
    try:
        with Repo(str(root)) as repository:
            yield repository
    except NotDvcRepoError:
        raise InputError(
            f"{root.resolve()} is no DVC repository; run from the repository's root"
        ) from None


def read_revision(repository: Repo, name: str | None) -> Revision:
    """The variants of dvc.yaml with their MD5s from dvc.lock; None is the working tree.

    Raises ``InputError`` for a name that git and DVC (experiments) do not know, or when one of the
    two files is missing, unreadable or does not name what it should.
    """
    commit = None if name is None else resolve(repository, name)
    label = name or WORKING_TREE
    models = {}
    md5s = locked_md5s(read_yaml(repository, commit, "dvc.lock", label), label)
    for variant, path, check in variants_of(
        read_yaml(repository, commit, "dvc.yaml", label), label
    ):
        if path not in md5s:
            raise InputError(
                f"dvc.lock of {label} does not name {path}; run 'dvc repro' there and commit "
                "dvc.lock, or compare another revision"
            )
        wrong = found_wrong(repository, commit, check, label)
        models[variant] = ModelFile(path=path, md5=md5s[path], wrong=wrong)
    return Revision(name=label, commit=commit, models=models)


def resolve(repository: Repo, name: str) -> str:
    try:
        commit = commit_of(Path(repository.root_dir), resolve_rev(repository.scm, name))
    except (DvcException, UnicodeError):
        commit = None
    if not name or commit is None:
        raise InputError(
            f"the revision '{name}' is unknown; expected a branch, tag, commit or DVC experiment "
            "('git branch --all', 'git log', 'dvc exp list'); in a shallow clone: "
            "'git fetch --unshallow'"
        )
    return commit


def read_yaml(repository: Repo, commit: str | None, name: str, label: str) -> dict:
    try:
        content = YAML(typ="safe").load(read_bytes(repository, commit, name))
    except FileNotFoundError:
        raise InputError(
            f"{label} has no {name}; compare a revision in which the pipeline has run"
        ) from None
    except YAMLError as error:
        raise InputError(
            f"{name} of {label} is not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{name} of {label} holds no sections; compare another revision")
    return content


def read_bytes(repository: Repo, commit: str | None, name: str) -> bytes:
    """A file's content at a commit, or in the working tree."""
    if commit is None:
        return Path(repository.root_dir, name).read_bytes()
    with repository.scm.get_fs(commit).open(name, mode="rb") as file:
        return file.read()


def found_wrong(
    repository: Repo, commit: str | None, check: str | None, label: str
) -> frozenset[str]:
    """The runtimes that a revision's own check found wrong; none where it had no check."""
    if check is None:
        return frozenset()
    try:
        return frozenset(json.loads(read_bytes(repository, commit, check)).get(WRONG, {}))
    except FileNotFoundError:
        return frozenset()
    except ValueError:
        raise InputError(f"{check} of {label} is no JSON; run 'dvc repro' there") from None


def variants_of(pipeline: dict, label: str) -> list[tuple[str, str, str | None]]:
    """Name, path and check of every variant; a path may stand alone, without a check."""
    entries = pipeline.get("vars")
    for entry in entries if isinstance(entries, list) else []:
        variants = entry.get(VARIANTS) if isinstance(entry, dict) else None
        if isinstance(variants, dict):
            described = {
                name: value if isinstance(value, dict) else {"onnx": value}
                for name, value in variants.items()
            }
            if all(isinstance(value.get("onnx"), str) for value in described.values()):
                return [
                    (name, value["onnx"], value.get("check")) for name, value in described.items()
                ]
    raise InputError(
        f"dvc.yaml of {label} has no '{VARIANTS}' with a path for each; compare a later revision"
    )


def locked_md5s(lock: dict, label: str) -> dict[str, str]:
    """MD5 by path of every output that dvc.lock names."""
    try:
        return {
            out["path"]: out["md5"]
            for stage in lock.get("stages", {}).values()
            for out in stage.get("outs", [])
            if "md5" in out
        }
    except (AttributeError, KeyError, TypeError):  # a list or nothing in place of a section
        raise InputError(
            f"dvc.lock of {label} is not as DVC writes it; restore it with 'git checkout dvc.lock'"
        ) from None


def fetch(repository: Repo, revision: Revision, variant: str, folder: Path) -> Path:
    """Put a variant's file into ``folder``; ``InputError`` when no place has it."""
    model = revision.models[variant]
    target = folder / f"{variant}.onnx"
    with replacing(target) as temporary:
        temporary.write_bytes(find(repository, revision, model))
        if digest(temporary) != model.md5:
            raise InputError(
                f"{model.path} of {revision.name}: the file stored as {model.md5} has another MD5; "
                "delete it from the DVC cache and run 'dvc pull --allow-missing'"
            )
    return target


def find(repository: Repo, revision: Revision, model: ModelFile) -> bytes:
    """The first place that has it, the nearest first."""
    here = Path(repository.root_dir, model.path)
    cached = Path(repository.cache.local.oid_to_path(model.md5))
    if here.is_file() and digest(here) == model.md5:
        return here.read_bytes()
    if cached.is_file():
        return cached.read_bytes()
    if content := carried(repository, revision.commit, model.md5):
        return content
    pull(repository, model.md5)
    if cached.is_file():
        return cached.read_bytes()
    raise InputError(
        f"{model.path} of {revision.name} ({model.md5}) is neither in the DVC cache nor in the DVC "
        f"remote; bring it with {remedy(revision)}, or ask who made it for 'dvc push'"
    )


def remedy(revision: Revision) -> str:
    if revision.commit is None:
        return "'dvc pull --allow-missing' or 'dvc repro'"
    return f"'git checkout {revision.name}' and 'dvc pull --allow-missing'"


def carried(repository: Repo, commit: str | None, md5: str) -> bytes | None:
    """From a remote that is a folder of the repository, as it was at that commit.

    What is published later replaces it there, but git keeps it.
    """
    root = Path(repository.root_dir)
    for remote in repository.config["remote"].values():
        folder = Path(remote["url"])
        if folder.is_relative_to(root):
            name = (folder / "files" / "md5" / md5[:2] / md5[2:]).relative_to(root)
            try:
                return read_bytes(repository, commit, name.as_posix())
            except FileNotFoundError:
                continue
    return None


def pull(repository: Repo, md5: str) -> None:
    """Let DVC put it into the cache; DVC only warns when its remote lacks it."""
    try:
        repository.cloud.pull([HashInfo("md5", md5)])
    except remote_errors() as error:
        raise InputError(
            f"the DVC cache lacks {md5}, and {unusable(repository, error)}; or run 'dvc repro' at "
            "that revision"
        ) from error

"""The copy of the repository in which an example runs: its code, its params, its photos."""

import contextlib
import difflib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dvc.repo import Repo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common.core.cli import InputError
from stages.common.core.params import read_params
from stages.common.revisions.git import require_repository

EXAMPLES = Path("examples")
PARAMS = "params.yaml"
CODE = ("stages", "deploy", "dvc.yaml", PARAMS, "examples/networks")
RESULTS = ("dvc.lock", "metrics", "plots")  # in git; a commit brings those of the repository


def find_example(name: str) -> Path:
    """The folder of an example; raises ``InputError`` with the nearest name there is."""
    known = sorted(path.parent.name for path in EXAMPLES.glob(f"*/{PARAMS}"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        hint = f"did you mean {near[0]}?" if near else "there is none yet"
        raise InputError(f"there is no {EXAMPLES / name / PARAMS}; {hint}")
    return EXAMPLES / name


def bring_up_to_date(copy: Path) -> str:
    """Make the copy a clone of the present commit, and return that in short.

    What it has reached stays: the results, and what git ignores (models, data, .resume).
    """
    require_repository(Path())
    if changed := git("status", "--porcelain", "--", *CODE):
        files = ", ".join(line[3:] for line in changed.splitlines())
        print(f"Without what is changed here and not committed: {files}")
    if not (copy / ".git").exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        git("clone", "--quiet", str(Path.cwd()), str(copy))
    git("-C", str(copy), "fetch", "--quiet", str(Path.cwd()), "HEAD")
    with kept(copy, RESULTS):
        git("-C", str(copy), "reset", "--quiet", "--hard", "FETCH_HEAD")
    with Repo() as repository, Repo(copy) as copied, copied.config.edit("local") as config:
        config.setdefault("cache", {})["dir"] = repository.cache.local.path
    return git("-C", str(copy), "rev-parse", "--short", "HEAD").strip()


@contextlib.contextmanager
def kept(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Put files and folders back as they were, whatever becomes of them meanwhile."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as saved:
        there = [name for name in names if (folder / name).exists()]
        for name in there:
            copy_over(folder / name, Path(saved) / name)
        yield
        for name in there:
            copy_over(Path(saved) / name, folder / name)


def copy_over(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if found.returncode:
        raise InputError(f"git {' '.join(arguments)}: {found.stderr.strip()}")
    return found.stdout


def merged(params: str, changes: str, path: Path) -> str:
    """The text of params.yaml, comments and all, with the values of ``changes``, which is the text
    of the file ``path``.

    A key that params.yaml lacks is added, and left to ``validate_params`` to refuse.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is wrapped
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(params)
    for section, values in read_changes(changes, path).items():
        content.setdefault(section, {}).update(values)
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def read_changes(text: str, path: Path) -> dict[str, dict]:
    """By section and key, with the comments."""
    try:
        changes = YAML().load(text)
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(changes, dict) or not all(
        isinstance(values, dict) for values in changes.values()
    ):
        raise InputError(f"{path}: expected sections with keys, such as 'train: {{epochs: 10}}'")
    return changes


def bring_photos(copy: Path, example: Path) -> None:
    """Bring data.path into the copy, where that is a folder of this repository."""
    data = read_params(copy / PARAMS).get("data", {})
    path = Path(str(data.get("path", "")))
    if data.get("source") != "folder" or path.is_absolute():
        return
    if path.is_dir():
        shutil.rmtree(copy / path, ignore_errors=True)  # a photo that is gone here is gone there
        shutil.copytree(path, copy / path)
    elif not (copy / path).is_dir():
        raise InputError(
            f"data.path, {path}, is missing; {example}/README.md says what belongs there"
        )

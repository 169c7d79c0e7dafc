"""Revisions of the repository: what a file held in them, and which stages they left to be run."""

import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage

from stages.common.core.cli import InputError

PIPELINE_FILE = "dvc.yaml"  # what `dvc repro` runs where it is called: the root's


@dataclass(frozen=True)
class Revision:
    """A commit under the name that the user gave it, or the working tree (``commit`` None)."""

    name: str
    commit: str | None

    @property
    def title(self) -> str:
        if self.commit is None or self.commit == self.name:
            return self.name[:40]
        return f"{self.name} ({self.commit[:7]})"


def require_repository(root: Path) -> None:
    """Raise ``InputError`` unless ``root`` is the root of a repository that git trusts.

    It does not trust that of another user: what root has in a container, on a person's checkout.
    """
    found = git(root, "rev-parse", "--show-cdup")
    if way_up := found.stdout.decode().strip():
        top = (root / way_up).resolve()
        raise InputError(f"{root.resolve()} is a folder of {top}; run from the repository's root")
    if not found.returncode:
        return
    said = found.stderr.decode(errors="replace")
    for line in said.splitlines():
        if "safe.directory" in line:  # git's own remedy
            raise InputError(
                f"git does not trust {root.resolve()}, which another user owns; if you do, run: "
                f"{line.strip()}"
            )
    raise InputError(
        f"{root.resolve()} is no git repository; run from the repository's root, in what 'git "
        "clone' made (an archive has no revisions)"
    )


def revision(root: Path, name: str | None) -> Revision:
    """The commit that ``name`` stands for; the working tree for None.

    Raises ``InputError`` when ``name`` is no commit here.
    """
    require_repository(root)
    if name is None:
        return Revision("working tree", None)
    commit = commit_of(root, name)
    if commit is None:
        fetched = f"origin/{name}"
        hint = f"did you mean {fetched}?" if commit_of(root, fetched) else "git fetch may bring it"
        raise InputError(f"'{name}' is no commit of this repository; {hint}")
    return Revision(name, commit)


def commit_of(root: Path, name: str) -> str | None:
    """The commit that git's ``name`` stands for; None for an unknown one, a folder or a file."""
    found = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return None if found.returncode else found.stdout.decode().strip()


def branch_point(root: Path, base: Revision, head: Revision) -> Revision:
    """The commit at which ``head`` left ``base``: what ``base`` got since is not head's doing."""
    assert base.commit is not None, "the working tree left nothing"
    found = git(root, "merge-base", base.commit, head.commit or "HEAD")
    if found.returncode:
        raise InputError(
            f"{base.title} and {head.title} have no commit in common; in a shallow clone, run "
            "'git fetch --unshallow' first"
        )
    return Revision(base.name, found.stdout.decode().strip())


def read(root: Path, revision: Revision, path: str) -> bytes | None:
    """The bytes that ``path`` (from the root, with /) had in ``revision``; None if it had none."""
    if revision.commit is None:
        return (root / path).read_bytes() if (root / path).is_file() else None
    found = git(root, "cat-file", "blob", f"{revision.commit}:{path}")
    return None if found.returncode else found.stdout


@dataclass(frozen=True)
class Stale:
    """Stages whose results in git do not fit to cmd, params, code or other results in git."""

    stages: list[str]  # of dvc.yaml: `dvc repro` would run them
    on_request: list[str]  # of the other pipelines: ran once, and not since


def stale_stages(root: Path, revision: Revision) -> Stale:
    """Needs neither data nor models: what is missing counts as unchanged."""
    if revision.commit is None:
        return _changed_stages(root)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        for command in (
            ("clone", "--quiet", "--shared", "--no-checkout", str(root.resolve()), str(clone)),
            ("-C", str(clone), "checkout", "--quiet", "--detach", revision.commit),
        ):
            if (made := git(root, *command)).returncode:
                raise InputError(f"git cannot check {revision.title} out: {_last_line(made)}")
        return _changed_stages(clone)


def _changed_stages(root: Path) -> Stale:
    """The stages that `dvc repro --dry --allow-missing` would run.

    DVC 3.67 itself stops at the first changed stage whose data is missing.
    """
    try:
        with Repo(str(root)) as repository, repository.lock:
            graph = repository.index.graph
            changed = [
                stage
                for stage in graph
                if stage.changed(allow_missing=True, upstream=list(graph.successors(stage)))
            ]
            return Stale(
                stages=_names(each for each in changed if each.path_in_repo == PIPELINE_FILE),
                on_request=_names(
                    each
                    for each in changed
                    if each.path_in_repo != PIPELINE_FILE and any(o.hash_info for o in each.outs)
                ),
            )
    except DvcException as error:
        raise InputError(f"DVC cannot compare dvc.yaml with dvc.lock: {error}") from error


def _names(stages: Iterable[Stage]) -> list[str]:
    """Without the path of their dvc.yaml."""
    return sorted(stage.addressing.rpartition(":")[2] for stage in stages)


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run git; its output is bytes, for files that are no text."""
    return subprocess.run(("git", *arguments), cwd=root, capture_output=True)


def _last_line(result: subprocess.CompletedProcess) -> str:
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"

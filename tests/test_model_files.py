"""Model files of any revision, found by MD5 wherever they still are."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stages.common.core.cli import InputError
from stages.common.core.files import digest
from stages.common.revisions.model_files import (
    WORKING_TREE,
    fetch,
    open_repository,
    read_revision,
    variants_of,
)

MODEL = "models/model.onnx"


def git(root: Path, *words: str) -> None:
    person = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    subprocess.run(["git", *person, *words], cwd=root, check=True, capture_output=True)


def make_repository(root: Path) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    Repo.init(str(root)).close()
    # .dvc/remote, as in this project
    (root / ".dvc" / "config").write_text(
        "[core]\n    remote = results\n['remote \"results\"']\n    url = remote\n"
    )
    (root / ".gitignore").write_text("/models/\n")
    (root / "models").mkdir()
    return root


def commit_models(root: Path, tag: str, models: dict[str, bytes]) -> None:
    """Leave these as `dvc repro` would: one stage and one file for each variant; commit and tag."""
    variants = {name: f"models/{name}.onnx" for name in models}
    stages = {name: {"cmd": "unused", "outs": [path]} for name, path in variants.items()}
    content = {"vars": [{"networks": {}}, {"variants": variants}], "stages": stages}
    (root / "dvc.yaml").write_text(yaml.safe_dump(content))
    (root / "dvc.lock").unlink(missing_ok=True)
    for name, content in models.items():
        path = root / variants[name]
        path.unlink(missing_ok=True)  # DVC may have linked it to its cache
        path.write_bytes(content)
    with Repo(str(root)) as repository:
        repository.commit(force=True)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", tag)
    git(root, "tag", tag)


def get(root: Path, name: str | None, variant: str = "model") -> bytes:
    with open_repository(root) as repository:
        revision = read_revision(repository, name)
        return fetch(repository, revision, variant, root.parent / "fetched").read_bytes()


def push(root: Path) -> None:
    with Repo(str(root)) as repository:
        repository.push()


def drop_cache(root: Path) -> None:
    shutil.rmtree(root / ".dvc" / "cache")


@pytest.fixture
def root(tmp_path) -> Path:
    root = make_repository(tmp_path / "repository")
    commit_models(root, "v1", {"model": b"first"})
    commit_models(root, "v2", {"model": b"second"})
    return root


def test_each_revision_has_its_own_file_and_the_working_tree_what_dvc_lock_names(root):
    assert get(root, "v1") == b"first"
    assert get(root, "HEAD") == b"second"
    git(root, "checkout", "--quiet", "v1")  # dvc.lock of v1, the file still of v2
    assert (root / MODEL).read_bytes() == b"second"
    assert get(root, None) == b"first"


def test_the_working_trees_own_file_needs_no_cache(root):
    drop_cache(root)
    assert get(root, None) == b"second"


def test_a_file_is_pulled_from_the_remote_when_the_cache_lacks_it(root, tmp_path):
    with Repo(str(root)) as repository, repository.config.edit() as config:
        config["remote"]["results"]["url"] = str(tmp_path / "elsewhere")
    push(root)
    drop_cache(root)
    (root / MODEL).unlink()
    assert get(root, None) == b"second"


def test_a_file_that_left_the_committed_remote_is_read_from_the_revision_that_had_it(root):
    push(root)
    git(root, "add", "--force", ".dvc/remote")
    git(root, "commit", "--quiet", "--message", "published")
    git(root, "tag", "published")
    shutil.rmtree(root / ".dvc" / "remote")
    commit_models(root, "v3", {"model": b"third"})
    drop_cache(root)
    assert get(root, "published") == b"second"
    with pytest.raises(InputError, match="neither in the DVC cache nor in the DVC remote"):
        get(root, "v1")


def test_a_file_that_cannot_be_found_is_named_with_the_remedy_and_leaves_nothing(root):
    drop_cache(root)
    with pytest.raises(
        InputError, match=r"models/model\.onnx of v1 .* 'git checkout v1' and 'dvc pull --allow"
    ):
        get(root, "v1")
    assert not list((root.parent / "fetched").glob("*"))


def test_a_damaged_file_is_refused(root):
    cached = root / ".dvc" / "cache" / "files" / "md5"
    md5 = digest_of(b"first", root)
    path = cached / md5[:2] / md5[2:]
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    with pytest.raises(InputError, match=f"stored as {md5} has another MD5"):
        get(root, "v1")


def digest_of(content: bytes, root: Path) -> str:
    (root.parent / "content").write_bytes(content)
    return digest(root.parent / "content")


def test_an_unknown_revision_is_named(root):
    with pytest.raises(InputError, match="the revision 'nope' is unknown; expected a branch, tag"):
        get(root, "nope")


@pytest.mark.parametrize(
    "name", ["", " v1", "v1:dvc.yaml", "v1^{tree}", "v1..v2", "-x", "caf\udce9"]
)
def test_what_is_no_commit_is_no_revision(root, name):
    with pytest.raises(InputError, match="is unknown; expected a branch"):
        get(root, name)


def test_an_annotated_tag_is_its_commit(root):
    git(root, "tag", "--annotate", "--message", "x", "annotated", "v1")
    assert get(root, "annotated") == b"first"


@pytest.mark.parametrize(
    "content",
    [
        "stages:",
        "stages: []",
        "stages: {a: }",
        "stages: {a: {outs: }}",
        "stages: {a: {outs: [{md5: x}]}}",
    ],
)
def test_a_lock_that_dvc_did_not_write_is_named_with_the_remedy(root, content):
    (root / "dvc.lock").write_text(content)
    with pytest.raises(InputError, match="dvc.lock of the working tree .*'git checkout dvc.lock'"):
        get(root, None)


def test_a_revision_in_which_nothing_ran_is_named(root):
    git(root, "rm", "--quiet", "dvc.lock")
    git(root, "commit", "--quiet", "--message", "no lock")
    for name, label in (("HEAD", "HEAD"), (None, WORKING_TREE)):
        with pytest.raises(InputError, match=f"{label} has no dvc.lock; compare a revision"):
            get(root, name)


def test_a_variant_that_dvc_lock_does_not_name_is_an_error(root):
    content = yaml.safe_load((root / "dvc.yaml").read_text())
    content["vars"][1]["variants"]["other"] = "models/other.onnx"
    (root / "dvc.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"does not name models/other\.onnx; run 'dvc repro'"):
        get(root, None)


def test_a_variant_may_be_a_path_or_a_path_with_its_check():
    variants = {"old": "models/old.onnx", "new": {"onnx": "models/new.onnx", "check": "c.json"}}
    found = variants_of({"vars": [{"variants": variants}]}, "HEAD")
    assert found == [("old", "models/old.onnx", None), ("new", "models/new.onnx", "c.json")]


@pytest.mark.parametrize(
    "content",
    ["stages: {}", "vars:", "vars: 3", "vars: [{variants: {a: 3}}]", "vars: [{variants: {a: {}}}]"],
)
def test_a_pipeline_without_variants_is_an_error(root, content):
    (root / "dvc.yaml").write_text(content)
    with pytest.raises(InputError, match="has no 'variants'"):
        get(root, None)


def test_outside_of_a_repository_is_an_error(tmp_path):
    with pytest.raises(InputError, match="run from the repository's root"):
        get(tmp_path, None)

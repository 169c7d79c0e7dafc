"""Results that travel with the repository: what a person gets who clones it and trains nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.common.core.files import digest
from stages.tools.publish import LIMIT_BYTES, object_path, results
from tests.pipelines import ROOT, Repository, copy_working_tree, stages_run

REMOTE = Path(".dvc/remote")
PERSON = ("-c", "user.name=Test", "-c", "user.email=test@example.com")


@pytest.fixture(scope="module")
def published(repository, tmp_path_factory) -> Repository:
    """The tiny pipeline's results, published and committed, beside the shared repository."""
    published = repository.clone(tmp_path_factory.mktemp("published"))
    cache = os.path.relpath(repository.path / ".dvc" / "cache", published.path)
    published.dvc("cache", "dir", "--local", cache)  # relative: DVC takes any letters in it
    published.run(sys.executable, "-m", "stages.tools.publish", "--remote", str(REMOTE))
    published.commit("results")
    return published


@pytest.fixture
def clone(published, tmp_path) -> Repository:
    return published.clone(tmp_path / "ein Möbel")  # other letters than ASCII must do as well


def put_images(clone: Repository, repository: Repository) -> None:
    """Leave a clone as its own first stages would; prepare itself takes nothing but CIFAR-10."""
    clone.dvc("repro", "validate_params")
    shutil.copytree(repository.path / "data" / "cifar10", clone.path / "data" / "cifar10")
    clone.dvc("commit", "--force", "prepare")


def models(repository: Repository) -> dict[str, str]:
    """Of the main pipeline; DVC leaves an empty folder where the family's would be."""
    files = [path for path in (repository.path / "models").iterdir() if path.is_file()]
    return {path.name: digest(path) for path in files}


def all_but_tflite(models: dict[str, str]) -> dict[str, str]:
    """Those that travel: TFLite files are made from the INT8 ONNX files in seconds."""
    return {name: value for name, value in models.items() if not name.endswith(".tflite")}


def test_a_fresh_clone_pulls_every_model_but_tflite_and_no_images(clone, repository):
    clone.dvc("pull", "--allow-missing")
    assert models(clone) == all_but_tflite(models(repository))
    assert not (clone.path / "data" / "cifar10").exists()


def test_a_clone_prunes_by_another_amount_without_training_the_base(clone, repository):
    put_images(clone, repository)
    ran = stages_run(clone.dvc("exp", "run", "--pull", "-S", "prune.amount=0.6"))
    assert ran == {
        "validate_params",
        "memory_model",
        "prune",
        "export@pruned",
        "quantize@pruned",
        "evaluate@pruned",
        "evaluate@pruned_int8",
        "tflite@base",  # its file does not travel
        "tflite@pruned",
        "evaluate_tflite@pruned",
        "npu",
        "benchmark",
        "compare",
    }
    ours, theirs = models(clone), models(repository)
    same = {name for name in theirs if ours[name] == theirs[name]}
    assert same == {
        "base_model.pt",
        "teacher.npz",
        "model.onnx",
        "model_int8.onnx",
        "model_int8.tflite",
    }


def test_a_clone_makes_nothing_that_the_remote_holds(clone, repository):
    put_images(clone, repository)
    assert stages_run(clone.dvc("repro", "--pull")) == {"tflite@base", "tflite@pruned"}
    assert models(clone) == models(repository)
    assert clone.run("git", "status", "--short") == ""


def test_the_committed_remote_holds_the_committed_models_and_nothing_else():
    """`make publish` mends it."""
    with Repo(str(ROOT)) as repository:
        sizes = results(repository)
    files = subprocess.run(
        ["git", "ls-files", str(REMOTE)], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert {Path(name) for name in files} == {object_path(REMOTE, md5) for md5 in sizes}
    assert {digest(ROOT / object_path(REMOTE, md5)) for md5 in sizes} == set(sizes)
    assert sum(sizes.values()) <= LIMIT_BYTES


def test_a_clone_that_converts_line_ends_has_the_bytes_of_every_file(tmp_path):
    """Git for Windows sets core.autocrlf; DVC would take every changed file for a new one."""
    repository, clone = tmp_path / "repository", tmp_path / "clone"
    copy_working_tree(repository)
    for command in (
        ["git", "init", "--quiet", repository],
        ["git", "-C", repository, "add", "--all"],
        ["git", "-C", repository, *PERSON, "commit", "--quiet", "--message", "all"],
        ["git", "clone", "--quiet", "--config", "core.autocrlf=true", repository, clone],
    ):
        subprocess.run(command, check=True)
    files = [path for path in repository.rglob("*") if path.is_file()]
    files = [path.relative_to(repository) for path in files if ".git" not in path.parts]
    assert Path("params.yaml") in files
    changed = [name for name in files if digest(clone / name) != digest(repository / name)]
    assert changed == []

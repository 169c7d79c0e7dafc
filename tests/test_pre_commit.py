"""The hooks that `make hooks` sets up, in a repository of a few files."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipelines import ROOT, Repository

CONFIG = ROOT / ".pre-commit-config.yaml"


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Repository:
    monkeypatch.setenv("PRE_COMMIT_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    clone = Repository(tmp_path / "clone")
    clone.path.mkdir()
    for path in (CONFIG, ROOT / "pyproject.toml"):
        shutil.copy(path, clone.path)
    (clone.path / "dvc.yaml").write_text("stages: {}\n")
    for folder in ("stages", "deploy"):
        (clone.path / folder).mkdir()
        (clone.path / folder / "code.py").write_text("NUMBER = 1\n")
    clone.run("git", "init", "--quiet")
    clone.run("git", "config", "user.name", "Test")
    clone.run("git", "config", "user.email", "test@example.com")
    clone.dvc("init", "--quiet")
    clone.run("pre-commit", "install")
    clone.commit("first")
    return clone


def test_a_commit_with_bad_style_is_refused_and_a_good_one_taken(clone):
    (clone.path / "code.py").write_text("import os\nx = 'a'\n")
    clone.run("git", "add", "code.py")
    said = clone.run("git", "commit", "--message", "bad", succeed=False)
    assert "F401" in said
    assert "files were modified by this hook" in said
    (clone.path / "code.py").write_text('x = "a"\n')
    clone.commit("good")
    assert clone.run("git", "log", "-1", "--format=%s").strip() == "good"


def test_a_commit_with_a_wrong_type_is_refused(clone):
    (clone.path / "stages" / "code.py").write_text('NUMBER: int = "one"\n')
    clone.run("git", "add", "--all")
    said = clone.run("git", "commit", "--message", "wrong", succeed=False)
    assert "stages/code.py:1: error: Incompatible types" in said


def test_a_commit_says_what_dvc_repro_would_run_and_is_taken(clone):
    """But not what runs on request only."""
    for file, name in (("dvc.yaml", "make"), ("asked/dvc.yaml", "look")):
        (clone.path / file).parent.mkdir(exist_ok=True)
        (clone.path / file).write_text(f"stages: {{{name}: {{cmd: touch {name}, outs: [{name}]}}}}")
    clone.run("git", "add", "--all")
    said = clone.run("git", "commit", "--message", "pipelines").splitlines()
    assert "make:" in said
    assert not any(line.endswith("look:") for line in said)


def test_git_checkout_brings_the_models_of_the_branch(clone):
    model = clone.path / "model"
    for content in ("old", "new"):
        clone.run("git", "checkout", "--quiet", "-b", content)
        model.write_text(content)
        clone.dvc("add", "--quiet", "model")
        clone.commit(content)
    clone.run("git", "checkout", "--quiet", "old")
    assert model.read_text() == "old"


def test_the_hooks_use_the_tools_of_requirements_txt():
    """A second version of ruff would want another format than `make test`."""
    config = yaml.safe_load(CONFIG.read_text())
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        assert all(hook["language"] == "system" for hook in repository["hooks"])

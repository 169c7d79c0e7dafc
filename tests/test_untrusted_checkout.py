"""A checkout that git refuses, or that is none: the programs on revisions say what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.common.core.cli import InputError
from stages.tools import compare_revisions, pull_request_report, study
from tests.test_model_files import commit_models, make_repository

ARGUMENTS = {
    compare_revisions: ["v1"],
    pull_request_report: ["v1", "--markdown", "report.md"],
    study: ["--name", "seeds", "--csv", "s.csv", "--table", "s.md", "--picture", "s.png"],
}
TOOLS = pytest.mark.parametrize("tool", ARGUMENTS, ids=lambda tool: tool.__name__)
ROOT = Path(__file__).parent.parent
PARAMS = (ROOT / "params.yaml").read_text()


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A repository, and a git configuration of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    root = make_repository(tmp_path / "it's a repository")
    (root / "params.yaml").write_text(PARAMS)
    commit_models(root, "v1", {"model": b"first"})
    monkeypatch.chdir(root)
    return root


def arguments_of(tool) -> list[str]:
    return [*ARGUMENTS[tool], *(["--params", "params.yaml"] if tool is study else [])]


def message_of(tool, monkeypatch) -> str:
    """The error, or nothing when it ran."""
    monkeypatch.setattr(sys, "argv", [tool.__name__, *arguments_of(tool)])
    try:
        tool.main()
    except InputError as error:
        return str(error)
    return ""


def output_of(tool) -> str:
    """All that a process of its own prints: libgit2 reads git's configuration once a process."""
    result = subprocess.run(
        [sys.executable, "-m", tool.__name__, *arguments_of(tool)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return result.stdout + result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@TOOLS
def test_a_checkout_of_another_user_is_refused_with_gits_own_remedy(root, tool, monkeypatch):
    for path in [root, *root.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    message = message_of(tool, monkeypatch)
    assert "which another user owns" in message
    assert "\n" not in message
    remedy = message.split("run: ")[1]
    assert remedy.startswith("git config --global --add safe.directory ")

    assert os.system(remedy) == 0
    said = output_of(tool)
    assert "another user" not in said
    assert "Traceback" not in said  # nor does DVC raise


@TOOLS
def test_a_folder_of_the_repository_is_not_taken_for_its_root(root, tool, monkeypatch):
    (root / "params").mkdir()
    (root / "params" / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(root / "params")
    assert message_of(tool, monkeypatch).endswith(f"of {root}; run from the repository's root")


@TOOLS
def test_a_folder_that_is_no_repository_says_so(tmp_path, tool, monkeypatch):
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    assert "is no git repository; run from the repository's root" in message_of(tool, monkeypatch)

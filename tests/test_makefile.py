"""Every command that the Makefile's header promises does something."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pipelines import ROOT

PROMISED = re.findall(r"^# make (\w+)", (ROOT / "Makefile").read_text(), re.MULTILINE)


INSTALLED = ("--old-file", ".venv/installed", "--old-file", "install")  # set up already


def commands(target: str) -> list[str]:
    """What `make` would run for it, without what sets up .venv."""
    output = subprocess.run(
        ["make", "--dry-run", *INSTALLED, target], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    return [line for line in output.splitlines() if not line.startswith("make")]


@pytest.mark.parametrize("target", PROMISED)
def test_a_promised_target_has_commands(target):
    """A merge once lost the last recipes of the file; make then says `Nothing to be done`."""
    assert commands(target)


def test_publishing_puts_tables_into_the_pages_and_models_into_the_remote():
    pages = "README.md metrics/README.md"
    assert commands("readme") == [f"python -m stages.tools.readme {pages}"]
    assert commands("publish") == ["python -m stages.tools.publish --remote .dvc/remote"]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """In a folder with nothing but the Makefile and what counts as an installed .venv."""
    shutil.copy(ROOT / "Makefile", folder)
    installed = ("--old-file", ".venv/installed", "--old-file", "install")
    return subprocess.run(["make", *installed, *words], cwd=folder, capture_output=True, text=True)


def test_make_alone_says_what_there_is_and_does_nothing(tmp_path):
    assert "make quick " in make(tmp_path).stdout
    assert os.listdir(tmp_path) == ["Makefile"]


@pytest.mark.parametrize(
    ("target", "missing"), [("study", "NAME"), ("profile", "NAME"), ("verdict", "BASE")]
)
def test_a_variable_that_is_missing_is_named(tmp_path, target, missing):
    assert (
        f"error: {missing} is missing, e.g. make {target} {missing}="
        in make(tmp_path, target).stderr
    )


def test_a_second_make_quick_does_not_take_the_firsts_files_away(tmp_path):
    (tmp_path / "build" / "quick").mkdir(parents=True)
    (tmp_path / "build" / "quick.pid").write_text(str(os.getpid()))
    assert f"running here already (process {os.getpid()})" in make(tmp_path, "quick").stderr
    assert (tmp_path / "build" / "quick").is_dir()


def test_another_python_is_refused_with_what_to_install(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    result = subprocess.run(
        ["make", "install", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "false is not Python 3.11" in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()

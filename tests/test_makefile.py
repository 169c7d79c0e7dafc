"""Every command that the Makefile's header promises does something."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.pipelines import ROOT

PROMISED = re.findall(r"^# make ([\w-]+)", (ROOT / "Makefile").read_text(), re.MULTILINE)


INSTALLED = ("--old-file", ".venv/installed", "--old-file", "install")  # set up already


def commands(target: str) -> list[str]:
    """The commands that `make` would run for it, without what sets up .venv."""
    output = subprocess.run(
        ["make", "--dry-run", *INSTALLED, target], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    return [line for line in output.splitlines() if not line.startswith("make")]


@pytest.mark.parametrize("target", PROMISED)
def test_a_promised_target_has_commands(target):
    """A merge once lost the last recipes of the file; make then says `Nothing to be done`."""
    assert commands(target)


def test_publishing_puts_tables_into_the_pages_and_models_into_the_remote():
    pages = "README.md metrics/README.md stages/family/README.md"
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
    ("target", "missing"),
    [
        ("study", "NAME"),
        ("example", "NAME"),
        ("profile", "NAME"),
        ("compare", "BASE"),
        ("bundle", "MODEL"),
    ],
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


def script(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def chosen_python(folder: Path, *variables: str, **pythons: str) -> str:
    """The line that would make .venv, where PATH has these ``pythons`` (name: what it runs)."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.txt").touch()
    (folder / "bin").mkdir()
    for name, lines in pythons.items():
        script(folder / "bin" / name.replace("_", "."), lines)
    for name in ("make", "sh", "sed", "mkdir", "cat"):
        (folder / "bin" / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(folder / "bin")}
    command = ["make", "--dry-run", "install", *variables]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    [line] = [line for line in result.stdout.splitlines() if "-m venv .venv" in line]
    return line.split()[0].strip('"')


REAL = f'exec {sys.executable} "$@"'


def test_the_persons_own_python3_is_taken_where_it_will_do(tmp_path):
    assert chosen_python(tmp_path, python3=REAL, python3_13=REAL) == "python3"


def test_else_the_newest_that_runs_is_taken(tmp_path):
    """pyenv puts commands on PATH that only fail."""
    too_old = "exit 1"
    shim = "echo 'pyenv: python3.13: command not found' >&2; exit 127"
    found = chosen_python(tmp_path, python3=too_old, python3_13=shim, python3_12=REAL)
    assert found == "python3.12"


def test_the_python_that_a_person_names_is_taken(tmp_path):
    assert chosen_python(tmp_path, "PYTHON=python3.11", python3=REAL) == "python3.11"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("PYTHON=false", "error: false is no Python 3.11, 3.12 or 3.13; install one"),
        ("PYTHON=", "error: there is no Python 3.11, 3.12 or 3.13 here; install one"),
    ],
)
def test_another_python_is_refused_with_what_to_install(tmp_path, named, said):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    command = ["make", "install", named]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert said in result.stderr
    assert "make PYTHON=" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_supported_pythons_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "Makefile").read_text()


def test_the_list_of_commands_fits_a_screen():
    lines = make_help().splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100


def make_help() -> str:
    command = ["make", "--silent", "help"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

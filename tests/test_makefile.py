"""Every command that the Makefile's header promises does something."""

import re
import subprocess

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


def test_publishing_puts_tables_into_the_readme_and_models_into_the_remote():
    assert commands("readme") == ["python -m stages.readme --readme README.md"]
    assert commands("publish") == ["python -m stages.publish --remote .dvc/remote"]


def test_a_profile_without_a_name_is_refused_before_anything_is_measured():
    result = subprocess.run(
        ["make", *INSTALLED, "profile"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert (
        result.stderr.splitlines()[0] == "error: name the device: make profile NAME=raspberry-pi-5"
    )
    assert not (ROOT / "targets" / ".json").exists()

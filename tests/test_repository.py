"""Rules that hold between the files of the repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-hardware.txt",
        "requirements-examples.txt",
        "requirements-cluster.txt",
        "requirements-runtimes.txt",
        "requirements-mcu.txt",
    ],
)
def test_every_requirement_is_pinned(name):
    lines = (ROOT / name).read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))

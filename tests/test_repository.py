"""What must hold between the files of the repository."""

from pathlib import Path

import pytest

from stages.common.core.cli import InputError
from stages.tools.readme import with_tables

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-hardware.txt",
    ],
)
def test_every_requirement_is_pinned(name):
    lines = (ROOT / name).read_text().splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_the_readme_shows_the_committed_results():
    readme = (ROOT / "README.md").read_text()
    assert with_tables(readme, ROOT) == readme
    for table in ("metrics/summary.md", *map(str, committed_studies())):
        assert f"<!-- {table}: begin" in readme, table


def committed_studies() -> list[Path]:
    return [path.relative_to(ROOT) for path in (ROOT / "metrics" / "studies").glob("*.md")]


def test_tables_go_between_their_marks_and_nowhere_else(tmp_path):
    (tmp_path / "one.md").write_text("new\n")
    (tmp_path / "two.md").write_text("| 2 |\n")
    begin, end = "<!-- {}: begin (make readme) -->", "<!-- {}: end -->"
    readme = "a\n{}\nold\n{}\nb\n{}\n{}\n".format(
        *(mark.format(name) for name in ("one.md", "two.md") for mark in (begin, end))
    )
    expected = "a\n{}\n\nnew\n\n{}\nb\n{}\n\n| 2 |\n\n{}\n".format(
        *(mark.format(name) for name in ("one.md", "two.md") for mark in (begin, end))
    )
    assert with_tables(readme, tmp_path) == expected
    assert with_tables(expected, tmp_path) == expected
    with pytest.raises(InputError, match="lacks marks"):
        with_tables("no marks", tmp_path)
    with pytest.raises(InputError, match="three.md is missing"):
        with_tables(f"{begin.format('three.md')}\n{end.format('three.md')}", tmp_path)

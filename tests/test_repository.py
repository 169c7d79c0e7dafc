"""What must hold between the files of the repository."""

import ast
from pathlib import Path

import pytest
import yaml

from stages.common.core.cli import InputError
from stages.tools.readme import with_tables

ROOT = Path(__file__).parent.parent


def imported_files(path: Path) -> set[str]:
    """The files under stages/ that a module imports, directly or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages."):
            file = ROOT / (node.module.replace(".", "/") + ".py")
            found |= {str(file.relative_to(ROOT))} | imported_files(file)
    return found


def stage_definitions() -> dict[str, dict]:
    """The stages of `dvc repro` and of the pipelines that run only when they are asked for."""
    files = [ROOT / "dvc.yaml", *(ROOT / "stages").rglob("dvc.yaml")]
    stages = [each for file in files for each in yaml.safe_load(file.read_text())["stages"].items()]
    return {name: stage.get("do", stage) for name, stage in stages}


def names(entries: list) -> list[str]:
    """Paths of deps or outs, with or without options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize("name", [name for name in stage_definitions() if name != "check"])
def test_every_module_that_a_stage_imports_is_in_its_deps_and_no_other(name):
    """DVC follows no imports: a module left out would leave stale results."""
    module = ROOT / "stages" / f"{name}.py"
    deps = names(stage_definitions()[name]["deps"])
    declared = {dep for dep in deps if dep.startswith("stages/") and dep.endswith(".py")}
    assert declared == {f"stages/{name}.py"} | imported_files(module)


def test_every_module_that_check_imports_is_in_its_deps_or_in_a_folder_of_them():
    declared = names(stage_definitions()["check"]["deps"])
    for file in {"stages/validate_params.py"} | imported_files(ROOT / "stages" / "check.py"):
        assert file in declared or str(Path(file).parent) in declared, file


def test_no_stage_but_check_imports_another_and_common_imports_none():
    for path in (ROOT / "stages").rglob("*.py"):
        imports = {file for file in imported_files(path) if "/common/" not in file}
        is_tool = path.stem not in stage_definitions() and path.parent.name == "stages"
        assert not imports or is_tool or path.name == "check.py", path


def test_every_plot_has_a_title_labels_and_a_template():
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    charts = [chart for plot in plots if isinstance(plot, dict) for chart in plot.values()]
    assert len(charts) >= 10
    for chart in charts:
        assert {"template", "title", "x", "y", "x_label", "y_label"} <= set(chart)


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

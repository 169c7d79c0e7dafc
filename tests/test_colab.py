"""The notebook, executed from its first cell to its last on the tiny pipeline."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pipelines import ROOT, Repository

NOTEBOOK = ROOT / "colab.ipynb"
STEPS = ["Set up", "1. Train", "2. Convert", "3. Prune and export", "4. Benchmark and analyse"]


@pytest.fixture(scope="module")
def executed(repository, tmp_path_factory) -> nbformat.NotebookNode:
    """Reduced: a local clone, tiny params, packages that are there, and a cache with the images."""
    folder = tmp_path_factory.mktemp("colab")
    cache = repository.path / ".dvc" / "cache"
    (folder / "dvc").mkdir()
    (folder / "dvc" / "config").write_text(f"[cache]\n    dir = {cache}\n")
    environment = {
        "EDGE_REPOSITORY": str(repository.path),
        "EDGE_PACKAGES": sys.prefix,
        "EDGE_SETTINGS": "-S benchmark.rounds=10",
        "DVC_GLOBAL_CONFIG_DIR": str(folder / "dvc"),
    }
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        notebook = client.execute()
    notebook.metadata["clone"] = str(folder / "edge")
    return notebook


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """Return what the cells displayed of a MIME type, in order."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data[kind] for output in found if kind in output.get("data", {})]


def test_the_notebook_shows_table_plots_and_what_the_experiment_changed(executed):
    *_, summary, params, metrics = outputs(executed, "text/markdown")
    assert "| pruned_int8 |" in summary
    assert re.search(r"prune\.amount +\| 0\.5 +\| 0\.8 ", params)
    assert "pruned.macs" in metrics
    assert "base.macs" not in metrics
    assert len(outputs(executed, "image/png")) == 2 + 3 + 1  # curves, pictures, the experiment's


def test_the_settings_and_the_experiment_reach_the_clone(executed):
    clone = Repository(Path(executed.metadata["clone"]))
    assert "rounds: 10" in (clone.path / "params.yaml").read_text()
    assert clone.run("git", "log", "-1", "--format=%s").strip() == "results of this machine"
    assert clone.json("metrics/benchmark.json")["environment"]["rounds"] == 10


def test_the_notebook_has_the_four_steps_in_order_and_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (.*)", text, re.MULTILINE)[: len(STEPS)] == STEPS
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_notebook_without_a_repository_says_what_to_fill_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGE_REPOSITORY", raising=False)
    code = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells]
    with pytest.raises(ValueError, match="fill in REPOSITORY in the first code cell"):
        exec("\n".join(code[1:4:2]), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_another_python_is_refused_before_anything_is_installed(monkeypatch, version):
    monkeypatch.delenv("EDGE_PACKAGES", raising=False)
    monkeypatch.setattr(sys, "version_info", version)
    install = nbformat.read(NOTEBOOK, as_version=4).cells[5].source
    with pytest.raises(RuntimeError, match="take 3.11, 3.12 or 3.13"):
        exec(install, {"os": os, "sys": sys})

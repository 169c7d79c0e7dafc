"""The notebook, executed from its first cell to its last on the tiny pipeline; its address."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from stages.common.cli import InputError

from stages import colab
from tests.pipelines import ROOT, Repository

NOTEBOOK = ROOT / "colab.ipynb"
README = ROOT / "README.md"
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
    """What the cells displayed of a MIME type, in order."""
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


def test_the_readme_opens_the_repository_that_the_notebook_clones():
    address = colab.address_in(json.loads(NOTEBOOK.read_text()))
    text = colab.invitation(address, NOTEBOOK.name, branch="main")
    assert colab.with_invitation(README.read_text(), text) == README.read_text()


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Repository:
    for path in (NOTEBOOK, README):
        (tmp_path / path.name).write_text(path.read_text())
    clone = Repository(tmp_path)
    clone.run("git", "init", "--quiet")
    command = ["colab", "--notebook", "colab.ipynb", "--readme", "README.md", "--branch", "main"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.chdir(tmp_path)
    return clone


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/some/thing.git",
        "git@github.com:some/thing.git",
        "https://github.com/some/thing",
    ],
)
def test_a_clone_from_github_gets_a_link_of_its_own(clone, url):
    clone.run("git", "remote", "add", "origin", url)
    colab.main()
    first = (clone.path / "README.md").read_text()
    link = "https://colab.research.google.com/github/some/thing/blob/main/colab.ipynb"
    assert first.count(link) == 1
    notebook = json.loads((clone.path / "colab.ipynb").read_text())
    assert colab.address_in(notebook) == "https://github.com/some/thing"
    nbformat.validate(nbformat.from_dict(notebook))
    colab.main()
    assert (clone.path / "README.md").read_text() == first


def test_what_colab_cannot_open_is_refused_and_nothing_is_written(clone):
    with pytest.raises(InputError, match="has no remote origin"):
        colab.main()
    clone.run("git", "remote", "add", "origin", "https://github.com.evil.org/some/thing")
    with pytest.raises(InputError, match="Colab opens notebooks from https://github.com"):
        colab.main()
    assert (clone.path / "README.md").read_text() == README.read_text()
    assert (clone.path / "colab.ipynb").read_text() == NOTEBOOK.read_text()

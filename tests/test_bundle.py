"""make bundle: a folder or archive that works elsewhere, or one line and nothing."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import yaml
from dvc.repo import Repo

from stages import evaluate
from stages.common.core.cli import InputError
from stages.tools.bundle import __main__ as bundle
from stages.tools.web import runtime
from tests.conftest import make_images
from tests.networks import call, int8_tflite, write_models, write_params
from tests.pipelines import ROOT
from tests.test_card import BENCHMARK, LICENCES, ROBUSTNESS, run_robustness
from tests.test_mcu import compile_and_run, needs_compiler
from tests.test_model_files import git, make_repository

NAMES = ("base", "base_int8")
ONNX = {"base": "models/model.onnx", "base_int8": "models/model_int8.onnx"}
TFLITE = "tflite/model_int8.tflite"


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_directory) -> Path:
    """A repository in which DVC has noted which models the figures were measured on."""
    root = make_repository(tmp_path_factory.mktemp("bundle") / "repository")
    shutil.copytree(ROOT / "deploy", root / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", root)
    for name, path in zip(NAMES, write_models(root / "models"), strict=True):
        path.rename(root / ONNX[name])
    (root / TFLITE).parent.mkdir()
    (root / TFLITE).write_bytes(int8_tflite())
    params = write_params(root / "params.yaml", robustness=ROBUSTNESS, card=vars(LICENCES))
    metrics = root / "metrics"
    with pytest.MonkeyPatch.context() as patch:
        models = {name: root / path for name, path in ONNX.items()}
        found = run_robustness(patch, root, data_directory, **models)
        for name, path in models.items():
            call(
                evaluate, patch, params=params, data=data_directory, onnx=path,
                metrics=metrics / "evaluate" / f"{name}.json", predictions=root / "unused.csv",
            )  # fmt: skip
    (root / "robustness.json").unlink()
    (metrics / "robustness.json").write_text(json.dumps(found))
    (metrics / "benchmark.json").write_text(json.dumps(BENCHMARK))
    (metrics / "evaluate_tflite").mkdir()
    found = {"accuracy": 90.0, "agreement_opencv": 99.0, "images": 100}
    (metrics / "evaluate_tflite" / "base.json").write_text(json.dumps(found))
    note_what_was_measured(root)
    return root


def note_what_was_measured(root: Path) -> None:
    """dvc.yaml and dvc.lock, as `dvc repro` leaves them."""
    network = {"int8": ONNX["base_int8"], "tflite": TFLITE}
    variables = [{"networks": {"base": network}}, {"variants": ONNX}]
    stages = {
        "export": {"cmd": "unused", "outs": list(ONNX.values())},
        **{name: stage([path], f"metrics/evaluate/{name}.json") for name, path in ONNX.items()},
        "robustness": stage(["models"], "metrics/robustness.json"),
        "benchmark": stage(list(ONNX.values()), "metrics/benchmark.json"),
        "evaluate_tflite": stage([TFLITE], "metrics/evaluate_tflite/base.json"),
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"vars": variables, "stages": stages}))
    with contextlib.chdir(root), Repo() as repository:  # DVC looks for stages where it runs
        repository.commit(force=True)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "measured")


def stage(deps: list[str], out: str) -> dict:
    return {"cmd": "unused", "deps": deps, "outs": [{out: {"cache": False}}]}


@pytest.fixture
def root(made, tmp_path, monkeypatch) -> Path:
    copy = tmp_path / "repository"
    shutil.copytree(made, copy, symlinks=True)
    monkeypatch.chdir(copy)
    return copy


def make_bundle(monkeypatch: pytest.MonkeyPatch, model: str, place: str, *more: str) -> None:
    words = ["--params", "params.yaml", "--model", model, "--place", place]
    monkeypatch.setattr("sys.argv", ["bundle", *words, "--folder", "build/bundles", *more])
    bundle.main()


def unpacked(root: Path, name: str, elsewhere: Path) -> Path:
    """The archive's folder, moved to where nothing of the repository is."""
    elsewhere.mkdir()
    with tarfile.open(root / "build" / "bundles" / f"{name}.tar.gz") as archive:
        archive.extractall(elsewhere, filter="data")
    assert os.listdir(elsewhere) == [name]
    return elsewhere / name


def assert_checksums_are_right(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    found = dict(reversed(line.split("  ", 1)) for line in lines)
    files = [each for each in folder.rglob("*") if each.is_file() and each.name != "SHA256SUMS"]
    assert found == {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in files
    }
    if shutil.which("sha256sum"):
        check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
        subprocess.run(check, cwd=folder, check=True)


def run_there(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """With nothing of the repository to import."""
    command = [sys.executable, "-I", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_what_a_pi_gets_classifies_a_picture_elsewhere(root, tmp_path, monkeypatch):
    make_bundle(monkeypatch, "base_int8", "pi", "--archive")
    folder = unpacked(root, "base_int8-pi", tmp_path / "elsewhere")

    assert_checksums_are_right(folder)
    assert (folder / "LICENSE").read_text() == (root / "LICENSE").read_text()
    assert (folder / "MODEL_CARD.md").read_text().startswith("# Model card: base_int8")
    picture = np.ascontiguousarray(make_images(1).pixels[0].transpose(1, 2, 0)[..., ::-1])
    cv2.imwrite(str(tmp_path / "picture.png"), picture)
    found = run_there(
        folder, "classify.py", "model_int8.onnx", str(tmp_path / "picture.png"), "--json"
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["class"] == "airplane"


def test_the_self_test_of_its_page_passes(root, monkeypatch):
    make_bundle(monkeypatch, "base_int8", "pi")
    folder = root / "build" / "bundles" / "base_int8-pi"
    commands = [
        line.removeprefix("env/bin/python ").split()
        for line in (folder / "README.md").read_text().splitlines()
        if line.startswith("env/bin/python ")
    ]
    classify, compare = commands[-2:]
    output, target = classify[: classify.index(">")], classify[-1]
    (folder / target).write_text(run_there(folder, *output).stdout)
    found = run_there(folder, *compare)
    assert found.returncode == 0, found.stderr
    assert "4 of 4 classes the same" in found.stdout


def test_the_model_of_a_bundle_is_the_same_network_with_its_card_in_its_metadata(root, monkeypatch):
    before = (root / ONNX["base"]).read_bytes()
    make_bundle(monkeypatch, "base", "pi")

    assert (root / ONNX["base"]).read_bytes() == before
    copy = onnx.load(root / "build" / "bundles" / "base-pi" / "model.onnx")
    [entry] = [each for each in copy.metadata_props if each.key == "card"]
    assert json.loads(entry.value)["sha256"] == hashlib.sha256(before).hexdigest()
    copy.metadata_props.remove(entry)
    assert copy == onnx.load(root / ONNX["base"])


def test_the_same_model_gives_the_same_archive(root, monkeypatch):
    archive = root / "build" / "bundles" / "base_int8-pi.tar.gz"
    make_bundle(monkeypatch, "base_int8", "pi", "--archive")
    first = archive.read_bytes()
    make_bundle(monkeypatch, "base_int8", "pi", "--archive")
    assert archive.read_bytes() == first


def test_a_new_bundle_takes_the_place_of_an_old_or_unfinished_one(root, monkeypatch):
    bundles = root / "build" / "bundles"
    for old in ("base_int8-pi/old.txt", ".base_int8-pi.part/half.txt"):
        (bundles / old).parent.mkdir(parents=True)
        (bundles / old).touch()
    make_bundle(monkeypatch, "base_int8", "pi")
    assert os.listdir(bundles) == ["base_int8-pi"]
    assert not (bundles / "base_int8-pi" / "old.txt").exists()


def overwrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def with_other_bytes(root: Path, path: str) -> None:
    """The same file but for one letter of its metadata."""
    content = (root / path).read_bytes()
    overwrite(root / path, content.replace(b"airplane", b"aeroplan"))


def edited(root: Path, path: str) -> None:
    file = root / path
    file.write_text(file.read_text().replace('"A processor"', '"Another one"'))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda root: with_other_bytes(root, ONNX["base_int8"]),
            "metrics/evaluate/base_int8.json was measured on another models/model_int8.onnx than "
            "this; run 'dvc repro base_int8'",
        ),
        (
            lambda root: with_other_bytes(root, ONNX["base"]),
            "metrics/robustness.json was measured on another models than this",
        ),
        (
            lambda root: edited(root, "metrics/benchmark.json"),
            "metrics/benchmark.json is not what dvc.lock says was measured; run 'dvc repro "
            "benchmark'",
        ),
        (lambda root: (root / "dvc.lock").unlink(), "is not what dvc.lock says was measured"),
        (lambda root: (root / ONNX["base_int8"]).unlink(), "model_int8.onnx is missing; run"),
        (lambda root: (root / "metrics/robustness.json").unlink(), "is missing; run 'make card'"),
        (lambda root: (root / "LICENSE").unlink(), "LICENSE"),
        (lambda root: (root / "deploy/classify.py").unlink(), "deploy/classify.py"),
    ],
    ids=[
        "another model", "another model beside it", "edited figures", "no dvc.lock",
        "no model", "no figures", "no licence", "no program",
    ],
)  # fmt: skip
def test_what_is_missing_or_of_another_model_is_one_line_and_leaves_nothing(
    root, monkeypatch, change, said
):
    change(root)
    with pytest.raises((InputError, OSError)) as caught:
        make_bundle(monkeypatch, "base_int8", "pi")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    bundles = root / "build" / "bundles"
    assert not bundles.exists() or os.listdir(bundles) == []


@pytest.mark.parametrize(
    ("model", "place", "said"),
    [
        (
            "base_int9",
            "pi",
            "MODEL=base_int9: dvc.yaml has no such variant; did you mean base_int8?",
        ),
        ("x", "pi", "expected base, base_int8"),
        ("family/nano", "pi", "has no stages/family/dvc.yaml"),
        ("base", "pie", "FOR=pie: no such place; did you mean pi?"),
        ("base", "moon", "FOR=moon: no such place; expected pi"),
    ],
)
def test_an_unknown_model_or_place_is_named_with_what_there_is(
    root, monkeypatch, model, place, said
):
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        make_bundle(monkeypatch, model, place)
    assert not (root / "build").exists()


def test_a_model_that_did_not_travel_hinders_no_other(root, monkeypatch):
    (root / ONNX["base"]).unlink()
    make_bundle(monkeypatch, "base_int8", "pi")
    with_other_bytes(root, ONNX["base_int8"])
    with pytest.raises(InputError, match="was measured on another"):
        make_bundle(monkeypatch, "base_int8", "pi")


def test_where_opencv_is_wrong_a_pi_gets_nothing(root, monkeypatch):
    path = root / "metrics" / "robustness.json"
    content = json.loads(path.read_text())
    content["models"]["base_int8"]["evaluated_in"] = "onnxruntime"
    path.write_text(json.dumps(content))
    note_what_was_measured(root)
    with pytest.raises(InputError, match=r"OpenCV is wrong for it \(onnxruntime is right\)"):
        make_bundle(monkeypatch, "base_int8", "pi")
    assert os.listdir(root / "build" / "bundles") == []


@pytest.fixture
def fake_runtime(root, monkeypatch) -> None:
    """Files that count as ONNX Runtime Web, so that none is fetched."""
    folder = root / runtime.RUNTIME
    folder.mkdir(parents=True)
    for name in runtime.DIGESTS:
        (folder / name).write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in runtime.DIGESTS}
    monkeypatch.setattr(runtime, "DIGESTS", digests)


@pytest.mark.usefixtures("fake_runtime")
def test_what_a_browser_gets_is_complete_in_both_precisions(root, tmp_path, monkeypatch):
    make_bundle(monkeypatch, "base_int8", "web", "--archive")
    folder = unpacked(root, "base_int8-web", tmp_path / "elsewhere")

    assert_checksums_are_right(folder)
    listed = json.loads((folder / "models.json").read_text())["models"]
    assert listed == ["models/model_int8.onnx", "models/model.onnx"]
    for path, card in zip(listed, ("MODEL_CARD.md", "MODEL_CARD_base.md"), strict=True):
        metadata = {each.key: each.value for each in onnx.load(folder / path).metadata_props}
        name = json.loads(metadata["card"])["name"]
        assert (folder / card).read_text().startswith(f"# Model card: {name}\n")
    assert {"index.html", "LICENSE", "README.md", "onnxruntime"} <= set(os.listdir(folder))


@pytest.mark.usefixtures("fake_runtime")
def test_without_figures_of_the_second_precision_a_browser_gets_nothing(root, monkeypatch):
    (root / "metrics" / "evaluate" / "base.json").unlink()
    with pytest.raises(InputError, match="base.json is missing; run 'dvc repro evaluate'"):
        make_bundle(monkeypatch, "base_int8", "web")
    assert os.listdir(root / "build" / "bundles") == []


@needs_compiler
def test_what_a_microcontroller_gets_compiles_elsewhere_and_holds_the_file(
    root, tmp_path, monkeypatch
):
    make_bundle(monkeypatch, "base_int8", "mcu", "--archive")
    folder = unpacked(root, "base_int8-mcu", tmp_path / "elsewhere")

    assert_checksums_are_right(folder)
    card = (folder / "MODEL_CARD.md").read_text()
    content = (root / TFLITE).read_bytes()
    assert f"Packed here as TFLite: `model_int8.tflite`, {len(content):,} bytes" in card
    assert hashlib.sha256(content).hexdigest() in card
    program = """
    #include <cstdio>
    #include "model.h"
    #include "model_io.h"
    int main() {
      for (std::size_t each = 0; each < kModelBytes; ++each) std::printf("%02x", kModel[each]);
    }
    """
    assert bytes.fromhex(compile_and_run(folder, program, "model.cc")) == content


@pytest.mark.parametrize(
    ("model", "change", "said"),
    [
        ("base", lambda root: None, "MODEL=base has no TFLite file; expected base_int8"),
        (
            "base_int8",
            lambda root: overwrite(root / TFLITE, b"another"),
            "evaluate_tflite/base.json was measured on another tflite/model_int8",
        ),
        (
            "base_int8",
            lambda root: (root / "metrics/evaluate_tflite/base.json").unlink(),
            "base.json is missing; run 'dvc repro evaluate_tflite'",
        ),
    ],
    ids=["fp32", "another file", "no figures"],
)
def test_a_microcontroller_gets_no_other_file_than_the_measured_one(
    root, monkeypatch, model, change, said
):
    change(root)
    with pytest.raises(InputError, match=said):
        make_bundle(monkeypatch, model, "mcu")
    assert not list((root / "build").glob("bundles/*"))

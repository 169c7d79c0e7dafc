"""stages.card: robustness of all models, their comparison, and a card of each."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib import image as png

from stages import evaluate
from stages.card import compare, robustness, write
from stages.card.corrupted_images.confidence import calibration_error, confidence_of
from stages.card.pages.card import Sources, card_metadata, read_card
from stages.card.pages.card_page import card_page
from stages.card.params import CardParams
from stages.card.robustness import references
from stages.common.core.cli import InputError
from stages.common.data.dataset import CIFAR10, Images, load_test_images, write_dataset
from stages.common.measuring.exact_tests import mcnemar_exact, paired_change
from tests.conftest import make_images
from tests.networks import call, write_models, write_params
from tests.pipelines import ROOT

LICENCES = CardParams(licence="MIT", data_licence="")
ROBUSTNESS = {
    "jpeg_quality": 75, "noise": 0.08, "blur": 0.7, "brightness": 0.15, "seed": 0,
    "calibration_bins": 15,
}  # fmt: skip
KINDS = ["clean", "jpeg", "noise", "blur", "brightness"]
LATENCY = {
    "engine": "new", "latency_ms_median": 1.5, "latency_ms_p5": 1.4, "latency_ms_p95": 1.7,
    "ratio_to_base": 0.5,
}  # fmt: skip
BENCHMARK = {
    "environment": {
        "cpu": "A processor", "threads": 1, "rounds": 300, "opencv": "5", "onnxruntime": "1",
    },
    "base": {"opencv": LATENCY, "onnxruntime": LATENCY | {"engine": "cpu"}},
    "base_int8": {"opencv": LATENCY | {"ratio_to_base": None}},
}  # fmt: skip


# Confidence


def test_confidence_is_the_share_of_the_highest_logit():
    logits = np.array([[0, 0], [1000, 0], [np.log(3), 0]], np.float32)
    np.testing.assert_allclose(confidence_of(logits), [0.5, 1, 0.75], rtol=1e-6)


def test_the_calibration_error_is_that_of_the_equation_by_hand():
    confidence = np.array([0.9, 0.8, 0.55, 0.6, 1.0])
    right = np.array([True, False, True, True, True])
    # Of 2 bins the upper one has all; of 5: (0.4, 0.6] two, (0.6, 0.8] one, (0.8, 1] two.
    assert calibration_error(confidence, right, bins=2) == pytest.approx(100 * (4 - 3.85) / 5)
    expected = abs(2 - 1.15) + abs(0 - 0.8) + abs(2 - 1.9)
    assert calibration_error(confidence, right, bins=5) == pytest.approx(100 * expected / 5)


def test_a_model_that_is_right_as_often_as_it_is_confident_has_no_error():
    confidence = np.full(10, 0.8)
    assert calibration_error(confidence, np.arange(10) < 8, bins=15) == pytest.approx(0)
    assert calibration_error(confidence, np.arange(10) < 3, bins=15) == pytest.approx(50)


# What compression costs


def test_a_change_on_the_same_images_excludes_0_just_where_mcnemars_test_is_below_5_percent():
    for only_first, only_second in [(0, 0), (3, 9), (2, 12), (40, 20), (30, 40)]:
        change, low, high = paired_change(only_first, only_second, images=100)
        assert low <= change <= high
        assert change == pytest.approx(only_second - only_first)
        assert (low > 0 or high < 0) == (mcnemar_exact(only_first, only_second) < 0.05)


def test_a_model_is_compared_with_its_fp32_model_and_then_with_the_base():
    names = ["base", "pruned", "base_int8", "pruned_int8"]
    assert [references(name, names) for name in names] == [
        [], ["base"], ["base"], ["pruned", "base"],
    ]  # fmt: skip


# The stages


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_directory) -> Path:
    """A folder in which robustness and evaluate have run on an FP32 and an INT8 model."""
    folder = tmp_path_factory.mktemp("card")
    fp32, int8 = write_models(folder)
    write_params(folder / "params.yaml", robustness=ROBUSTNESS, card=dataclasses.asdict(LICENCES))
    (folder / "benchmark.json").write_text(json.dumps(BENCHMARK))
    with pytest.MonkeyPatch.context() as patch:
        run_robustness(patch, folder, data_directory, base=fp32, base_int8=int8)
        for name, onnx_file in (("base", fp32), ("base_int8", int8)):
            call(
                evaluate, patch, params=folder / "params.yaml", data=data_directory,
                onnx=onnx_file, metrics=folder / f"{name}.json", predictions=folder / "p.csv",
            )  # fmt: skip
    return folder


def run_robustness(patch, folder: Path, data: Path, **models: Path) -> dict:
    arguments = ["robustness", "--params", folder / "params.yaml", "--data", data]
    for name, path in models.items():
        arguments += ["--model", f"{name}={path}"]
    arguments += ["--metrics", folder / "robustness.json"]
    patch.setattr("sys.argv", [str(each) for each in arguments])
    robustness.main()
    return json.loads((folder / "robustness.json").read_text())


def sources_of(folder: Path, name: str) -> Sources:
    file = {"base": "fp32.onnx", "base_int8": "int8.onnx"}[name]
    return Sources(
        name,
        onnx=folder / file,
        evaluation=folder / f"{name}.json",
        robustness=folder / "robustness.json",
        benchmark=folder / "benchmark.json",
    )


@pytest.fixture
def copied(made, tmp_path) -> Path:
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_every_model_has_every_kind_of_images_and_clean_is_what_evaluate_found(
    made, data_directory
):
    found = json.loads((made / "robustness.json").read_text())

    assert list(found["models"]) == ["base", "base_int8"]
    assert found["conditions"] == ROBUSTNESS
    assert found["digest"] == load_test_images(data_directory).digest()
    for name, block in found["models"].items():
        assert list(block) == [
            "evaluated_in", "accuracy", "confidence", "calibration_error", "changes",
        ]  # fmt: skip
        assert all(list(block[key]) == KINDS for key in ("accuracy", "calibration_error"))
        evaluation = json.loads((made / f"{name}.json").read_text())
        assert block["accuracy"]["clean"] == evaluation["accuracy"]
        assert block["accuracy"]["noise"] <= block["accuracy"]["clean"]
    change = found["models"]["base_int8"]["changes"]["base"]["clean"]
    base, int8 = (found["models"][name]["accuracy"]["clean"] for name in found["models"])
    assert change["points"] == int8 - base
    assert found["models"]["base"]["changes"] == {}


def test_the_same_images_and_models_give_the_same_bytes(copied, data_directory, monkeypatch):
    before = (copied / "robustness.json").read_bytes()
    models = {"base": copied / "fp32.onnx", "base_int8": copied / "int8.onnx"}
    run_robustness(monkeypatch, copied, data_directory, **models)
    assert (copied / "robustness.json").read_bytes() == before


def test_photos_of_other_classes_and_uneven_ones_are_measured(copied, tmp_path, monkeypatch):
    """As a folder of images gives them: fewer, uneven, with their own description."""
    images = make_images(60)
    kept = images[np.flatnonzero((images.labels != 3) | (np.arange(60) < 20))]
    info = dataclasses.replace(CIFAR10, resize="crop")
    split = Images(kept.pixels, kept.labels, info)
    folder = tmp_path / "photos"
    folder.mkdir()
    write_dataset(folder, dict.fromkeys(("train", "validation", "test"), split), "folder")

    found = run_robustness(monkeypatch, copied, folder, base=copied / "fp32.onnx")

    assert found["images"] == len(kept)
    assert found["digest"] == split.digest()


def test_a_missing_model_is_one_line_and_nothing_is_written(copied, data_directory, monkeypatch):
    (copied / "robustness.json").unlink()
    with pytest.raises(InputError, match="absent.onnx is missing; run 'dvc repro'"):
        run_robustness(monkeypatch, copied, data_directory, base=copied / "absent.onnx")
    assert not (copied / "robustness.json").exists()


def test_the_comparison_has_a_table_for_each_question_and_a_picture(copied, monkeypatch):
    files = {name: copied / f"out.{name}" for name in ("table", "picture")}
    call(compare, monkeypatch, robustness=copied / "robustness.json", **files)
    text = files["table"].read_text()
    heads = "| variant | clean | JPEG 75 | noise 0.08 | blur 0.7 px | brightness +0.15 |"
    assert text.splitlines().count(heads) == 3
    assert "| base_int8, beside base | " in text
    assert all(
        len(cell) <= 40 for line in text.splitlines() if "|" in line for cell in line.split("|")
    )
    assert "Hendrycks and Dietterich" in text
    assert "Guo" in text
    assert png.imread(files["picture"]).std() > 0


def test_a_card_says_what_was_measured_of_its_model_and_of_no_other(made):
    text = card_page(read_card(sources_of(made, "base_int8"), LICENCES), files=[])
    evaluation = json.loads((made / "base_int8.json").read_text())
    found = json.loads((made / "robustness.json").read_text())["models"]

    assert text.startswith("# Model card: base_int8\n")
    assert f"{evaluation['size_bytes']:,} bytes" in text
    assert f"{evaluation['macs']:,} MACs" in text
    assert f"{evaluation['accuracy']:.0f} % of 100 test images" in text
    assert f"{evaluation['accuracy_low']:.0f} to {evaluation['accuracy_high']:.0f}" in text
    assert f"| cat | {evaluation['class_accuracy']['cat']:.0f} % [" in text
    for kind, title in zip(KINDS, ["clean", "JPEG 75", "noise 0.08"], strict=False):
        [row] = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
        cells = row.split(" | ")
        assert cells[1] == f"{found['base_int8']['accuracy'][kind]:.0f} %"
        assert cells[-2] == f"{found['base_int8']['calibration_error'][kind]:.0f} %"
        assert cells[-1] == f"{found['base']['calibration_error'][kind]:.0f} % |"
    assert "INT8 with 7-bit weights, 100 images for its ranges" in text
    assert "| OpenCV DNN (new) | 1.50 ms | 1.40 to 1.70 ms |  |" in text
    assert "A processor, 1 thread" in text
    assert all(
        len(cell) <= 40 for line in text.splitlines() if "|" in line for cell in line.split("|")
    )


def test_a_card_of_fp32_has_no_column_of_another_model(made):
    text = card_page(read_card(sources_of(made, "base"), LICENCES), files=["A line more"])
    assert "| images | accuracy | ECE |" in text
    assert "\n- A line more\n" in text
    assert "INT8" not in text


def test_the_metadata_of_a_card_holds_what_is_true_of_the_file_anywhere(made):
    card = read_card(sources_of(made, "base_int8"), LICENCES)
    content = json.loads(card_metadata(card)["card"])
    assert content["sha256"] == card.sha256
    assert content["data"]["name"] == "CIFAR-10"
    assert "Krizhevsky" in content["data"]["licence"]
    assert list(content["accuracy_by_kind"]) == sorted(KINDS)
    assert not [key for key in content if key.endswith(("_ms", "_bytes"))]


def test_the_licence_of_own_images_is_that_of_params(made):
    own = CardParams(licence="MIT", data_licence="CC BY 4.0")
    card = read_card(sources_of(made, "base"), own)
    card.metadata["provenance"]["data"] = {"source": "folder"}
    assert "photos in class folders; licence: CC BY 4.0. Training images: SHA-256" in card_page(
        card, []
    )
    unknown = dataclasses.replace(card, licences=LICENCES)
    assert "licence: not stated (card.data_licence" in card_page(unknown, files=[])


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("base.json", {"size_bytes": 7}, "is of a file of 7 bytes, .*run 'dvc repro evaluate'"),
        ("base.json", {"accuracy": 12.0}, "they are of different models; run 'make card'"),
        ("robustness.json", {"models": {}}, "has no model 'base'; run 'make card'"),
        ("benchmark.json", {"base": None}, "has no model 'base'; run 'dvc repro benchmark'"),
    ],
)
def test_figures_of_another_model_are_one_line(copied, file, changes, said):
    path = copied / file
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(InputError, match=said):
        read_card(sources_of(copied, "base"), LICENCES)


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("fp32.onnx", "dvc repro"),
        ("base.json", "dvc repro evaluate"),
        ("robustness.json", "make card"),
        ("benchmark.json", "dvc repro benchmark"),
    ],
)
def test_a_missing_file_is_one_line_and_no_card_is_written(copied, monkeypatch, file, remedy):
    (copied / file).unlink()
    arguments = dataclasses.asdict(sources_of(copied, "base")) | {"card": copied / "card.md"}
    with pytest.raises(InputError, match=f"{file} is missing; run '{remedy}'"):
        call(write, monkeypatch, params=copied / "params.yaml", **arguments)
    assert not (copied / "card.md").exists()


def test_the_stage_writes_the_page(copied, monkeypatch):
    arguments = dataclasses.asdict(sources_of(copied, "base")) | {"card": copied / "card.md"}
    call(write, monkeypatch, params=copied / "params.yaml", **arguments)
    expected = card_page(read_card(sources_of(copied, "base"), LICENCES), files=[])
    assert (copied / "card.md").read_text() == expected


def test_the_pipeline_of_cards_has_the_variants_of_the_main_one():
    def variants(path: str) -> dict:
        entries = yaml.safe_load((ROOT / path).read_text())["vars"]
        [found] = [each["variants"] for each in entries if "variants" in each]
        return found

    assert variants("stages/card/dvc.yaml") == variants("dvc.yaml")

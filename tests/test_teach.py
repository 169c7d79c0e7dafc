"""The teacher's outputs on disk: what is written is read back, and nothing else is taken for it."""

import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from stages import teach
from stages.common.building.build import build_chain
from stages.common.core.cli import InputError
from stages.common.data.dataset import load_training_images
from stages.common.data.params import DataParams
from stages.common.training.params import Augmentation
from stages.common.training.teacher import TeacherOutputs, load_teacher, no_teacher, save_teacher
from tests.conftest import make_images
from tests.networks import PARAMS, RECIPE, TEACH, call, run_context, write_params

TEACHER = TeacherOutputs(
    logits=np.random.default_rng(0).normal(size=(2, 5, 10)).astype(np.float16),
    seed=3,
    first_view=8,
    augmentation=Augmentation(translate=2, cutout=8),
    data_digest="ab" * 32,
)


def test_a_saved_teacher_is_read_back_and_equal_content_gives_equal_bytes(tmp_path):
    save_teacher(tmp_path / "one.npz", TEACHER)
    save_teacher(tmp_path / "two.npz", TEACHER)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    loaded = load_teacher(tmp_path / "one.npz", TEACHER.augmentation, data_digest="ab" * 32)
    assert np.array_equal(loaded.logits, TEACHER.logits)
    assert (loaded.seed, loaded.first_view, loaded.views) == (3, 8, 2)


@pytest.mark.parametrize(
    "other", [{"translate": 1}, {"cutout": 0}, {"crop_scale": 0.5}, {"colour": 0.2}], ids=str
)
def test_a_teacher_of_other_views_is_refused(tmp_path, other):
    save_teacher(tmp_path / "teacher.npz", TEACHER)
    augmentation = dataclasses.replace(TEACHER.augmentation, **other)
    with pytest.raises(InputError, match=r"teacher.npz is of other training images or views"):
        load_teacher(tmp_path / "teacher.npz", augmentation, TEACHER.data_digest)


def test_a_teacher_of_other_images_is_refused(tmp_path):
    save_teacher(tmp_path / "teacher.npz", TEACHER)
    with pytest.raises(InputError, match=r"teacher.npz is of other training images or views"):
        load_teacher(tmp_path / "teacher.npz", TEACHER.augmentation, data_digest="cd" * 32)


def test_the_file_names_crop_and_colour_only_where_there_are_any(tmp_path):
    path = tmp_path / "teacher.npz"
    save_teacher(path, TEACHER)
    names = ["logits", "seed", "first_view", "translate", "cutout", "data_digest"]
    assert np.load(path).files == names
    augmentation = Augmentation(2, 8, crop_scale=0.35, colour=0.2)
    save_teacher(path, dataclasses.replace(TEACHER, augmentation=augmentation))
    assert set(np.load(path).files) == {*names, "crop_scale", "colour"}
    loaded = load_teacher(path, augmentation, TEACHER.data_digest)
    assert loaded.augmentation == augmentation


def test_outputs_on_no_views_are_read_back(tmp_path):
    images = make_images(5)
    save_teacher(tmp_path / "none.npz", no_teacher(images, TEACHER.augmentation))
    loaded = load_teacher(tmp_path / "none.npz", TEACHER.augmentation, images.digest())
    assert loaded.views == 0
    assert loaded.logits.shape == (0, 5, 10)
    assert len(loaded.digest) == 64


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_missing_or_damaged_teacher_says_what_to_run(tmp_path, content):
    path = tmp_path / "teacher.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"teacher.npz .*run 'dvc repro teach'"):
        load_teacher(path, TEACHER.augmentation, data_digest="")


def test_the_stage_trains_a_network_and_writes_its_outputs_on_every_training_image(
    data_directory, tmp_path, monkeypatch
):
    params = write_params(
        tmp_path / "params.yaml",
        recipe=dataclasses.asdict(RECIPE),
        teach={**dataclasses.asdict(TEACH), "epochs": 8},
    )
    call(
        teach,
        monkeypatch,
        params=params,
        data=data_directory,
        resume=tmp_path / "resume",
        teacher=tmp_path / "teacher.npz",
        curve=tmp_path / "curve.csv",
        metrics=tmp_path / "teach.json",
    )
    images, _ = load_training_images(data_directory, DataParams(**PARAMS["data"]))
    loaded = load_teacher(tmp_path / "teacher.npz", RECIPE.augmentation(), images.digest())
    assert loaded.logits.shape == (2, len(images), 10)
    assert (loaded.logits % teach.GRAIN == 0).all()
    assert (loaded.logits.argmax(2) == images.labels).mean() > 0.5  # chance: 0.1
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 1 + 8
    metrics = json.loads((tmp_path / "teach.json").read_text())
    assert (metrics["networks"], metrics["epochs"]) == (2, 8)
    assert metrics["together_validation_accuracy"] > 30
    assert metrics["training_flops"] > 0
    assert not list((tmp_path / "resume").iterdir())


def test_the_curve_is_the_mean_of_the_networks_that_have_reached_an_epoch(
    data_directory, tmp_path, monkeypatch
):
    images, _ = load_training_images(data_directory, DataParams(**PARAMS["data"]))
    written = []

    def keep(path: Path, rows: list[dict], header: list[str]) -> None:
        written.append(rows)

    monkeypatch.setattr(teach, "write_csv", keep)
    _, fits = teach.train_networks(TEACH, run_context(images, tmp_path), "curve.csv")
    first, second = ([row["loss"] for row in progress.history] for progress in fits)
    mean = [round(statistics.mean(losses), 5) for losses in zip(first, second, strict=True)]
    losses = [[row["loss"] for row in rows] for rows in written]
    assert losses == [first[:1], first, [mean[0], first[1]], mean]


def test_outputs_stored_before_a_kill_are_not_computed_again(data_directory, tmp_path, monkeypatch):
    images, _ = load_training_images(data_directory, DataParams(**PARAMS["data"]))
    networks = [build_chain(TEACH.widths, images, seed=seed) for seed in (0, 1)]
    whole = teach.teach(networks, TEACH, run_context(images, tmp_path / "whole"))

    calls = []

    def counted(*args: object) -> np.ndarray:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return mirrored_logits(*args)

    mirrored_logits = teach.mirrored_logits
    monkeypatch.setattr(teach, "mirrored_logits", counted)
    with pytest.raises(KeyboardInterrupt):
        teach.teach(networks, TEACH, run_context(images, tmp_path / "killed"))
    resumed = teach.teach(networks, TEACH, run_context(images, tmp_path / "killed"))
    assert len(calls) == 3 + TEACH.views * len(networks) - 2
    assert np.array_equal(resumed.logits, whole.logits)


def test_the_teachers_output_is_the_mean_of_its_networks(data_directory, tmp_path):
    images, _ = load_training_images(data_directory, DataParams(**PARAMS["data"]))
    networks = [build_chain(TEACH.widths, images, seed=seed) for seed in (0, 1)]
    context = run_context(images, tmp_path)
    alone = [teach.teach([each], TEACH, context).logits for each in networks]
    together = teach.teach(networks, TEACH, context).logits
    assert not np.array_equal(*alone)
    assert np.abs(together - np.mean(alone, axis=0)).max() <= teach.GRAIN

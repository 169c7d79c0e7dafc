"""The training loop: learning, augmentation, and resuming after a kill."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stages.common.building.build import build_chain, whitening_filters
from stages.common.core.cli import InputError
from stages.common.data.dataset import Images, load_training_images
from stages.common.data.params import DataParams
from stages.common.training.checkpoints import EpochStore, model_digest
from stages.common.training.context import pick_device, pick_precision
from stages.common.training.loop import Monitor, fit, ignore
from stages.common.training.losses import Loss, Objective, label_objective, smoothed_cross_entropy
from stages.common.training.muon import orthogonalize
from stages.common.training.params import RecipeParams, Schedule, TrainParams
from stages.common.training.teacher import TeacherOutputs, save_teacher
from stages.train import objective
from tests.conftest import DATA, make_images
from tests.networks import NETWORK, RECIPE, run_context

ROOT = Path(__file__).parent.parent
SCHEDULE = Schedule(epochs=3, batch_size=50, learning_rate=0.1, whitening_bias_epochs=1)
CPU = torch.device("cpu")


def run_fit(
    store: Path | EpochStore,
    images: Images,
    schedule: Schedule = SCHEDULE,
    widths: tuple = ((8, 8), (8, 8)),
    seed: int = 3,
    recipe: RecipeParams = RECIPE,
    objective: Objective | None = None,
    on_epoch: Callable[[list[dict]], None] = ignore,
):
    network = build_chain([list(block) for block in widths], images, seed=3)
    progress = fit(
        network,
        objective or label_objective(recipe.label_smoothing),
        schedule,
        seed,
        dataclasses.replace(run_context(images, store, make_images(50, seed=9)), recipe=recipe),
        Monitor("test", on_epoch),
    )
    return network, progress


# ----------------------------------------------------------------------------------- optimization


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_orthogonalize_keeps_singular_vectors_and_evens_out_singular_values(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = left @ torch.diag(torch.linspace(0.2, 1, 16)) @ right
    result = left.T @ orthogonalize(matrix, torch.float32, steps=5) @ right.T
    assert torch.allclose(result, torch.diag(result.diagonal()), atol=1e-3)
    assert result.diagonal().min() > 0.6
    assert result.diagonal().max() < 1.3


def test_the_learning_rate_rises_in_the_warmup_then_decays_to_zero():
    schedule = Schedule(epochs=1, batch_size=1, learning_rate=1.0, warmup=0.2)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert np.argmax(rates) == 20
    assert rates[20] == 1.0
    assert all(np.diff(rates[:21]) > 0)
    assert all(np.diff(rates[20:]) < 0)
    assert 0 < rates[-1] < 0.02


def test_whitening_makes_patches_uncorrelated_with_unit_variance():
    images = make_images(200)
    network = build_chain([[8]], images, seed=0)
    normalized = (torch.from_numpy(images.pixels).float() - network.mean) / network.std
    outputs = network.whitening(normalized)[:, :12].transpose(0, 1).flatten(1)
    covariance = (outputs @ outputs.T / outputs.shape[1]).detach()
    assert torch.allclose(covariance, torch.eye(12), atol=0.05)
    assert torch.equal(whitening_filters(images)[12:], -whitening_filters(images)[:12])


def test_an_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="'mps' is not available"):
        pick_device("mps")


@pytest.mark.parametrize(
    ("device", "bfloat16", "tiles", "expected"),
    [
        ("cuda", False, False, torch.bfloat16),
        ("mps", True, True, torch.float32),
        ("cpu", True, False, torch.bfloat16),
        ("cpu", False, True, torch.bfloat16),
        ("cpu", False, False, torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_the_device_has_it(
    monkeypatch, device, bfloat16, tiles, expected
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert pick_precision("auto", torch.device(device)) == expected


def test_a_named_precision_is_taken_everywhere():
    assert pick_precision("float32", torch.device("cuda")) == torch.float32
    assert pick_precision("bfloat16", CPU) == torch.bfloat16


# ------------------------------------------------------------------------------------------ fit


def test_training_learns_classes_that_differ_in_colour(tmp_path):
    schedule = dataclasses.replace(SCHEDULE, epochs=4, batch_size=20, learning_rate=0.2)
    widths = ((16, 16), (32, 32), (32, 32))
    _, progress = run_fit(tmp_path, make_images(400), schedule, widths=widths)
    assert progress.history[-1]["validation_accuracy"] > 70
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert [row["epoch"] for row in progress.history] == [1, 2, 3, 4]


def test_a_curve_has_no_more_decimals_than_the_validation_images_carry(tmp_path):
    context = run_context(make_images(20), tmp_path, validation=make_images(49, seed=9))
    model = build_chain([[4, 4]], context.images, seed=0)
    schedule = dataclasses.replace(SCHEDULE, epochs=2, batch_size=20)
    progress = fit(model, label_objective(0.2), schedule, 0, context, Monitor("test"))
    assert all(row["validation_accuracy"] % 1 == 0 for row in progress.history)


def test_products_in_bfloat16_change_the_bits_and_still_learn(tmp_path):
    images = make_images(400)
    schedule = dataclasses.replace(SCHEDULE, epochs=4, batch_size=20, learning_rate=0.2)
    widths = ((16, 16), (32, 32), (32, 32))
    results = {}
    for precision in ("float32", "bfloat16"):
        recipe = dataclasses.replace(RECIPE, precision=precision)
        network, progress = run_fit(tmp_path, images, schedule, widths=widths, recipe=recipe)
        assert {value.dtype for value in network.parameters()} == {torch.float32}
        assert progress.history[-1]["validation_accuracy"] > 70
        results[precision] = model_digest(network)
    assert results["float32"] != results["bfloat16"]


def labels_by(loss: Loss) -> Objective:
    """An objective with the key of the labels' one, and another loss."""
    return dataclasses.replace(label_objective(RECIPE.label_smoothing), loss=loss)


def test_flops_are_three_forward_passes_minus_gradients_that_are_not_needed(tmp_path):
    images = make_images(100)
    schedule = dataclasses.replace(SCHEDULE, epochs=1, whitening_bias_epochs=0)
    network, progress = run_fit(tmp_path, images, schedule)
    whitening = 24 * 12 * 31 * 31  # frozen: forward only
    first = 8 * 24 * 9 * 31 * 31  # its input needs no gradient: forward and weights
    others = 8 * 8 * 9 * 15 * 15 * 2 + 8 * 8 * 9 * 7 * 7 + 8 * 10
    assert progress.flops == 2 * 100 * (whitening + 2 * first + 3 * others)


def test_interrupted_training_ends_in_the_same_bits(tmp_path):
    images = make_images(100)
    whole, uninterrupted = run_fit(tmp_path / "a", images)
    calls = []

    def interrupting(logits, labels, teacher):
        calls.append(1)
        if len(calls) == 4:  # in the second of three epochs of two steps
            raise KeyboardInterrupt
        return smoothed_cross_entropy(RECIPE.label_smoothing)(logits, labels, teacher)

    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "b", images, objective=labels_by(interrupting))
    resumed, progress = run_fit(tmp_path / "b", images)
    assert model_digest(resumed) == model_digest(whole)
    assert progress.history == uninterrupted.history
    assert progress.flops == uninterrupted.flops


def test_the_monitor_gets_the_curve_after_every_epoch_and_when_training_resumes(tmp_path):
    images, seen = make_images(100), []

    def stopping_in_the_second_epoch(history: list[dict]) -> None:
        seen.append(list(history))
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path, images, on_epoch=stopping_in_the_second_epoch)
    _, progress = run_fit(tmp_path, images, on_epoch=lambda history: seen.append(list(history)))
    whole = progress.history
    assert seen == [whole[:1], whole[:2], whole[:2], whole]


def test_finished_work_is_not_repeated(tmp_path):
    images = make_images(100)
    first, _ = run_fit(tmp_path, images)

    def refusing(*_):
        raise AssertionError("trained again")

    again, _ = run_fit(tmp_path, images, objective=labels_by(refusing))
    assert model_digest(first) == model_digest(again)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"recipe": dataclasses.replace(RECIPE, label_smoothing=0.1)},
        {"schedule": dataclasses.replace(SCHEDULE, learning_rate=0.05)},
        {"objective": Objective(smoothed_cross_entropy(0.2), key="another")},
    ],
)
def test_other_work_is_never_resumed(tmp_path, changes):
    images = make_images(100)
    run_fit(tmp_path, images)
    _, fresh = run_fit(tmp_path / "elsewhere", images, **changes)
    _, beside = run_fit(tmp_path, images, **changes)
    assert fresh.history == beside.history
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_loss_that_diverges_is_an_error_that_names_the_rate(tmp_path):
    def diverging(logits, labels, _):
        return logits.sum() * float("nan")

    with pytest.raises(InputError, match=r"loss became nan in epoch 1; lower the learning_rate"):
        run_fit(tmp_path, make_images(100), objective=labels_by(diverging))


def test_clearing_removes_only_what_this_run_stored(tmp_path):
    other = tmp_path / "other.pt"
    other.write_bytes(b"someone else's unfinished work")
    store = EpochStore(tmp_path)
    run_fit(store, make_images(100))
    store.clear()
    assert list(tmp_path.iterdir()) == [other]


# --------------------------------------------------------------------------------- the real kill


PARAMS = {
    "network": NETWORK,
    "data": {**DATA, "train_images": 300, "validation_images": 50},
    "recipe": dataclasses.asdict(RECIPE),
    "train": {
        "seed": 0,
        "widths": [[8, 8], [8, 8]],
        "epochs": 6,
        "batch_size": 20,
        "learning_rate": 0.1,
        "warmup": 0.0,
        "whitening_bias_epochs": 1,
        "distillation": 0.5,
        "temperature": 4.0,
        "frozen_epochs": 0,
        "device": "cpu",
    },
}


def random_teacher(data: Path) -> TeacherOutputs:
    images, _ = load_training_images(data, DataParams(**PARAMS["data"]))
    return TeacherOutputs(
        logits=np.random.default_rng(0).normal(size=(2, len(images), 10)).astype(np.float16),
        seed=0,
        first_view=0,
        augmentation=RECIPE.augmentation(),
        data_digest=images.digest(),
    )


def start_training(data: Path, folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    save_teacher(folder / "teacher.npz", random_teacher(data))
    arguments = {
        "params": folder / "params.yaml",
        "data": data,
        "teacher": folder / "teacher.npz",
        "resume": folder / "resume",
        "model": folder / "model.pt",
        "curve": folder / "curve.csv",
        "metrics": folder / "train.json",
        "speed": folder / "train_speed.json",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "stages.train"]
        + [part for name, value in arguments.items() for part in (f"--{name}", str(value))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def is_start_of(curve: Path, whole: Path) -> bool:
    """Whether a curve has whole rows, at least one, and no other than another curve begins with."""
    rows = curve.read_text()
    return rows.endswith("\n") and rows.count("\n") > 1 and whole.read_text().startswith(rows)


@pytest.mark.slow
def test_a_run_killed_with_sigkill_goes_on_and_ends_in_the_same_bytes(data_directory, tmp_path):
    whole = start_training(data_directory, tmp_path / "whole")
    assert whole.wait(timeout=300) == 0, whole.stderr.read()

    killed = start_training(data_directory, tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "curve.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not (tmp_path / "killed" / "model.pt").exists()
    assert is_start_of(tmp_path / "killed" / "curve.csv", tmp_path / "whole" / "curve.csv")

    resumed = start_training(data_directory, tmp_path / "killed")
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert "resumed after epoch" in output
    for name in ("model.pt", "curve.csv", "train.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "killed" / name
        ).read_bytes(), name
    assert not list((tmp_path / "killed" / "resume").iterdir())


def test_the_base_learns_from_the_teacher_or_without_distillation_from_the_labels(data_directory):
    teacher = random_teacher(data_directory)
    params = TrainParams(**PARAMS["train"])
    taught = objective(teacher, params, RECIPE)
    assert taught.teacher is teacher
    other = dataclasses.replace(teacher, logits=teacher.logits + 1)
    assert objective(other, params, RECIPE).key != taught.key
    alone = objective(teacher, dataclasses.replace(params, distillation=0), RECIPE)
    assert alone.teacher is None


def test_a_batch_larger_than_the_training_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch_size is 50; allowed: at most 30"):
        run_fit(tmp_path, make_images(30))

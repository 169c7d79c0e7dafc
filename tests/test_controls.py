"""Pruning's controls: what each arm starts from, trains on and costs, and what is said of it."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch

from stages.common.building.build import build_chain
from stages.common.building.checkpoint import save_checkpoint
from stages.common.core.cli import InputError
from stages.common.data.cifar10 import TRAIN_FILES
from stages.common.data.dataset import Images, load_training_images
from stages.common.measuring.seeds import paired_difference
from stages.common.network.chain import Chain, widths_of
from stages.common.network.size import size_of
from stages.common.pruning.cut import make_permanent
from stages.common.pruning.fine_tuning import cut_of
from stages.common.pruning.groups import convolutions
from stages.common.training import loop as training
from stages.common.training.checkpoints import model_digest
from stages.common.training.losses import distillation_objective
from stages.common.training.params import Schedule
from stages.common.training.teacher import TeacherOutputs, save_teacher
from stages.controls import train as controls
from stages.controls.arms import require_smaller, start
from stages.controls.params import ControlsParams
from stages.controls.table import markdown, sentence
from stages.controls.train import Arm, Setup, affordable_epochs, summary, train_all
from stages.teach import teach
from tests.conftest import data_params, make_images
from tests.networks import PROVENANCE, RECIPE, TEACH, call, run_context, write_params
from tests.test_plan import PARAMS as PRUNE

WIDTHS = [[16, 16], [32, 32]]
CONTROLS = ControlsParams(
    seeds=[3, 4],
    epochs=2,
    learning_rate=0.04,
    scratch_learning_rate=0.1,
    scratch_whitening_bias_epochs=1,
    scratch_b=False,
)


@pytest.fixture(scope="module")
def images(data_directory) -> Images:
    return load_training_images(data_directory, data_params(400, 100))[0]


@pytest.fixture(scope="module")
def base(images) -> Chain:
    """Channels differ in importance, as after training."""
    network = build_chain(WIDTHS, images, seed=1)
    for layer in convolutions(network):
        torch.nn.init.kaiming_normal_(layer.weight)
        layer.weight.data *= torch.rand(len(layer.weight), 1, 1, 1) + 0.1
    with torch.no_grad():
        network.train()(torch.from_numpy(images.pixels).float())
    return network.eval()


@pytest.fixture(scope="module")
def pruned(base, images) -> Chain:
    return cut_of(base, dataclasses.replace(PRUNE, steps=1), images)(copy.deepcopy(base), 1)


@pytest.fixture(scope="module")
def teacher(base, images, tmp_path_factory) -> TeacherOutputs:
    context = run_context(images, tmp_path_factory.mktemp("teacher"))
    return teach([copy.deepcopy(base)], TEACH, context)


@pytest.fixture(scope="module")
def setup(base, pruned, teacher, images, tmp_path_factory) -> Setup:
    folder = tmp_path_factory.mktemp("resume")
    context = run_context(images, folder, validation=make_images(50, seed=9))
    objective = distillation_objective(
        teacher, PRUNE.distillation, PRUNE.temperature, RECIPE.label_smoothing
    )
    return Setup(base, pruned, PRUNE, objective, context)


# --------------------------------------------------------------------------------------- starts


def test_the_pruned_arm_keeps_the_channels_that_prune_keeps(base, pruned, images):
    assert model_digest(start("pruned", 5, base, pruned, images, PRUNE)) == model_digest(pruned)


def test_scratch_is_what_training_would_start_from(base, pruned, images):
    new = start("scratch", 5, base, pruned, images, PRUNE)
    assert model_digest(new) == model_digest(build_chain(widths_of(pruned), images, seed=5))
    other = start("scratch", 6, base, pruned, images, PRUNE)
    assert model_digest(new) != model_digest(other)


def test_random_channels_follow_the_seed_and_bring_their_weights(base, pruned, images):
    one, same, other = (
        start("random_channels", seed, base, pruned, images, PRUNE) for seed in (5, 5, 6)
    )
    assert model_digest(one) == model_digest(same) != model_digest(other)
    assert widths_of(one) == widths_of(pruned)
    known = {filters.numpy().tobytes() for filters in convolutions(base)[0].weight.detach()}
    kept = {filters.numpy().tobytes() for filters in convolutions(one)[0].weight.detach()}
    assert kept < known


@pytest.mark.parametrize(
    ("target", "counted"), [("macs", "macs"), ("params", "params"), ("latency", "macs")]
)
def test_zeros_take_the_share_that_pruning_took_and_keep_the_shape(
    base, pruned, images, target, counted
):
    """Where milliseconds are the target, which zeros do not save, the share is one of MACs."""
    params = dataclasses.replace(PRUNE, target=target)
    model = start("zeros", 5, base, pruned, images, params)
    make_permanent(model)
    after, wanted = size_of(model), size_of(pruned)
    assert widths_of(model) == WIDTHS
    assert getattr(after, f"nonzero_{counted}") == pytest.approx(getattr(wanted, counted), rel=0.01)
    assert after.macs == size_of(base).macs


def test_no_start_changes_the_base(base, pruned, images):
    before = model_digest(base)
    for arm in ("pruned", "scratch", "random_channels", "zeros"):
        start(arm, 5, base, pruned, images, PRUNE)
    assert model_digest(base) == before


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        (WIDTHS, "nothing to control; set prune.method to structured and prune.amount above 0"),
        ([[16, 16], [32, 48]], "or fewer; run 'dvc repro prune'"),
        ([[16, 16, 32], [32]], "or fewer; run 'dvc repro prune'"),
    ],
)
def test_a_pruned_network_that_is_not_smaller_is_refused(base, widths, said):
    with pytest.raises(InputError, match=said):
        require_smaller(base, Chain({"widths": widths, "classes": 10}))


# ------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def arms(setup) -> dict[str, Arm]:
    return train_all(setup, CONTROLS, base_flops=10**9)


def test_every_arm_is_trained_with_every_seed_and_its_true_size_is_reported(arms, setup):
    assert list(arms) == ["pruned", "scratch", "random_channels", "zeros"]
    small, whole = size_of(setup.pruned), size_of(setup.base)
    for name, arm in arms.items():
        assert list(arm.accuracies) == [3, 4]
        assert arm.size.macs == (whole if name == "zeros" else small).macs
    cost = arms["pruned"].flops
    assert arms["random_channels"].flops == cost
    assert cost < arms["scratch"].flops < 1.3 * cost  # the first layer's bias needs gradients too
    assert arms["zeros"].flops > 1.3 * cost  # zeros are multiplied
    assert arms["zeros"].size.nonzero_macs == pytest.approx(small.macs, rel=0.01)  # and stay


def test_only_scratch_differs_in_its_schedule_and_that_is_stated(arms):
    rest = {arms[name].schedule for name in ("pruned", "random_channels", "zeros")}
    assert rest == {Schedule(epochs=2, batch_size=50, learning_rate=0.04, warmup=0.1)}
    report = summary(arms, 10**9, PRUNE, validation_images=50)
    rates = {name: block["learning_rate"] for name, block in report["arms"].items()}
    assert rates == {"pruned": 0.04, "scratch": 0.1, "random_channels": 0.04, "zeros": 0.04}
    assert {block["epochs"] for block in report["arms"].values()} == {2}


def test_what_was_finished_before_a_kill_is_not_trained_again(arms, setup, monkeypatch):
    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train_epoch", refuse)
    again = train_all(setup, CONTROLS, base_flops=10**9)
    assert again == arms
    more = dataclasses.replace(CONTROLS, seeds=[3, 5])
    with pytest.raises(AssertionError, match="trained again"):
        train_all(setup, more, base_flops=10**9)


def test_scratch_b_costs_what_base_and_fine_tuning_cost(arms, setup):
    budget = 3 * arms["pruned"].flops
    params = dataclasses.replace(CONTROLS, scratch_b=True)
    longer = train_all(setup, params, budget - arms["pruned"].flops)
    assert list(longer) == ["pruned", "scratch", "scratch_b", "random_channels", "zeros"]
    assert longer["scratch_b"].schedule.epochs == 6
    assert longer["scratch_b"].flops == pytest.approx(budget, rel=0.1)
    assert "pruned_minus_scratch_b" in summary(longer, budget, PRUNE, validation_images=50)


def test_epochs_for_a_budget_are_rounded():
    arm = Arm({}, Schedule(epochs=2, batch_size=1, learning_rate=0.1), flops=200, size=None)
    assert affordable_epochs(1_040, arm) == 12  # 1,240 at 100 an epoch
    assert affordable_epochs(1_060, arm) == 13


# -------------------------------------------------------------------------------------- reports


def report_of(pruned: list[float], scratch: list[float]) -> dict:
    size = {"params": 1000, "nonzero_params": 900, "macs": 5000, "nonzero_macs": 5000}
    cost = {"epochs": 3, "learning_rate": 0.1, "training_flops": 2 * 10**12}
    arms = {
        name: {"validation_accuracy": {"mean": values[0], "std": 0.5, "n": 3}, **cost, **size}
        for name, values in (("pruned", pruned), ("scratch", scratch))
    }
    return {
        "pruned_minus_scratch": paired_difference(pruned, scratch),
        "arms": arms,
        "base_training_flops": 5 * 10**12,
        "importance": "taylor",
        "validation_images": 2500,
    }


@pytest.mark.parametrize(
    ("scratch", "said"),
    [
        ([88.0, 89.0, 90.1], "pruning beat simply training the small network: +1.97 ± 0.06 points"),
        ([92.0, 93.0, 94.1], "pruning did not beat simply training the small network: -2.03"),
        ([87.0, 91.0, 92.0], "network (the seeds alone could explain it): +1.00 ± 1.73 points"),
    ],
)
def test_the_verdict_says_what_was_found_whichever_way_it_went(scratch, said):
    verdict = sentence(report_of([90.0, 91.0, 92.0], scratch))
    assert said in verdict
    assert "3 epochs each" in verdict
    assert "\n" not in verdict


def test_the_table_has_cost_and_lead_of_every_arm():
    table = markdown(report_of([90.0, 91.0, 92.0], [88.0, 89.0, 90.1]))
    lines = table.splitlines()
    cells = ["scratch", "88.00 ± 0.50 %", "+1.97 [+1.82, +2.11]", "1,000 (900 non-zero)", "5,000"]
    assert lines[3] == f"| {' | '.join([*cells, '3', '0.1', '2.0 TFLOP'])} |"
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert "whose training cost 5.0 TFLOP" in table


# ---------------------------------------------------------------------------------------- stage


@pytest.fixture
def arguments(base, pruned, teacher, data_directory, tmp_path) -> dict:
    """Inputs on disk, without the test images: the stage must not want them."""
    data = tmp_path / "data"
    data.mkdir()
    for name in TRAIN_FILES:
        shutil.copy(data_directory / name, data / name)
    for name, model in (("base", base), ("pruned", pruned)):
        save_checkpoint(tmp_path / f"{name}.pt", model, PROVENANCE)
    save_teacher(tmp_path / "teacher.npz", teacher)
    (tmp_path / "train.json").write_text('{"training_flops": 1000000000}')
    params = write_params(
        tmp_path / "params.yaml",
        recipe=dataclasses.asdict(RECIPE),
        prune=dataclasses.asdict(PRUNE),
        controls={**dataclasses.asdict(CONTROLS), "epochs": 1},
    )
    return {
        "params": params,
        "data": data,
        "resume": tmp_path / "resume",
        "base": tmp_path / "base.pt",
        "base-metrics": tmp_path / "train.json",
        "teacher": tmp_path / "teacher.npz",
        "pruned": tmp_path / "pruned.pt",
        **{name: tmp_path / "out" / name for name in ("metrics", "table", "picture")},
    }


def test_the_stage_writes_metrics_table_and_picture_and_prints_the_verdict(
    arguments, monkeypatch, capsys
):
    call(controls, monkeypatch, **arguments)
    report = json.loads(arguments["metrics"].read_text())
    assert report["pruned_minus_scratch"]["n"] == 2
    for arm in report["arms"].values():
        accuracy = arm["validation_accuracy"]
        assert set(accuracy["values"]) == {"seed_3", "seed_4"}
        assert accuracy["mean"] == pytest.approx(sum(accuracy["values"].values()) / 2, abs=1e-3)
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict == sentence(report)
    assert verdict in arguments["table"].read_text()
    assert arguments["picture"].read_bytes().startswith(b"\x89PNG")
    assert list(arguments["resume"].iterdir()) == []


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_a_missing_or_damaged_cost_of_the_base_says_what_to_run(arguments, monkeypatch, content):
    arguments["base-metrics"].unlink()
    if content is not None:
        arguments["base-metrics"].write_text(content)
    with pytest.raises(InputError, match=r"train\.json .*run 'dvc repro train'"):
        call(controls, monkeypatch, **arguments)
    assert not arguments["metrics"].exists()

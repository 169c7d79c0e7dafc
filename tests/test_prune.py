"""Pruning: channels that are really gone, zeros that stay, amounts that are met."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from stages.common.building.build import build_chain
from stages.common.core.cli import InputError
from stages.common.data.dataset import CIFAR10, Images
from stages.common.network.chain import Chain, widths_of
from stages.common.network.size import size_of
from stages.common.pruning.cut import hold_at_zero, keep_channels, make_permanent, share_removed
from stages.common.pruning.fine_tuning import cut_of, prune_in_steps
from stages.common.pruning.groups import convolutions
from stages.common.pruning.importance import scored_groups
from stages.common.pruning.latency.model import LatencyModel, model_from
from stages.common.pruning.params import PruneParams, flat
from stages.common.pruning.plan.ranking import Group
from stages.common.pruning.summary import summary
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import model_digest
from stages.common.training.loop import Epochs
from stages.common.training.teacher import TeacherOutputs
from stages.prune import curve
from stages.teach import GRAIN, teach
from tests.conftest import make_images
from tests.networks import RECIPE, TEACH, run_context
from tests.profiles import smooth_profile
from tests.test_plan import PARAMS


@pytest.fixture(scope="module")
def images() -> Images:
    return make_images(100)


@pytest.fixture(scope="module")
def base(images) -> Chain:
    """A network with weights and statistics in which channels differ, as after training."""
    network = build_chain([[32, 32], [64, 64], [64, 64]], images, seed=1)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.requires_grad:
            torch.nn.init.kaiming_normal_(layer.weight)
            layer.weight.data *= torch.rand(len(layer.weight), 1, 1, 1) + 0.1
    network.train()(torch.from_numpy(images.pixels).float())
    return network.eval()


@pytest.fixture(scope="module")
def teacher(base, images, tmp_path_factory) -> TeacherOutputs:
    context = run_context(images, tmp_path_factory.mktemp("teacher"))
    return teach([copy.deepcopy(base)], TEACH, context)


def cut_once(
    base: Chain, images: Images, params: PruneParams, latency: LatencyModel | None = None
) -> Chain:
    """A copy of the base after all is removed in one step, without fine-tuning."""
    cut = cut_of(base, dataclasses.replace(params, steps=1), images, latency)
    return cut(copy.deepcopy(base), 1)


def with_widths(base: Chain, images: Images, widths: list[int]) -> Chain:
    """The base with the best channels of every layer."""
    groups = scored_groups(base, images, "taylor", seed=0)
    plan = {group.name: width for group, width in zip(groups, widths, strict=True)}
    return keep_channels(base, groups, plan)


# --------------------------------------------------------------------------- importance and cut


def test_removing_channels_equals_silencing_them(base, images):
    """A silenced channel's ReLU never opens."""
    groups = scored_groups(base, images, "taylor", seed=0)
    widths = [20, 32, 40, 60, 64, 36]
    silenced = copy.deepcopy(base)
    norms = [norm for block in silenced.blocks for norm in block.norms]
    for norm, group, width in zip(norms, groups, widths, strict=True):
        worst = group.importance.argsort(kind="stable")[: len(group.importance) - width]
        norm.bias.data[worst] = -1e6
    pruned = with_widths(base, images, widths)
    pixels = torch.from_numpy(images.pixels).float()
    with torch.no_grad():
        assert torch.allclose(pruned.eval()(pixels), silenced(pixels), atol=1e-4)
    assert flat(widths_of(pruned)) == widths


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_a_channel_without_effect_is_the_least_important(base, images, importance):
    dead = copy.deepcopy(base)
    dead.blocks[1].norms[0].bias.data[5] = -1e6
    if importance == "magnitude":
        dead.blocks[1].convolutions[0].weight.data[5] = 0
        dead.blocks[1].convolutions[1].weight.data[:, 5] = 0
    groups = scored_groups(dead, images, importance, seed=0)
    assert groups[2].name == "block2.conv1"
    assert groups[2].importance.argmin() == 5


def test_random_importance_follows_the_seed(base, images):
    def scores(seed: int) -> list[Group]:
        return scored_groups(base, images, "random", seed)

    def equal(some: list[Group], others: list[Group]) -> bool:
        pairs = zip(some, others, strict=True)
        return all(np.array_equal(one.importance, other.importance) for one, other in pairs)

    assert equal(scores(1), scores(1))
    assert not equal(scores(1), scores(2))


# ------------------------------------------------------------------------------ amounts and budgets


@pytest.mark.parametrize("allocation", ["uniform", "proportional"])
def test_every_layer_keeps_its_own_best_channels(base, images, allocation):
    params = dataclasses.replace(
        PARAMS, allocation=allocation, proportions=[[1, 2], [2, 4], [3, 3]], amount=0.7
    )
    pruned = cut_once(base, images, params)
    expected = with_widths(base, images, flat(widths_of(pruned)))
    assert model_digest(pruned) == model_digest(expected)


@pytest.mark.parametrize("target", ["macs", "params"])
@pytest.mark.parametrize("amount", [0.3, 0.6, 0.9])
def test_structured_pruning_removes_about_the_amount_asked(base, images, target, amount):
    pruned = cut_once(base, images, dataclasses.replace(PARAMS, target=target, amount=amount))
    reached = 1 - getattr(size_of(pruned), target) / getattr(size_of(base), target)
    assert reached == pytest.approx(amount, abs=0.06)
    assert all(width % 4 == 0 for width in flat(widths_of(pruned)))
    assert size_of(pruned).nonzero_params == size_of(pruned).params


def test_nothing_is_removed_when_nothing_is_asked(base, images):
    pruned = cut_once(base, images, dataclasses.replace(PARAMS, amount=0.0))
    assert model_digest(pruned) == model_digest(base)


def test_the_plan_is_printed(base, images, capsys):
    cut_once(base, images, dataclasses.replace(PARAMS, widths=WIDTHS))
    printed = capsys.readouterr().out
    assert printed.startswith("plan of step 1/1: block1.conv1 8 of 32, block1.conv2 12 of 32, ")


BASE_WIDTHS = [[32, 32], [64, 64], [64, 64]]
LATENCY = model_from(smooth_profile(BASE_WIDTHS), "deploy/profiles/test.json")
BY_TIME = dataclasses.replace(PARAMS, target="latency", round_to=8)


@pytest.mark.parametrize("target", ["latency", "macs", "params"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.55])
def test_a_budget_of_milliseconds_is_kept_and_nearly_used_up(base, images, target, share):
    budget = share * LATENCY.predict(BASE_WIDTHS)
    params = dataclasses.replace(BY_TIME, target=target, budget_ms=budget)
    pruned = cut_once(base, images, params, LATENCY)
    assert 0.85 * budget < LATENCY.predict(widths_of(pruned)) <= budget
    assert all(width % 8 == 0 for width in flat(widths_of(pruned)))


@pytest.mark.parametrize("target", ["latency", "macs"])
def test_a_budget_of_int8_milliseconds_is_kept_and_reported(base, images, target):
    """On this device a network takes a third of its FP32 time as INT8."""
    content = smooth_profile(BASE_WIDTHS)
    for cost in content["fitted"]["int8"].values():
        cost["layers_ms"] = [[[ms / 3 for ms in row] for row in t] for t in cost["layers_ms"]]
    model = model_from(content, "deploy/profiles/test.json")
    int8 = dataclasses.replace(model, precision="int8")
    budget = 0.6 * int8.predict(BASE_WIDTHS)
    params = dataclasses.replace(BY_TIME, target=target, budget_ms=budget, precision="int8")
    pruned = cut_once(base, images, params, int8)
    assert 0.85 * budget < int8.predict(widths_of(pruned)) <= budget
    assert summary(base, pruned, params, {}, int8)["predicted_latency_ms"] == {
        "before": round(int8.predict(BASE_WIDTHS), 4),
        "after": round(int8.predict(widths_of(pruned)), 4),
        "device": "test",
        "precision": "int8",
    }


def test_pruning_by_latency_keeps_channels_that_save_no_time(base, images):
    """On this device layers cost the same up to 16 channels."""
    budget = 0.55 * LATENCY.predict(BASE_WIDTHS)
    by_time, by_macs = (
        cut_once(
            base, images, dataclasses.replace(BY_TIME, target=target, budget_ms=budget), LATENCY
        )
        for target in ("latency", "macs")
    )
    assert min(flat(widths_of(by_time))) >= 16
    groups = scored_groups(base, images, "taylor", seed=0)

    def kept(model: Chain) -> float:
        """The product of the shares that the layers keep."""
        best = [np.sort(group.importance)[::-1] for group in groups]
        widths = flat(widths_of(model))
        return float(
            np.prod([b[:width].sum() / b.sum() for b, width in zip(best, widths, strict=True)])
        )

    assert kept(by_time) >= kept(by_macs)


@pytest.mark.parametrize("target", ["latency", "macs"])
def test_a_budget_out_of_reach_says_the_least_that_can_be_reached(base, images, target):
    least = LATENCY.predict([[8, 8], [8, 8], [8, 8]])  # equal for all up to 16 channels
    params = dataclasses.replace(BY_TIME, target=target, budget_ms=0.9 * least)
    with pytest.raises(InputError, match=rf"least that can be reached.* is {least:.4f} ms"):
        cut_once(base, images, params, LATENCY)


def test_a_profile_of_narrower_networks_is_refused(base, images):
    narrow = model_from(smooth_profile([[32, 32], [64, 64], [64, 32]]), "deploy/profiles/test.json")
    params = dataclasses.replace(BY_TIME, budget_ms=1.0)
    with pytest.raises(InputError, match=r"profiles/test\.json covers networks up to"):
        cut_once(base, images, params, narrow)


WIDTHS = [[8, 12], [24, 16], [16, 20]]


def test_named_widths_are_reached_in_steps_by_the_best_channels(base, images):
    cut = cut_of(base, dataclasses.replace(PARAMS, widths=WIDTHS, steps=2), images)
    halfway = cut(base, 1)
    assert widths_of(halfway) == [[20, 22], [44, 40], [40, 42]]
    pruned = cut(halfway, 2)
    assert widths_of(pruned) == WIDTHS
    assert model_digest(pruned) == model_digest(with_widths(halfway, images, flat(WIDTHS)))


# ------------------------------------------------------------------------------------------ zeros


@pytest.mark.parametrize("allocation", ["global", "proportional"])
def test_zeros_go_where_the_smallest_weights_of_all_layers_are(base, allocation):
    model = copy.deepcopy(base)
    convolutions(model)[-1].weight.data *= 0.01
    hold_at_zero(model, 0.1, size_of(base), "macs", allocation)
    zeros = [float((layer.weight == 0).float().mean()) for layer in convolutions(model)]
    assert zeros[-1] > 0.9
    assert max(zeros[:-1]) < 0.2


def test_uniform_zeros_are_the_same_share_of_every_layer(base):
    model = copy.deepcopy(base)
    hold_at_zero(model, 0.6, size_of(base), "macs", "uniform")
    zeros = [float((layer.weight == 0).float().mean()) for layer in convolutions(model)]
    assert max(zeros) - min(zeros) < 0.01
    assert zeros[0] == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("target", ["macs", "params"])
def test_unstructured_pruning_writes_zeros_and_keeps_every_shape(base, target):
    model = copy.deepcopy(base)
    hold_at_zero(model, 0.8, size_of(base), target, "global")
    make_permanent(model)
    share = share_removed(size_of(base), size_of(model), target, zeros=True)
    assert share == pytest.approx(0.8, abs=0.005)
    assert share_removed(size_of(base), size_of(model), target, zeros=False) == 0
    assert widths_of(model) == widths_of(base)


def test_unstructured_pruning_takes_the_smallest_weights(base):
    model = copy.deepcopy(base)
    hold_at_zero(model, 0.5, size_of(base), "params", "global")
    make_permanent(model)
    pairs = [
        (kept.weight.detach(), original.weight.detach())
        for kept, original in zip(convolutions(model), convolutions(base), strict=True)
    ]
    zeroed = torch.cat([original[kept == 0].abs() for kept, original in pairs])
    kept = torch.cat([kept[kept != 0].abs() for kept, _ in pairs])
    assert zeroed.max() <= kept.min()


# ------------------------------------------------------------------------- steps and fine-tuning


@pytest.mark.parametrize(
    ("changes", "asked"), [({"amount": 0.4}, 0.6), ({"budget_ms": 0.9, "target": "macs"}, None)]
)
def test_pruning_to_milliseconds_in_steps_reports_the_predicted_latency(
    base, teacher, images, tmp_path, changes, asked
):
    params = dataclasses.replace(BY_TIME, epochs=0, epochs_between=0, **changes)
    before = LATENCY.predict(BASE_WIDTHS)
    budget = asked * before if asked else params.budget_ms
    assert budget < 0.9 * before, "the budget must ask for something"
    pruned = prune_in_steps(base, teacher, params, run_context(images, tmp_path), LATENCY)
    assert len(pruned.fine_tuning) == 2
    report = summary(base, pruned.network, params, {}, LATENCY)
    after = LATENCY.predict(widths_of(pruned.network))
    predicted = {"before": round(before, 4), "after": round(after, 4), "device": "test"}
    assert report["predicted_latency_ms"] == predicted
    assert after <= budget
    if params.target == "latency":
        assert report["amount_reached"] == round(1 - after / before, 4)
        assert report["amount_asked"] == 0.4
    else:
        macs = size_of(pruned.network).macs / size_of(base).macs
        assert report["amount_reached"] == round(1 - macs, 4)
        assert report["amount_asked"] is None


def test_named_widths_are_reported_without_an_amount_asked(base, images):
    params = dataclasses.replace(PARAMS, widths=WIDTHS)
    pruned = cut_once(base, images, params)
    report = summary(base, pruned, params, {}, cost_model=None)
    assert report["amount_asked"] is None
    assert report["amount_reached"] == round(1 - size_of(pruned).macs / size_of(base).macs, 4)


@pytest.mark.parametrize("method", ["structured", "unstructured"])
def test_pruning_and_fine_tuning_is_repeatable_and_reports_what_it_did(
    base, teacher, images, tmp_path, method
):
    params = dataclasses.replace(PARAMS, method=method)
    validation = make_images(50, seed=9)
    pruned, again = (
        prune_in_steps(base, teacher, params, run_context(images, tmp_path / name, validation))
        for name in "ab"
    )
    assert model_digest(pruned.network) == model_digest(again.network)
    report = summary(base, pruned.network, params, accuracies={}, cost_model=None)
    assert report["amount_reached"] == pytest.approx(0.5, abs=0.06)
    assert report["before"]["widths"] == "32 32 / 64 64 / 64 64"
    shrunk = report["after"]["params"] < report["before"]["params"]
    assert shrunk == (method == "structured")
    zeros = report["after"]["nonzero_params"] < report["after"]["params"]
    assert zeros == (method == "unstructured")
    assert "predicted_latency_ms" not in report


def test_the_curve_grows_with_every_epoch_of_every_step(base, teacher, images, tmp_path):
    params = dataclasses.replace(PARAMS, epochs=2)
    seen, before = [], model_digest(base)
    prune_in_steps(
        base,
        teacher,
        params,
        run_context(images, tmp_path),
        on_epoch=lambda histories: seen.append(curve(histories)),
    )
    assert [(row["epoch"], row["step"]) for row in seen[-1]] == [(1, 1), (2, 2), (3, 2)]
    assert seen == [seen[-1][:count] for count in (1, 2, 3)]
    assert model_digest(base) == before, "the base is left as it is"


def test_fine_tuning_sees_each_view_with_the_teachers_outputs_on_it(
    base, images, teacher, tmp_path
):
    """The target of a view and of its mirror image is the mean of the outputs on both."""
    epochs = Epochs(run_context(images, tmp_path), seed=5, teacher=teacher)
    for epoch in range(5):
        pixels, _, logits, _ = epochs.load(epoch)
        with torch.no_grad():
            expected = (base(pixels.float()) + base(pixels.flip(-1).float())) / 2
        assert torch.allclose(expected, logits, rtol=0, atol=0.51 * GRAIN)


def test_fine_tuning_sees_the_views_in_turn_then_their_mirror_images(images, teacher, tmp_path):
    epochs = Epochs(run_context(images, tmp_path), seed=0, teacher=teacher)
    first, second, first_mirrored, second_mirrored, again = (
        epochs.load(epoch)[0] for epoch in range(5)
    )
    assert not torch.equal(first, second)
    assert torch.equal(first.flip(-1), first_mirrored)
    assert torch.equal(second.flip(-1), second_mirrored)
    assert torch.equal(first, again)


def test_targets_are_of_no_view_that_the_teacher_was_trained_on(images, teacher, tmp_path):
    pixels = torch.from_numpy(images.pixels)
    augmenter = Augmenter(pixels, CIFAR10, RECIPE.augmentation(), TEACH.seed)
    epochs = Epochs(run_context(images, tmp_path), seed=0, teacher=teacher)
    seen = [epochs.load(epoch)[0] for epoch in range(4)]
    for epoch in range(TEACH.epochs):
        of_training = augmenter.view(epoch)
        assert not any(torch.equal(of_training, view) for view in seen)

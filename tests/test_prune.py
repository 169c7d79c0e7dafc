"""Pruning: channels that are really gone, zeros that stay, amounts that are met."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from stages.common.core.cli import InputError
from stages.common.data.cifar10 import Images
from stages.common.network.network import Network, size_of, widths_of
from stages.common.network.whitening import build_network
from stages.common.pruning.channels import channel_scores, convolutions, widths_at, without_channels
from stages.common.pruning.fine_tuning import prune_and_fine_tune
from stages.common.pruning.latency_budget import in_blocks, widths_by_time
from stages.common.pruning.latency_model import model_from
from stages.common.pruning.params import PruneParams, refuse_contradictions
from stages.common.pruning.pruning import (
    keep_widths,
    mask_weights,
    remove_channels,
    remove_milliseconds,
    search_ratio,
    share_removed,
    unmask,
)
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import model_digest
from stages.common.training.loop import Epochs
from stages.common.training.teacher import TeacherOutputs
from stages.prune import curve, summary
from stages.teach import GRAIN, teach
from tests.conftest import make_images
from tests.networks import RECIPE, TEACH, run_context
from tests.profiles import profile, smooth_profile

PARAMS = PruneParams(
    seed=0,
    method="structured",
    target="macs",
    amount=0.5,
    budget_ms=0,
    widths=[],
    importance="taylor",
    allocation="global",
    proportions=[],
    round_to=4,
    steps=2,
    epochs_between=1,
    epochs=1,
    batch_size=50,
    learning_rate=0.05,
    warmup=0.1,
    mixup_share=0.0,
    mixup_views=3,
    distillation=0.9,
    temperature=4.0,
    device="cpu",
)


@pytest.fixture(scope="module")
def images() -> Images:
    return make_images(100)


@pytest.fixture(scope="module")
def base(images) -> Network:
    """A network with weights and statistics in which channels differ, as after training."""
    network = build_network([[32, 32], [64, 64], [64, 64]], images, seed=1)
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


def test_uniform_allocation_takes_the_same_share_of_every_layer(base, images):
    params = dataclasses.replace(PARAMS, allocation="uniform")
    pruned = remove_channels(base, size_of(base), 0.7, images, params)
    shares = {
        width / whole
        for block, whole_block in zip(widths_of(pruned), widths_of(base), strict=True)
        for width, whole in zip(block, whole_block, strict=True)
    }
    assert max(shares) - min(shares) <= PARAMS.round_to / 32  # widths of 32 are rounded most
    assert 1 - size_of(pruned).macs / size_of(base).macs == pytest.approx(0.7, abs=0.06)


def test_uniform_allocation_keeps_the_best_channels_of_each_layer(base, images):
    params = dataclasses.replace(PARAMS, allocation="uniform", amount=0.7)
    pruned = remove_channels(base, size_of(base), 0.7, images, params)
    scores = channel_scores(base, images, "taylor", seed=0)
    widths = [width for block in widths_of(pruned) for width in block]
    assert model_digest(pruned) == model_digest(without_channels(base, scores, widths))


PROPORTIONS = [[1, 2], [2, 4], [3, 3]]  # of a base with 32 32 / 64 64 / 64 64


@pytest.mark.parametrize("amount", [0.5, 0.7, 0.9])
def test_proportional_allocation_keeps_widths_in_the_proportions_given(base, images, amount):
    params = dataclasses.replace(
        PARAMS, allocation="proportional", proportions=PROPORTIONS, round_to=1
    )
    pruned = remove_channels(base, size_of(base), amount, images, params)
    assert 1 - size_of(pruned).macs / size_of(base).macs == pytest.approx(amount, abs=0.03)
    first = widths_of(pruned)[0][0]
    for block, proportions, whole_block in zip(
        widths_of(pruned), PROPORTIONS, widths_of(base), strict=True
    ):
        for width, proportion, whole in zip(block, proportions, whole_block, strict=True):
            assert width == pytest.approx(min(whole, first * proportion), abs=proportion)


def test_proportional_allocation_keeps_the_best_channels_of_each_layer(base, images):
    params = dataclasses.replace(PARAMS, allocation="proportional", proportions=PROPORTIONS)
    pruned = remove_channels(base, size_of(base), 0.7, images, params)
    scores = channel_scores(base, images, "taylor", seed=0)
    widths = [width for block in widths_of(pruned) for width in block]
    assert model_digest(pruned) == model_digest(without_channels(base, scores, widths))


@pytest.mark.parametrize("proportions", [[], [[1, 2], [2, 4]], [[1], [2, 4], [3, 3]]], ids=str)
def test_proportions_of_another_network_are_refused(base, images, proportions):
    params = dataclasses.replace(PARAMS, allocation="proportional", proportions=proportions)
    with pytest.raises(InputError, match=r"prune\.proportions is \[.*, the base has \[\[32, 32\]"):
        remove_channels(base, size_of(base), 0.5, images, params)


@pytest.mark.parametrize("allocation", ["global", "proportional"])
def test_zeros_go_where_the_smallest_weights_of_all_layers_are(base, allocation):
    model = copy.deepcopy(base)
    convolutions(model)[-1].weight.data *= 0.01
    params = dataclasses.replace(PARAMS, method="unstructured", allocation=allocation)
    mask_weights(model, size_of(base), 0.1, params)
    zeros = [float((layer.weight == 0).float().mean()) for layer in convolutions(model)]
    assert zeros[-1] > 0.9
    assert max(zeros[:-1]) < 0.2


def test_uniform_zeros_are_the_same_share_of_every_layer(base):
    params = dataclasses.replace(PARAMS, method="unstructured", allocation="uniform")
    model = copy.deepcopy(base)
    mask_weights(model, size_of(base), 0.6, params)
    zeros = [float((layer.weight == 0).float().mean()) for layer in convolutions(model)]
    assert max(zeros) - min(zeros) < 0.01
    assert zeros[0] == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("target", ["macs", "params"])
@pytest.mark.parametrize("amount", [0.3, 0.6, 0.9])
def test_structured_pruning_removes_about_the_amount_asked(base, images, target, amount):
    params = dataclasses.replace(PARAMS, target=target, amount=amount)
    pruned = remove_channels(base, size_of(base), amount, images, params)
    reached = 1 - getattr(size_of(pruned), target) / getattr(size_of(base), target)
    assert reached == pytest.approx(amount, abs=0.06)
    assert all(width % 4 == 0 for block in widths_of(pruned) for width in block)
    assert size_of(pruned).nonzero_params == size_of(pruned).params


def test_what_is_left_computes_what_the_base_computes_without_those_channels(base, images):
    """Silencing a channel (its ReLU never opens) must equal removing it."""
    scores = channel_scores(base, images, "taylor", seed=0)
    widths = [20, 32, 40, 60, 64, 36]
    silenced = copy.deepcopy(base)
    norms = [norm for block in silenced.blocks for norm in block.norms]
    for norm, score, width in zip(norms, scores, widths, strict=True):
        norm.bias.data[score.argsort(stable=True)[: len(score) - width]] = -1e6
    pruned = without_channels(base, scores, widths)
    pixels = torch.from_numpy(images.pixels).float()
    with torch.no_grad():
        assert torch.allclose(pruned.eval()(pixels), silenced(pixels), atol=1e-4)
    assert [width for block in widths_of(pruned) for width in block] == widths


def test_a_channel_that_does_nothing_is_the_first_to_go(base, images):
    dead = copy.deepcopy(base)
    dead.blocks[1].norms[0].bias.data[5] = -1e6
    for importance in ("taylor", "magnitude"):
        if importance == "magnitude":
            dead.blocks[1].convolutions[0].weight.data[5] = 0
            dead.blocks[1].convolutions[1].weight.data[:, 5] = 0
        scores = channel_scores(dead, images, importance, seed=0)
        assert scores[2].argmin() == 5


def test_random_importance_follows_the_seed(base, images):
    one, same, other = (channel_scores(base, images, "random", seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_widths_are_rounded_but_never_to_nothing():
    scores = [torch.arange(1.0, 33.0), torch.arange(101.0, 133.0)]
    assert widths_at(0.0, scores, round_to=8) == [32, 32]
    assert widths_at(0.25, scores, round_to=8) == [16, 32]
    assert widths_at(0.5, scores, round_to=8) == [8, 32]
    assert widths_at(1.0, scores, round_to=8) == [8, 8]
    assert widths_at(1.0, [torch.rand(5)], round_to=8) == [5]


def test_nothing_is_removed_when_nothing_is_asked(base, images):
    pruned = remove_channels(base, size_of(base), 0.0, images, PARAMS)
    assert model_digest(pruned) == model_digest(base)


def test_an_amount_out_of_reach_says_what_can_be_reached(base, images):
    params = dataclasses.replace(PARAMS, amount=0.999, round_to=16)
    with pytest.raises(InputError, match=r"prune\.amount is 0\.999; .* at most 0\.\d+ of the macs"):
        remove_channels(base, size_of(base), 0.999, images, params)


def test_the_search_finds_the_nearest_reachable_share():
    def steps(ratio: float) -> float:
        return round(ratio * 8) / 8

    assert steps(search_ratio(steps, 0.5)) == 0.5
    assert steps(search_ratio(steps, 0.3)) == 0.25
    assert steps(search_ratio(steps, 0.36)) == 0.375
    assert search_ratio(steps, 0.0) == 0.0


BASE_WIDTHS = [[32, 32], [64, 64], [64, 64]]
LATENCY = model_from(smooth_profile(BASE_WIDTHS), "deploy/profiles/test.json")
BY_TIME = dataclasses.replace(PARAMS, target="latency", round_to=8)


@pytest.mark.parametrize("target", ["latency", "macs", "params"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.55])
def test_a_budget_of_milliseconds_is_kept_and_nearly_used_up(base, images, target, share):
    params = dataclasses.replace(BY_TIME, target=target)
    budget = share * LATENCY.predict(BASE_WIDTHS)
    pruned = remove_milliseconds(base, budget, images, params, LATENCY)
    assert 0.85 * budget < LATENCY.predict(widths_of(pruned)) <= budget
    assert all(width % 8 == 0 for block in widths_of(pruned) for width in block)


def test_by_time_nothing_is_cut_that_buys_none_and_more_importance_stays(base, images):
    """On this device layers cost the same up to 16 channels: a cut below them is a waste."""
    budget = 0.55 * LATENCY.predict(BASE_WIDTHS)
    by_time, by_macs = (
        remove_milliseconds(
            base, budget, images, dataclasses.replace(BY_TIME, target=target), LATENCY
        )
        for target in ("latency", "macs")
    )
    assert min(width for block in widths_of(by_time) for width in block) >= 16
    scores = channel_scores(base, images, "taylor", seed=0)

    def kept(model: Network) -> float:
        """The product of the shares that the layers keep."""
        widths = [width for block in widths_of(model) for width in block]
        best = [score.sort(descending=True).values for score in scores]
        shares = [each[:width].sum() / each.sum() for each, width in zip(best, widths, strict=True)]
        return float(torch.stack(shares).prod())

    assert kept(by_time) >= kept(by_macs)


def test_by_time_no_layer_is_starved_because_its_channels_cost_most():
    """The sum of all importance is largest with 8, 64 and 64 channels: a bottleneck."""
    shape, steps = [[64], [64], [64]], np.arange(1, 9)
    prices = (0.15, 0.10, 0.05)  # milliseconds of 8 channels, whatever the layer before has
    tables = [
        np.tile(price * steps, (rows, 1)) for price, rows in zip(prices, (1, 8, 8), strict=True)
    ]
    content = profile(shape)
    content["fitted"]["fp32"]["new"] = {
        "constant_ms": 0.0,
        "layers_ms": [table.tolist() for table in (*tables, np.zeros((8, 1)))],
    }
    latency = model_from(content, "deploy/profiles/test.json")
    budget = 0.6 * latency.predict(shape)
    equal = [torch.ones(64)] * 3
    assert widths_by_time(equal, shape, budget, round_to=8, latency=latency) == [32, 32, 64]


def test_by_time_a_layer_of_no_importance_is_no_obstacle():
    scores = [torch.zeros(width) for block in BASE_WIDTHS for width in block]
    budget = 0.6 * LATENCY.predict(BASE_WIDTHS)
    widths = widths_by_time(scores, BASE_WIDTHS, budget, round_to=8, latency=LATENCY)
    assert LATENCY.predict(in_blocks(widths, BASE_WIDTHS)) <= budget


@pytest.mark.parametrize("target", ["latency", "macs"])
def test_a_budget_out_of_reach_says_the_least_that_can_be_reached(base, images, target):
    params = dataclasses.replace(BY_TIME, target=target)
    least = LATENCY.predict([[8, 8], [8, 8], [8, 8]])  # equal for all up to 16 channels
    with pytest.raises(InputError, match=rf"least that can be reached on test is {least:.4f} ms"):
        remove_milliseconds(base, 0.9 * least, images, params, LATENCY)


def test_a_profile_that_does_not_know_the_widths_is_refused(base, images):
    params = dataclasses.replace(BY_TIME, round_to=4)
    with pytest.raises(InputError, match=r"prune\.round_to is 4; .* multiples of 8"):
        remove_milliseconds(base, 1.0, images, params, LATENCY)
    narrow = model_from(smooth_profile([[32, 32], [64, 64], [64, 32]]), "deploy/profiles/test.json")
    with pytest.raises(InputError, match=r"profiles/test\.json covers networks up to"):
        remove_milliseconds(base, 1.0, images, BY_TIME, narrow)


def test_zeros_in_place_are_refused_where_time_is_to_be_saved():
    zeros = dataclasses.replace(PARAMS, method="unstructured")
    refuse_contradictions(zeros)
    for changes in ({"target": "latency"}, {"budget_ms": 0.5}):
        with pytest.raises(InputError, match="zeros in place save no time"):
            refuse_contradictions(dataclasses.replace(zeros, **changes))


WIDTHS = [[8, 12], [24, 16], [16, 20]]


def test_widths_that_are_named_are_kept_by_the_best_channels(base, teacher, images, tmp_path):
    params = dataclasses.replace(PARAMS, widths=WIDTHS, steps=1, epochs=0)
    pruned, stages, _ = prune_and_fine_tune(base, teacher, params, run_context(images, tmp_path))
    scores = channel_scores(base, images, "taylor", seed=0)
    expected = without_channels(base, scores, [width for block in WIDTHS for width in block])
    assert widths_of(pruned) == WIDTHS
    assert model_digest(pruned) == model_digest(expected)
    metrics = summary(
        base, pruned, params, {"base": 1.0, "before_fine_tuning": 1.0, "fine_tuned": 1.0}
    )
    assert metrics["amount_asked"] is None
    assert metrics["amount_reached"] == round(1 - size_of(pruned).macs / size_of(base).macs, 4)


def test_named_widths_are_reached_in_steps(base, images):
    params = dataclasses.replace(PARAMS, widths=WIDTHS, steps=2)
    halfway = keep_widths(base, base, 1, images, params)
    assert widths_of(halfway) == [[20, 22], [44, 40], [40, 42]]
    assert widths_of(keep_widths(halfway, base, 2, images, params)) == WIDTHS


@pytest.mark.parametrize(
    "widths", [[[8, 8], [8, 8]], [[8], [8, 8], [8, 8]], [[33, 8], [8, 8], [8, 8]]]
)
def test_named_widths_that_the_base_does_not_have_are_refused(base, images, widths):
    params = dataclasses.replace(PARAMS, widths=widths)
    with pytest.raises(InputError, match=r"prune\.widths is .*, the base has \[\[32, 32\], "):
        keep_widths(base, base, 1, images, params)


@pytest.mark.parametrize(
    "changes", [{"method": "unstructured"}, {"budget_ms": 0.5, "target": "latency"}]
)
def test_named_widths_are_refused_where_something_else_decides(changes):
    with pytest.raises(InputError, match=r"prune\.widths"):
        refuse_contradictions(dataclasses.replace(PARAMS, widths=WIDTHS, **changes))


@pytest.mark.parametrize(
    ("changes", "asked"), [({"amount": 0.4}, 0.6), ({"budget_ms": 0.9, "target": "macs"}, None)]
)
def test_pruning_to_milliseconds_in_steps_reports_what_it_predicts(
    base, teacher, images, tmp_path, changes, asked
):
    params = dataclasses.replace(BY_TIME, epochs=0, epochs_between=0, **changes)
    before = LATENCY.predict(BASE_WIDTHS)
    budget = asked * before if asked else params.budget_ms
    assert budget < 0.9 * before, "the budget must ask for something"
    pruned, stages, _ = prune_and_fine_tune(
        base, teacher, params, run_context(images, tmp_path), LATENCY
    )
    assert len(stages) == 2
    report = summary(base, pruned, params, {}, LATENCY)
    after = LATENCY.predict(widths_of(pruned))
    predicted = {"before": round(before, 4), "after": round(after, 4), "device": "test"}
    assert report["predicted_latency_ms"] == predicted
    assert after <= budget
    if params.target == "latency":
        assert report["amount_reached"] == round(1 - after / before, 4)
        assert report["amount_asked"] == 0.4
    else:
        macs = size_of(pruned).macs / size_of(base).macs
        assert report["amount_reached"] == round(1 - macs, 4)
        assert report["amount_asked"] is None


@pytest.mark.parametrize("target", ["macs", "params"])
def test_unstructured_pruning_writes_zeros_and_keeps_every_shape(base, target):
    params = dataclasses.replace(PARAMS, method="unstructured", target=target, amount=0.8)
    model = copy.deepcopy(base)
    mask_weights(model, size_of(base), 0.8, params)
    unmask(model)
    assert share_removed(size_of(base), size_of(model), params) == pytest.approx(0.8, abs=0.005)
    assert widths_of(model) == widths_of(base)
    assert size_of(model).params == size_of(base).params
    assert size_of(model).macs == size_of(base).macs


def test_unstructured_pruning_takes_the_smallest_weights(base):
    params = dataclasses.replace(PARAMS, method="unstructured", target="params")
    model = copy.deepcopy(base)
    mask_weights(model, size_of(base), 0.5, params)
    unmask(model)
    pairs = [
        (kept.weight.detach(), original.weight.detach())
        for kept, original in zip(model.modules(), base.modules(), strict=True)
        if isinstance(original, torch.nn.Conv2d) and original.weight.requires_grad
    ]
    zeroed = torch.cat([original[kept == 0].abs() for kept, original in pairs])
    kept = torch.cat([kept[kept != 0].abs() for kept, _ in pairs])
    assert zeroed.max() <= kept.min()


@pytest.mark.parametrize("method", ["structured", "unstructured"])
def test_pruning_and_fine_tuning_is_repeatable_and_reports_what_it_did(
    base, teacher, images, tmp_path, method
):
    params = dataclasses.replace(PARAMS, method=method)
    validation = make_images(50, seed=9)
    results = [
        prune_and_fine_tune(base, teacher, params, run_context(images, tmp_path / name, validation))
        for name in "ab"
    ]
    (pruned, stages, raw), (again, _, _) = results
    assert model_digest(pruned) == model_digest(again)
    assert len(raw) == 2
    rows = curve([stage.history for stage in stages])
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 1), (2, 2)]
    report = summary(base, pruned, params, accuracies={})
    assert report["amount_reached"] == pytest.approx(0.5, abs=0.06)
    assert report["before"]["widths"] == "32 32 / 64 64 / 64 64"
    shrunk = report["after"]["params"] < report["before"]["params"]
    assert shrunk == (method == "structured")
    zeros = report["after"]["nonzero_params"] < report["after"]["params"]
    assert zeros == (method == "unstructured")
    assert "predicted_latency_ms" not in report


def test_the_curve_of_all_steps_is_handed_on_after_every_epoch(base, teacher, images, tmp_path):
    params = dataclasses.replace(PARAMS, epochs_between=1, epochs=2)
    seen = []
    prune_and_fine_tune(
        base,
        teacher,
        params,
        run_context(images, tmp_path),
        on_epoch=lambda histories: seen.append(curve(histories)),
    )
    steps = [[row["step"] for row in rows] for rows in seen]
    assert steps == [[1], [1, 2], [1, 2, 2]]
    assert [row["epoch"] for row in seen[-1]] == [1, 2, 3]
    assert seen[-1][:2] == seen[1]


def test_fine_tuning_does_not_touch_the_base(base, teacher, images, tmp_path):
    before = model_digest(base)
    prune_and_fine_tune(base, teacher, PARAMS, run_context(images, tmp_path))
    assert model_digest(base) == before


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
    augmenter = Augmenter(pixels, RECIPE.translate, RECIPE.cutout, TEACH.seed)
    epochs = Epochs(run_context(images, tmp_path), seed=0, teacher=teacher)
    seen = [epochs.load(epoch)[0] for epoch in range(4)]
    for epoch in range(TEACH.epochs):
        of_training = augmenter.view(epoch)
        assert not any(torch.equal(of_training, view) for view in seen)

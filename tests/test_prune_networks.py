"""Pruning of networks that a factory makes: what goes together, what it costs, how it is called."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages import prune
from stages.common.building.checkpoint import load_checkpoint, save_checkpoint
from stages.common.core.cli import InputError
from stages.common.data.dataset import Images, load_training_images
from stages.common.network.imported import ImportedNetwork
from stages.common.network.size import size_of
from stages.common.pruning.base_teacher import MixupFirst, NetworkTeacher
from stages.common.pruning.costs import size_cost
from stages.common.pruning.couplings import Coupling, coupled, dependency_graph
from stages.common.pruning.cut import keep_channels
from stages.common.pruning.fine_tuning import cut_of, objectives, prune_in_steps, teachers_of
from stages.common.pruning.groups import channel_groups, coupled_layers, group_names
from stages.common.pruning.importance import scored_groups
from stages.common.pruning.latency import candidates
from stages.common.pruning.latency.candidates import CandidateTimer
from stages.common.pruning.norms import cut_with_norms
from stages.common.pruning.params import PruneParams, refuse_chain_only
from stages.common.pruning.plan.ranking import Group
from stages.common.training.augmentation import Augmenter
from stages.common.training.checkpoints import EpochStore, model_digest
from stages.common.training.teacher import TeacherOutputs, no_teacher
from tests.conftest import data_params, make_images
from tests.networks import NETWORK, PROVENANCE, RECIPE, call_prune, run_context, write_params
from tests.test_plan import PARAMS


class Mixed(nn.Module):
    """One of each: a residual stream, a depthwise convolution behind a gate, a grouped convolution,
    a concatenation, and a linear layer that reads several positions of a channel.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.stem = conv(3, 16, 3, stride=2)
        self.residual = nn.Sequential(conv(16, 24, 3), nn.ReLU(), conv(24, 16, 3))
        self.expand = conv(16, 32, 1)
        self.depthwise = conv(32, 32, 3, groups=32)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.project = conv(32, 16, 1)
        self.branches = nn.ModuleList([conv(16, 12, 3, stride=2), conv(16, 20, 3, stride=2)])
        self.grouped = nn.Sequential(conv(32, 24, 1), nn.ReLU(), conv(24, 36, 3, groups=3))
        self.hidden = nn.Linear(36 * 4, 20)
        self.head = nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.residual(x)).relu()
        wide = self.depthwise(self.expand(x).relu()).relu()
        gate = self.excite(self.squeeze(wide.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = x + self.project(wide * gate)
        x = torch.cat([branch(x).relu() for branch in self.branches], dim=1)
        x = nn.functional.adaptive_avg_pool2d(self.grouped(x).relu(), 2)
        return self.head(self.hidden(x.flatten(1)).relu())


def conv(inputs: int, outputs: int, size: int, **options: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


STREAM = "stem to project residual stream"
WIDTHS = {
    STREAM: 16,
    "residual.0.0": 24,
    "expand.0": 32,
    "squeeze": 8,
    "branches.0.0": 12,
    "branches.1.0": 20,
    "grouped.0.0": 24,
    "grouped.2.0": 36,
    "hidden": 20,
}
FACTORY = "tests.test_prune_networks:Mixed"
BY_RANK = dataclasses.replace(PARAMS, allocation="global", round_to=4, steps=1)


@pytest.fixture(scope="module")
def images() -> Images:
    return make_images(100)


@pytest.fixture(scope="module")
def base(images) -> ImportedNetwork:
    """Weights and statistics in which channels differ, as after training."""
    network = new_network(FACTORY)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.2, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
    network.train()(torch.from_numpy(images.pixels).float())
    return network.eval()


def new_network(factory: str, size: int = 32) -> ImportedNetwork:
    torch.manual_seed(0)
    config = {"factory": factory, "arguments": {}, "classes": 10, "image_size": [size, size]}
    network = ImportedNetwork(config)
    network.mean.fill_(120.0)
    network.std.fill_(60.0)
    return network.eval()


def random_plan(groups: list[Group], seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    return {
        group.name: int(rng.integers(2, len(group.importance) + 1)) * group.channels_each
        for group in groups
    }


def cut_once(
    base: ImportedNetwork, images: Images, params: PruneParams, keep_whole: tuple[str, ...] = ()
) -> ImportedNetwork:
    cut = cut_of(base, dataclasses.replace(params, steps=1), images, keep_whole=keep_whole)
    return cut(copy.deepcopy(base), 1)


def widths_in(model: ImportedNetwork) -> dict[str, int]:
    return {group.name: group.width for group in channel_groups(model)}


# ----------------------------------------------------------------------------------------- groups


def test_channels_that_must_go_together_are_one_group_with_a_name_in_words(base):
    groups = channel_groups(base)
    assert {group.name: group.width for group in groups} == WIDTHS
    assert coupled_layers(groups) == {
        STREAM: ["stem.0", "residual.2.0", "project.0"],
        "expand.0": ["expand.0", "excite"],
    }
    sets = {group.name: group.channels_each for group in groups if group.channels_each > 1}
    assert sets == {"grouped.0.0": 3, "grouped.2.0": 3}


def test_the_output_layer_and_layers_kept_whole_keep_their_outputs(base, images):
    assert "head" not in WIDTHS
    names = {group.name for group in channel_groups(base, keep_whole=["grouped", "excite"])}
    assert names == WIDTHS.keys() - {"grouped.0.0", "grouped.2.0", "expand.0"}
    assert STREAM not in {group.name for group in channel_groups(base, keep_whole=["project.0"])}
    pruned = cut_once(base, images, BY_RANK, keep_whole=("hidden", "stem"))
    assert pruned.body.hidden.out_features == 20
    assert pruned.body.stem[0].out_channels == 16
    assert size_of(pruned).macs < 0.6 * size_of(base).macs


def test_a_layer_to_keep_whole_that_is_not_there_is_refused_with_the_nearest(base):
    expected = r"network\.keep_whole: the network has no layer 'excit'; nearest: 'excite'"
    with pytest.raises(InputError, match=expected):
        channel_groups(base, keep_whole=["excit"])


def test_nothing_left_to_prune_is_refused(base):
    with pytest.raises(InputError, match=r"no channels of .* can be pruned; shorten"):
        channel_groups(base, keep_whole=list(base.body._modules))


def test_residual_streams_are_called_by_what_they_pass_through():
    """As in ResNet-18 and MobileNetV2 of torchvision."""

    def stream(*layers: str, added: bool = True) -> Coupling:
        return Coupling(tuple(f"body.{layer}" for layer in layers), 8, 1, added)

    assert group_names(
        [
            stream("conv1", "layer1.0.conv2", "layer1.1.conv2"),
            stream("layer1.0.conv1", added=False),
            stream("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"),
            stream("features.2.conv.2", "features.3.conv.2"),
            stream("features.4.block.0", "features.4.se.fc2", added=False),
            stream("features.4.conv.2", "features.5.conv.2", "features.6.conv.2"),
            stream("trunk.0.a", "trunk.0.b"),
            stream("trunk.0.c", "trunk.0.d"),
        ]
    ) == [
        "conv1 to layer1 residual stream",
        "layer1.0.conv1",
        "layer2 residual stream",
        "features.2 to features.3 residual stream",
        "features.4.block.0",
        "features.4 to features.6 residual stream",
        "trunk.0.a to trunk.0.b residual stream",
        "trunk.0.c to trunk.0.d residual stream",
    ]


def test_a_network_that_torch_pruning_does_not_understand_is_refused_in_one_line():
    network = new_network("torchvision:shufflenet_v2_x0_5", size=64)
    expected = r"torch-pruning cannot prune torchvision:shufflenet_v2_x0_5 \(.*\): choose another"
    with pytest.raises(InputError, match=expected):
        channel_groups(network)


class FixedReshape(nn.Module):
    """It counts on the number of channels that it was made with."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).mean((2, 3)).reshape(len(x), 16))


def test_a_cut_network_that_no_longer_runs_is_refused_in_one_line(images):
    network = new_network("tests.test_prune_networks:FixedReshape")
    with pytest.raises(InputError, match=r"cut .*:FixedReshape so that it does not run \(.*\): "):
        cut_once(network, images, BY_RANK)


# ----------------------------------------------------------------------------------- cut and cost


@pytest.mark.parametrize("seed", range(4))
def test_removing_channels_equals_silencing_them(base, images, seed):
    """A silenced channel is 0 in every layer that makes it or passes it on."""
    groups = scored_groups(base, images, "taylor", seed=0)
    plan = random_plan(groups, seed)
    silenced = copy.deepcopy(base)
    graph = dependency_graph(silenced)
    for group in groups:
        sets = len(group.importance)
        worst = group.importance.argsort(kind="stable")[
            : sets - plan[group.name] // group.channels_each
        ]
        removed = [int(each) + part * sets for part in range(group.channels_each) for each in worst]
        root = silenced.get_submodule(group.layers[0])
        for dependency, channels in coupled(graph, root, removed):
            layer = dependency.target.module
            makes = graph.is_out_channel_pruning_fn(dependency.handler)
            if makes and isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                layer.weight.data[channels] = 0
                if layer.bias is not None:
                    layer.bias.data[channels] = 0
    pruned = keep_channels(base, groups, plan)
    pixels = torch.from_numpy(images.pixels).float()
    with torch.no_grad():
        assert torch.allclose(pruned(pixels), silenced(pixels), atol=1e-4)
    assert widths_in(pruned) == plan


@pytest.mark.parametrize("name", ["mixed", "mobilenet_v3_small"])
@pytest.mark.parametrize("target", ["macs", "params"])
def test_the_cost_of_widths_is_that_of_a_network_cut_to_them(base, name, target):
    network = base if name == "mixed" else new_network(f"torchvision:{name}")
    groups, cost = channel_groups(network), size_cost(network, target)
    assert cost.base == cost.of([group.width for group in groups])
    for seed in range(3):
        plan = random_plan(groups, seed)
        cut = keep_channels(network, groups, plan)
        assert cost.of([plan[group.name] for group in groups]) == getattr(size_of(cut), target)


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("target", ["macs", "params"])
def test_about_the_amount_asked_is_removed_in_multiples(base, images, allocation, target):
    params = dataclasses.replace(BY_RANK, allocation=allocation, target=target, amount=0.5)
    pruned = cut_once(base, images, params)
    reached = 1 - getattr(size_of(pruned), target) / getattr(size_of(base), target)
    assert reached == pytest.approx(0.5, abs=0.08)
    for name, width in widths_in(pruned).items():
        assert width % 4 == 0 or width == WIDTHS[name]


def test_a_group_narrower_than_the_rounding_stays_whole(base, images):
    pruned = cut_once(base, images, dataclasses.replace(BY_RANK, round_to=16, amount=0.2))
    assert widths_in(pruned)["squeeze"] == 8
    assert widths_in(pruned)[STREAM] == 16


def test_the_plan_is_printed_in_words(base, images, capsys):
    cut_once(base, images, dataclasses.replace(BY_RANK, amount=0.0))
    expected = f"plan of step 1/1: {STREAM} 16 of 16, residual.0.0 24 of 24, expand.0 32 of 32, "
    assert capsys.readouterr().out.startswith(expected)


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_a_channel_without_effect_is_the_least_important(base, images, importance):
    dead = copy.deepcopy(base)
    for layer in (dead.body.residual[0][0], dead.body.residual[0][1]):
        layer.weight.data[5] = 0
    dead.body.residual[0][1].bias.data[5] = 0
    dead.body.residual[2][0].weight.data[:, 5] = 0
    groups = scored_groups(dead, images, importance, seed=0)
    assert groups[1].name == "residual.0.0"
    assert groups[1].importance.argmin() == 5


def test_gradients_of_large_images_are_added_batch_by_batch(base, images, monkeypatch):
    whole = scored_groups(base, images, "taylor", seed=0)
    monkeypatch.setattr("stages.common.pruning.importance.BATCH_PIXELS", 7 * 32 * 32)
    parts = scored_groups(base, images, "taylor", seed=0)
    for one, other in zip(whole, parts, strict=True):
        assert np.allclose(one.importance, other.importance, rtol=1e-3)


def test_a_pruned_network_is_rebuilt_from_its_checkpoint(base, images, tmp_path):
    pruned = cut_once(base, images, BY_RANK)
    save_checkpoint(tmp_path / "pruned.pt", pruned, PROVENANCE)
    loaded = load_checkpoint(tmp_path / "pruned.pt", FACTORY).model
    assert model_digest(loaded) == model_digest(pruned)
    pixels = torch.from_numpy(images.pixels).float()
    with torch.no_grad():
        assert torch.equal(loaded(pixels), pruned(pixels))


class Versioned(nn.Linear):
    """A layer that asks for the version of its weights, as torchvision's MNASNet does."""

    def _load_from_state_dict(self, state_dict, prefix, metadata, *others) -> None:
        assert metadata["version"] == 1
        super()._load_from_state_dict(state_dict, prefix, metadata, *others)


class WithVersions(nn.Sequential):
    def __init__(self, num_classes: int):
        pooled = (conv(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(*pooled, Versioned(16, num_classes))


def test_a_pruned_network_whose_layers_ask_for_a_version_is_rebuilt_too(images, tmp_path):
    factory = "tests.test_prune_networks:WithVersions"
    pruned = cut_once(new_network(factory), images, BY_RANK)
    save_checkpoint(tmp_path / "pruned.pt", pruned, PROVENANCE)
    loaded = load_checkpoint(tmp_path / "pruned.pt", factory).model
    assert model_digest(loaded) == model_digest(pruned)


def test_zeros_spare_the_output_layer_and_what_is_kept_whole(base, images):
    params = dataclasses.replace(BY_RANK, method="unstructured", amount=0.6)
    pruned = cut_once(base, images, params, keep_whole=("residual", "squeeze"))
    zeros = {
        name: float((layer.weight == 0).float().mean())
        for name, layer in pruned.body.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    spared = {"residual.0.0", "residual.2.0", "squeeze", "hidden", "head"}
    assert all((zeros[name] > 0) == (name not in spared) for name in zeros)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"allocation": "proportional"},
            r"prune\.allocation is proportional, .* uniform or global",
        ),
        ({"widths": [[8, 8]]}, r"prune\.widths is for the chain"),
        ({"precision": "int8"}, r"prune\.precision is int8, .* are measured: set it to fp32"),
    ],
)
def test_what_only_the_chain_has_is_refused(changes, expected):
    params = dataclasses.replace(BY_RANK, **changes)
    refuse_chain_only(params, "chain")
    with pytest.raises(InputError, match=expected):
        refuse_chain_only(params, FACTORY)


# ------------------------------------------------------------------------- steps and fine-tuning


def without_views(images: Images) -> TeacherOutputs:
    return no_teacher(images, RECIPE.augmentation())


def test_without_a_wider_teacher_the_base_teaches_on_new_views(base, images, tmp_path):
    context = run_context(images, tmp_path)
    teacher_of = teachers_of(base, without_views(images), PARAMS, context)
    teacher, other_step = teacher_of(1), teacher_of(2)
    assert isinstance(teacher, NetworkTeacher)
    assert teacher.digest != other_step.digest
    pixels = torch.from_numpy(images.pixels)
    augmenter = Augmenter(pixels, images.info, RECIPE.augmentation(), teacher.seed)
    first, second = (teacher.epoch_data(augmenter, epoch, seed=0) for epoch in (0, 1))
    assert not torch.equal(first.pixels, second.pixels)
    with torch.no_grad():
        expected = base(first.pixels.float()).numpy()
    assert np.allclose(first.logits, expected, atol=2e-3 * np.abs(expected).max())


def test_without_a_wider_teacher_mixtures_come_first_all_the_same(base, images, tmp_path):
    params = dataclasses.replace(PARAMS, mixup_share=0.5, epochs=4)
    teacher_of = teachers_of(base, without_views(images), params, run_context(images, tmp_path))
    assert isinstance(teacher_of(1), NetworkTeacher), "a single epoch is plain"
    assert isinstance(teacher_of(2), MixupFirst)


def test_without_a_teacher_and_without_its_weight_only_the_labels_count(base, images, tmp_path):
    params = dataclasses.replace(PARAMS, distillation=0.0)
    objective = objectives(base, without_views(images), params, run_context(images, tmp_path))(1)
    assert objective.teacher is None
    assert objective.key == "labels"


def test_pruning_in_steps_is_repeatable_and_goes_on_after_a_kill(base, images, tmp_path):
    def killed(histories: list[list[dict]]) -> None:
        if len(histories) == 2:
            raise KeyboardInterrupt

    def pruned(folder: Path, **options: object) -> ImportedNetwork:
        context = run_context(images, EpochStore(folder))
        return prune_in_steps(base, without_views(images), PARAMS, context, **options).network

    whole = pruned(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pruned(tmp_path / "killed", on_epoch=killed)
    assert model_digest(pruned(tmp_path / "killed")) == model_digest(whole)
    assert size_of(whole).macs == pytest.approx(0.5 * size_of(base).macs, rel=0.16)


# ---------------------------------------------------------------------------------- milliseconds


@pytest.fixture
def stopwatch(base, monkeypatch) -> list[int]:
    """Time is MACs, so that no machine is asked; every timing of a candidate is counted."""
    counted: list[int] = []

    class Session:
        def __init__(self, model: ImportedNetwork):
            self.macs = size_of(model).macs

    def quick_ms(sessions: list[Session]) -> list[float]:
        counted.append(len(sessions))
        return [each.macs / 1e6 for each in sessions]

    monkeypatch.setattr(candidates, "right_engines", lambda _: ["new"])
    monkeypatch.setattr(candidates, "session_of", lambda model, _: Session(model))
    monkeypatch.setattr(candidates, "quick_ms", quick_ms)
    return counted


BY_TIME = dataclasses.replace(BY_RANK, target="latency", amount=0.4, steps=2)


def test_candidates_are_measured_until_the_share_of_time_is_gone(
    base, images, tmp_path, stopwatch, capsys
):
    timer = CandidateTimer(base, [], EpochStore(tmp_path))
    cut = cut_of(base, BY_TIME, images, timer)
    halfway = cut(copy.deepcopy(base), 1)
    pruned = cut(halfway, 2)
    shares = [size_of(each).macs / size_of(base).macs for each in (halfway, pruned)]
    assert 0.7 < shares[0] <= 0.8
    assert 0.5 < shares[1] <= 0.6
    lines = [line for line in capsys.readouterr().out.splitlines() if "candidate" in line]
    assert len(lines) == len(timer.candidates) == len(stopwatch) - 1  # and the base alone
    assert lines[0].startswith("candidate 1: ")
    assert lines[0].endswith("of the base's time")
    report = timer.report(list(widths_in(pruned).values()))
    assert report["before"] == round(size_of(base).macs / 1e6, 4)
    assert report["after"] == pytest.approx(shares[1] * report["before"], abs=1e-4)
    assert report["candidates"] == len(lines)


def test_after_a_kill_no_candidate_is_measured_again(base, images, tmp_path, stopwatch):
    def cut() -> str:
        timer = CandidateTimer(base, [], EpochStore(tmp_path))
        return model_digest(cut_of(base, BY_TIME, images, timer)(copy.deepcopy(base), 1))

    first, measured = cut(), len(stopwatch)
    assert cut() == first
    assert len(stopwatch) == measured


def test_a_budget_of_milliseconds_out_of_reach_says_the_least(base, images, tmp_path, stopwatch):
    timer = CandidateTimer(base, [], EpochStore(tmp_path))
    params = dataclasses.replace(BY_TIME, budget_ms=1e-3, steps=1)
    with pytest.raises(
        InputError, match=r"asks for 0\.0010 ms measured here; with prune\.round_to"
    ):
        cut_of(base, params, images, timer)(copy.deepcopy(base), 1)


class Wide(nn.Sequential):
    def __init__(self, num_classes: int):
        super().__init__(
            *(conv(3, 96, 3, stride=2), nn.ReLU(), conv(96, 96, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, num_classes)),
        )


def test_a_narrow_network_takes_less_time_in_opencv_on_this_machine(tmp_path):
    network = new_network("tests.test_prune_networks:Wide")
    timer = CandidateTimer(network, [], EpochStore(tmp_path))
    assert timer.base_ms > 0
    assert timer.ms([96, 96]) == timer.base_ms
    assert timer.ms([8, 8]) < 0.7 * timer.base_ms


def test_an_engine_that_is_wrong_here_is_not_timed(base, monkeypatch, capsys):
    session_of = candidates.session_of

    class Wrong:
        def __init__(self, session):
            self.session = session

        def logits(self, blob: np.ndarray) -> np.ndarray:
            return 1.2 * self.session.logits(blob)

    monkeypatch.setattr(candidates, "installed_engines", lambda _: ["new", "again"])
    monkeypatch.setattr(
        candidates,
        "session_of",
        lambda model, engine: (
            session_of(model, "new") if engine == "new" else Wrong(session_of(model, "new"))
        ),
    )
    assert candidates.right_engines(base) == ["new"]
    assert "engine 'again' is wrong here by 20.0%" in capsys.readouterr().out
    monkeypatch.setattr(candidates, "installed_engines", lambda _: ["again"])
    with pytest.raises(InputError, match="need a right engine"):
        candidates.right_engines(base)


# -------------------------------------------------------------------------------------- the stage


@pytest.mark.parametrize("changes", [{"steps": 2}, {"target": "latency", "amount": 0.3}], ids=str)
def test_the_stage_writes_what_was_done_to_every_group(
    base, data_directory, tmp_path, monkeypatch, stopwatch, changes
):
    params = dataclasses.replace(BY_RANK, **changes)
    write_params(
        tmp_path / "params.yaml",
        network={**NETWORK, "factory": FACTORY, "keep_whole": ["hidden"]},
        recipe=dataclasses.asdict(RECIPE),
        prune=dataclasses.asdict(params),
    )
    save_checkpoint(tmp_path / "base.pt", base, PROVENANCE)
    images, _ = load_training_images(data_directory, data_params(400, 100))
    monkeypatch.setattr(prune, "load_teacher", lambda *_: without_views(images))
    metrics = call_prune(monkeypatch, data_directory, tmp_path)
    loaded = load_checkpoint(tmp_path / "pruned.pt", FACTORY)
    groups = channel_groups(loaded.model, keep_whole=["hidden"])
    assert metrics["before"]["widths"] == {k: v for k, v in WIDTHS.items() if k != "hidden"}
    assert metrics["after"]["widths"] == {group.name: group.width for group in groups}
    assert metrics["coupled_layers"] == coupled_layers(groups)
    assert loaded.provenance["prune"]["keep_whole"] == ["hidden"]
    assert ("measured_latency_ms" in metrics) == (params.target == "latency")
    assert metrics["amount_reached"] == pytest.approx(params.amount, abs=0.08)
    assert metrics["teaching_flops"] == params.steps * len(images) * 2 * size_of(base).macs
    assert not list((tmp_path / "resume").iterdir())


class Constant(nn.Module):
    """A convolution whose last channel is 3 everywhere behind its BatchNorm, and two readers."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.first, self.second = conv(3, 8, 3), conv(8, 16, 1)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def test_kept_statistics_move_with_a_cut_that_shifts_the_inputs_of_a_norm():
    images = make_images(40, seed=1)
    network = new_network("tests.test_prune_networks:Constant")
    first, second = network.body.first[1], network.body.second[1]
    nn.init.uniform_(second.running_mean), nn.init.uniform_(second.running_var, 0.5, 1.5)
    with torch.no_grad():
        first.weight[-1], first.bias[-1] = 0.0, 3.0
    groups = [
        dataclasses.replace(group, importance=np.arange(group.width, 0, -1, dtype=np.float32))
        for group in channel_groups(network)
    ]
    plan = {"first.0": 7, "second.0": 16}
    pixels = torch.from_numpy(images.pixels).float()
    expected, kept = network(pixels), second.running_mean.clone()
    cut = cut_with_norms(
        network,
        lambda model: keep_channels(model, groups, plan),
        images,
        batch_size=30,
        device=torch.device("cpu"),
    )
    torch.testing.assert_close(cut(pixels), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(second.running_mean, kept)  # of the network that is cut
    assert cut.body.first[1].running_mean.shape == (7,)
    assert not any(layer.training for layer in cut.modules())


def test_kept_statistics_stay_where_a_cut_removes_nothing(base, images):
    cut = cut_with_norms(base, copy.deepcopy, images, batch_size=40, device=torch.device("cpu"))
    for name, value in base.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value)


@pytest.mark.parametrize("method", ["structured", "unstructured"])
def test_pruning_with_kept_statistics_is_nearer_to_the_base(method, base, images, tmp_path):
    params = dataclasses.replace(BY_RANK, method=method, amount=0.3, epochs=0, distillation=0.0)
    teacher = without_views(images)
    pixels = torch.from_numpy(images.pixels).float()

    def distance(frozen_norms: bool) -> float:
        recipe = dataclasses.replace(RECIPE, frozen_norms=frozen_norms)
        context = dataclasses.replace(run_context(images, tmp_path), recipe=recipe)
        pruned = prune_in_steps(base, teacher, params, context).network.eval()
        return (pruned(pixels) - base(pixels)).square().mean().item()

    assert distance(frozen_norms=True) < distance(frozen_norms=False)

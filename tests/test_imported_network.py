"""Networks that a factory makes: found by name, trained, given pretrained weights, rebuilt."""

import dataclasses
import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.common.building.build import build_imported, build_network
from stages.common.building.check import refuse_network, tried
from stages.common.building.checkpoint import load_chain, load_checkpoint, save_checkpoint
from stages.common.building.pretrained import load_pretrained
from stages.common.core.cli import InputError
from stages.common.core.params import read_params
from stages.common.data.dataset import Images
from stages.common.network.factories import find_factory, source_file
from stages.common.network.imported import ImportedNetwork, give_shapes
from stages.common.network.params import NetworkParams, is_factory
from stages.common.network.size import size_of
from stages.common.training.loop import Monitor, fit
from stages.common.training.losses import label_objective
from stages.common.training.optimizers import begin_epoch, make_optimizers
from stages.common.training.params import Schedule
from stages.validate_params import check
from tests.conftest import make_images
from tests.networks import NETWORK, RECIPE, run_context

TINY = "tests.test_imported_network:tiny"
PARAMS = NetworkParams(**{**NETWORK, "factory": TINY, "code": "tests"})


class Tiny(nn.Module):
    """A convolution, a depthwise and a pointwise one, and a linear layer."""

    def __init__(self, num_classes: int, width: int = 8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, 2 * width, 1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.norm(self.pointwise(self.depthwise(x))))
        return self.head(x.mean(dim=(2, 3)))


def tiny(num_classes: int, width: int = 8) -> nn.Module:
    return Tiny(num_classes, width)


OWN_FILES = {
    "own.py": """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, change):
        super().__init__()
        self.first, self.change = nn.Conv2d(3, num_classes, 3), change
    def forward(self, x):
        return self.change(self.first(x))
def raises(num_classes):
    return {}["no such layer"]
def raises_lines(num_classes):
    raise RuntimeError("one\\ntwo")
def no_module(num_classes):
    return 3
def image(num_classes):
    return Net(num_classes, lambda x: x)
def whole_numbers(num_classes):
    return Net(num_classes, lambda x: x.mean((2, 3)).long())
def attribute(num_classes):
    return Net(num_classes, lambda x: x.pooled)
def without_layers(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, num_classes)), nn.Flatten(), nn.AvgPool1d(3))
""",
    "syntax.py": "import torch\ndef x(num_classes:\n",
    "missing.py": "import nowhere\n",
    "broken.py": "import torch\nx = 1 / 0\n",
}


@pytest.fixture
def images() -> Images:
    return make_images(60, seed=3)


@pytest.fixture
def network(images) -> ImportedNetwork:
    return build_imported(TINY, {}, images, seed=0)


# -------------------------------------------------------------------------------------- factories


def test_a_factory_is_torchvisions_a_packages_or_refused_with_the_nearest_name():
    assert find_factory("torchvision:mobilenet_v2")(num_classes=3).classifier[1].out_features == 3
    assert find_factory(TINY) is not None
    with pytest.raises(InputError, match="did you mean torchvision:mobilenet_v2"):
        find_factory("torchvision:mobilnet_v2")
    with pytest.raises(InputError, match="cannot be imported .*No module named 'nowhere'"):
        find_factory("nowhere.networks:resnet")
    with pytest.raises(InputError, match="has no 'tinier'"):
        find_factory("tests.test_imported_network:tinier")
    with pytest.raises(InputError, match="is no function"):
        find_factory("tests.test_imported_network:TINY")


@pytest.mark.parametrize("name", ["resnet18", "torchvision:", "a b:c", "os.path:", 3, None])
def test_a_name_that_is_no_factory_is_refused_where_params_are_read(name):
    assert not is_factory(name)


@pytest.mark.parametrize(
    ("factory", "arguments", "said"),
    [
        (TINY, {"depth": 3}, "fails with num_classes=2 .*unexpected keyword argument 'depth'"),
        ("own:raises", {}, r"fails with .*KeyError: 'no such layer', own.py:\d+\); change its"),
        ("own:raises_lines", {}, r"fails with .*RuntimeError: one, own.py:\d+"),
        ("own:no_module", {}, "makes int, not a torch.nn.Module"),
        (
            "own:image",
            {},
            r"gives float32 \(2, 2, 30, 30\) for 2 images; expected float32 \(2, 2\)",
        ),
        ("own:whole_numbers", {}, r"gives int64 \(2, 2\) for 2 images; expected float32"),
        ("own:attribute", {}, r"cannot take images of 32x32 \(AttributeError: .*own.py:\d+\)"),
        ("own:without_layers", {}, "no convolution or linear layer with 2 outputs"),
        ("own.raises:x", {}, "cannot be imported .*'own' is not a package"),
        ("syntax:x", {}, r"cannot be imported \(SyntaxError: .*syntax.py, line 2\)"),
        ("missing:x", {}, r"cannot be imported .*No module named 'nowhere', missing.py:1"),
        ("broken:x", {}, r"cannot be imported \(ZeroDivisionError: .*, broken.py:2\)"),
        ("torchvision:alexnet", {}, "cannot take images of 32x32"),
        ("torchvision:googlenet", {}, "gives GoogLeNetOutputs .*in training, where auxiliary"),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_a_factory_that_makes_no_network_for_the_images_is_refused_in_one_line(
    factory, arguments, said, tmp_path, monkeypatch
):
    for name, code in OWN_FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        tried(factory, arguments, [32, 32])
    sys.modules.pop("own", None)
    assert "\n" not in str(error.value)


def test_the_file_of_an_own_factory_must_be_a_dependency():
    assert source_file("torchvision:resnet18") is None
    assert source_file(TINY) == Path(__file__)
    refuse_network(PARAMS, [32, 32])
    with pytest.raises(
        InputError, match=r"network.code is 'examples/networks', but .* is in tests/"
    ):
        refuse_network(dataclasses.replace(PARAMS, code="examples/networks"), [32, 32])


def test_the_file_of_a_teachers_own_factory_must_be_a_dependency_too():
    content = read_params("params.yaml")
    content["teach"]["factory"] = TINY
    with pytest.raises(InputError, match="network.code is 'examples/networks', but .* is in tests"):
        check(content, path="params.yaml")


def test_a_layer_to_keep_whole_must_be_there():
    refuse_network(dataclasses.replace(PARAMS, keep_whole=["stem"]), [32, 32])
    with pytest.raises(InputError, match="has no layer 'stam'; nearest: 'stem'"):
        refuse_network(dataclasses.replace(PARAMS, keep_whole=["stam"]), [32, 32])


# ------------------------------------------------------------------------------------ the network


def test_one_whole_number_is_the_mean_of_all_colours(network, images):
    assert network.mean.unique().tolist() == [round(sum(images.info.mean) / 3)]
    assert network.std.flatten().tolist() == pytest.approx(images.info.std)


def test_the_same_seed_gives_the_same_weights(images, network):
    again = build_network(TINY, {}, [[8]], images, seed=0)
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))


def test_depthwise_and_pointwise_layers_count_by_hand(network):
    stem, depthwise, pointwise, head = 8 * 3 * 9, 8 * 9, 16 * 8, 10 * 16
    size = size_of(network)
    assert size.macs == (stem + depthwise + pointwise) * 16 * 16 + head
    assert size.params == stem + depthwise + pointwise + head + 16 + 10 + 8 + 16


# ------------------------------------------------------------------------------------- checkpoint


def test_a_checkpoint_gives_the_layers_the_shapes_of_their_weights(network, tmp_path):
    body = network.body
    kept = torch.tensor([0, 3, 5])
    body.stem.weight.data = body.stem.weight.data[kept]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(body.bn, name).data = getattr(body.bn, name).data[kept]
    body.depthwise.weight.data = body.depthwise.weight.data[kept]
    body.depthwise.groups = body.depthwise.in_channels = 3
    body.pointwise.weight.data = body.pointwise.weight.data[:, kept]
    network.eval()
    save_checkpoint(tmp_path / "a.pt", network, provenance={"seed": 1})
    loaded = load_checkpoint(tmp_path / "a.pt", TINY)
    pixels = torch.rand(4, 3, 32, 32) * 255
    assert torch.equal(loaded.model(pixels), network(pixels))
    layer = loaded.model.body.depthwise
    assert (layer.groups, layer.in_channels, layer.out_channels) == (3, 3, 3)
    assert loaded.model.body.bn.num_features == 3
    assert size_of(loaded.model) == size_of(network)


@pytest.mark.parametrize(
    ("layer", "narrower", "shape"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 5)),
        (nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5)),
        (nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
        (nn.Linear(8, 6), nn.Linear(5, 3), (2, 5)),
        (nn.BatchNorm2d(8), nn.BatchNorm2d(3), (2, 3, 5, 5)),
        (nn.GroupNorm(2, 8), nn.GroupNorm(2, 4), (2, 4, 5, 5)),
        (nn.LayerNorm(8), nn.LayerNorm(3), (2, 5, 3)),
        (nn.PReLU(8), nn.PReLU(3), (2, 3, 5)),
    ],
)
def test_every_kind_of_layer_takes_the_shapes_that_pruning_left(layer, narrower, shape):
    give_shapes(layer, narrower.state_dict())
    layer.load_state_dict(narrower.state_dict())
    x = torch.rand(shape)
    assert torch.equal(layer.eval()(x), narrower.eval()(x))
    assert str(layer) == str(narrower)


def test_a_checkpoint_never_chooses_which_code_runs(network, tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, network, provenance={})
    content = torch.load(path, weights_only=True)
    content["config"]["factory"] = "tests.never_imported:call"
    torch.save(content, path)
    with pytest.raises(InputError, match="holds a network of tests.never_imported:call, not of"):
        load_checkpoint(path, TINY)
    with pytest.raises(InputError, match="not of chain; what you started takes no other network"):
        load_chain(path)
    assert "tests.never_imported" not in sys.modules


# ------------------------------------------------------------------------------ pretrained weights


def with_weights(path: Path) -> NetworkParams:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return dataclasses.replace(PARAMS, weights=str(path), weights_sha256=digest)


def test_pretrained_weights_go_in_and_the_head_of_other_classes_is_new(network, images, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(Tiny(num_classes=7).state_dict(), path)
    head = network.body.head.weight.clone()
    line = load_pretrained(network, with_weights(path))
    assert line.endswith("its output layer is new, for 10 classes")
    assert torch.equal(network.body.stem.weight, torch.load(path)["stem.weight"])
    assert torch.equal(network.body.head.weight, head)


def test_other_weights_than_the_expected_ones_are_refused(network, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(Tiny(num_classes=10, width=4).state_dict(), path)
    with pytest.raises(
        InputError, match="weights of another network .* the first is 'stem.weight'"
    ):
        load_pretrained(network, with_weights(path))
    other = dataclasses.replace(with_weights(path), weights_sha256="ab")
    with pytest.raises(InputError, match=r"has the SHA-256 .* network.weights_sha256 is 'ab'"):
        load_pretrained(network, other)
    missing = dataclasses.replace(PARAMS, weights="no_package_of_this_name:weights.pt")
    with pytest.raises(InputError, match="no package 'no_package_of_this_name' is installed"):
        load_pretrained(network, missing)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Tiny(num_classes=10), "it is damaged, or holds more than tensors"),
        ({"model": Tiny(num_classes=10)}, "it is damaged, or holds more than tensors"),
        ({"stem.weight": "text"}, "'stem.weight' in it is of type str"),
        ({"optimizer": {"lr": 0.1}}, "'optimizer' in it is of type dict"),
        ({1: torch.zeros(1)}, "1 in it is of type Tensor"),
        (torch.zeros(1), "its content is of type Tensor"),
        ([1, 2], "its content is of type list"),
    ],
)
def test_a_file_of_something_else_than_tensors_by_name_is_refused(content, said, network, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(InputError) as refusal:
        load_pretrained(network, with_weights(path))
    assert str(refusal.value) == (
        f"network.weights: {path} holds no weights ({said}); expected what "
        "torch.save(network.state_dict(), file) writes"
    )


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"half"])
def test_a_file_of_weights_that_is_damaged_or_no_such_file_is_refused(content, network, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(Tiny(num_classes=10).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000] if content == b"half" else content)
    with pytest.raises(InputError, match="it is damaged, or holds more than tensors"):
        load_pretrained(network, with_weights(path))


def test_weights_of_another_network_are_refused_before_any_work(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(Tiny(num_classes=10).state_dict(), path)
    refuse_network(with_weights(path), [32, 32])
    torch.save(Tiny(num_classes=10, width=4).state_dict(), path)
    with pytest.raises(InputError, match="weights of another network"):
        refuse_network(with_weights(path), [32, 32])


def test_a_network_that_cannot_be_pruned_is_refused_before_any_work():
    content = read_params("params.yaml")
    content["network"]["factory"] = "torchvision:shufflenet_v2_x0_5"
    content["prune"]["allocation"] = "uniform"
    with pytest.raises(InputError, match="torch-pruning cannot prune torchvision:shufflenet_v2"):
        check(content, path="params.yaml")
    content["prune"]["method"] = "unstructured"
    check(content, path="params.yaml")


# --------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw"])
def test_every_optimizer_learns_and_the_same_seed_gives_the_same_bits(optimizer, images, tmp_path):
    rates = {"muon": 0.05, "sgd": 0.05, "adamw": 0.01}
    recipe = dataclasses.replace(
        RECIPE, optimizer=optimizer, schedule="cosine", weight_decay=0.0005, translate=0
    )
    schedule = Schedule(epochs=6, batch_size=20, learning_rate=rates[optimizer])
    curves = []
    for number in range(2):
        network = build_imported(TINY, {}, images, seed=0)
        context = dataclasses.replace(run_context(images, tmp_path / str(number)), recipe=recipe)
        progress = fit(network, label_objective(0.0), schedule, 0, context, Monitor("t"))
        curves.append(progress.history)
    assert curves[0] == curves[1]
    assert curves[0][-1]["loss"] < curves[0][0]["loss"]


def test_a_frozen_body_keeps_weights_and_statistics_until_its_turn(images, tmp_path):
    network = build_imported(TINY, {}, images, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, optimizer="sgd")
    context = dataclasses.replace(run_context(images, tmp_path), recipe=recipe)
    frozen = Schedule(epochs=1, batch_size=20, learning_rate=0.1, frozen_epochs=1)
    fit(network, label_objective(0.0), frozen, 0, context, Monitor("t"))
    changed = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"body.head.weight", "body.head.bias"}
    assert begin_epoch(network, 1, frozen, recipe)
    assert all(value.requires_grad for value in network.parameters())


def test_frozen_norms_keep_their_statistics_while_everything_learns(images, tmp_path):
    network = build_imported(TINY, {}, images, seed=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", frozen_norms=True)
    context = dataclasses.replace(run_context(images, tmp_path), recipe=recipe)
    schedule = Schedule(epochs=1, batch_size=20, learning_rate=0.1)
    fit(network, label_objective(0.0), schedule, 0, context, Monitor("t"))
    same = {n for n, value in network.state_dict().items() if torch.equal(value, before[n])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    norms = {f"body.{norm}.{name}" for norm in ("bn", "norm") for name in statistics}
    assert same == {"mean", "std"} | norms


def test_pretrained_weights_may_expect_their_own_normalization(images):
    network = build_imported(TINY, {}, images, seed=0, normalization=[127, 128])
    assert network.mean.unique().tolist() == [127]
    assert network.std.unique().tolist() == [128]


def test_a_pretrained_body_learns_at_its_own_rate_and_norms_do_not_decay(network):
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", body_rate=0.1, weight_decay=0.01)
    [optimizer] = make_optimizers(network, recipe, torch.float32)
    groups = {
        (group["multiple"], group["weight_decay"]): len(group["params"])
        for group in optimizer.param_groups
    }
    assert groups == {(0.1, 0.01): 3, (0.1, 0.0): 5, (1.0, 0.01): 1, (1.0, 0.0): 1}


def test_the_cosine_falls_from_the_peak_to_0():
    schedule = Schedule(epochs=1, batch_size=2, learning_rate=0.4, warmup=0.2)
    rates = [schedule.rate(step, 100, "cosine") for step in range(100)]
    assert max(rates) == rates[20] == 0.4
    assert rates[60] == pytest.approx(0.2)
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001

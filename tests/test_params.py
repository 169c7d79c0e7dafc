"""params.yaml: accepted values, and the message of each refusal."""

import copy
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from stages.common.core.cli import InputError
from stages.common.core.params import (
    RENAMED,
    flag,
    load_params,
    number,
    parse_section,
    read_params,
    recorded,
    texts,
    whole,
)
from stages.common.data.params import DataParams, refuse_image_size
from stages.common.inference.export.folding import folded
from stages.common.network.chain import Chain
from stages.common.training.params import RecipeParams
from stages.validate_params import SECTIONS, accepted, check

COMMITTED = Path(__file__).parent.parent / "params.yaml"
OTHER_NETWORK = {
    "network.factory": "torchvision:squeezenet1_1",
    "prune.allocation": "uniform",
}
OTHER_TEACHER = {"teach.factory": "torchvision:squeezenet1_1"}
NO_TEACHER = {"teach.factory": "none", "train.distillation": 0}
DIGITS = {"data.source": "torchvision:FashionMNIST"}


@pytest.fixture
def content() -> dict:
    return copy.deepcopy(read_params(COMMITTED))


def change(content: dict, changes: dict) -> None:
    """``changes``: values by key, such as 'prune.amount'."""
    for key, value in changes.items():
        section, name = key.split(".")
        content[section][name] = value


def test_the_committed_params_are_accepted(content):
    check(content, path="params.yaml")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prune.amount", 1.5, "prune.amount is 1.5; allowed: a number in [0, 1)"),
        ("prune.amount", 1, "prune.amount is 1; allowed: a number in [0, 1)"),
        ("prune.amount", True, "prune.amount is True; allowed: a number in [0, 1)"),
        ("prune.amount", float("nan"), "prune.amount is nan; allowed: a number in [0, 1)"),
        ("prune.amout", 0.5, "prune.amout is unknown; did you mean prune.amount?"),
        ("prune.target", "latncy", "'latncy'; allowed: macs or params or latency"),
        ("prune.budget_ms", -1, "prune.budget_ms is -1; allowed: a number of at least 0"),
        ("prune.budget_bytes", 0.5, "is 0.5; allowed: a whole number of at least 0"),
        ("mcu.boards", {}, "mcu.boards is {}; allowed: boards by name, each {ram_kb: 256,"),
        ("mcu.boards", {"a": {"ram_kb": 256, "flash_kb": 0, "source": "https://x"}}, "by name"),
        ("mcu.boards", {"a": {"ram_kb": 256, "flash_kb": 512}}, "allowed: boards by name"),
        ("prune.method", "magic", "'magic'; allowed: structured or unstructured"),
        ("train.epochs", "abc", "train.epochs is 'abc'; allowed: a whole number of at least 1"),
        ("train.epochs", 2.5, "train.epochs is 2.5; allowed: a whole number of at least 1"),
        ("train.widths", [[64], []], "allowed: 1 to 4 blocks"),
        ("data.source", "imagenet", "allowed: cifar10 or folder or torchvision:NAME"),
        ("data.source", "torchvision:../x", "allowed: cifar10 or folder or torchvision:NAME"),
        ("data.image_size", 32, "data.image_size is 32; allowed: [height, width]"),
        ("data.image_size", [64, 64], "data.image_size is [64, 64]; the images of CIFAR-10 are"),
        ("data.test_split", "val", "data.test_split is 'val'; allowed: test or validation"),
        ("data.test_split", "validation", "but CIFAR-10 has a test split only"),
        ("prune.batch_size", 47_501, "prune.batch_size is 47501; allowed: at most 47500, which is"),
        ("data.test_share", 0.6, "data.test_share is 0.6; allowed: a number in [0.01, 0.5]"),
        ("data.bad_files", "keep", "'keep'; allowed: refuse or skip"),
        ("quantize.calibration_images", 0, "quantize.calibration_images is 0; allowed: "),
        ("quantize.exclude", ["head", "head"], "allowed: a list of different texts, or []"),
        ("quantize.exclude", "head", "quantize.exclude is 'head'; allowed: a list of"),
        ("quantize.calibration_images", 49_000, "allowed: at most 47500"),
        ("data.train_images", 49_999, "data.train_images is 49999; allowed: at most 47500"),
        ("export.check_images", 2_501, "export.check_images is 2501; allowed: at most 2500"),
        ("tflite.check_images", 2_501, "tflite.check_images is 2501; allowed: at most 2500"),
        ("tflite.calibration_images", 49_000, "allowed: at most 47500"),
        ("hls.calibration_images", 49_000, "allowed: at most 47500"),
        ("hls.widths", [8, 6], "hls.widths is [8, 6]; allowed: a list of whole numbers in [2, 16]"),
        ("npu.targets", [], "npu.targets is []; allowed: a list of one or more 'ACCELERATOR"),
        ("npu.targets", ["ethos-u55-256 Ethos_U65_High_End Shared_Sram"], "such as 'ethos-u55"),
        ("npu.targets", ["ethos-u55-256 Ethos_U55_High_End_Embedded"], "SYSTEM_CONFIG"),
        ("energy.dram_pj", [2600, 1300], "two numbers of at least 0, the lower one first"),
        ("energy.weight_sram", "2 MB", "'2 MB'; allowed: 8 KB or 32 KB or 1 MB"),
        ("prepare.sources", ["ftp"], "allowed: a list of one or more of local, official, npm"),
    ],
)
def test_a_wrong_value_is_refused_naming_key_value_and_what_is_allowed(content, key, value, said):
    section, name = key.split(".")
    content[section][name] = value
    with pytest.raises(InputError) as refusal:
        check(content, path="params.yaml")
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_unstructured_pruning_for_latency_is_refused_before_any_work(content):
    content["prune"].update(method="unstructured", target="latency")
    with pytest.raises(InputError, match="zeros in place save no time"):
        check(content, path="params.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"proportions": [[1, 2], [3, 4]]}, r"prune\.proportions is .*prune\.allocation uniform"),
        ({"widths": [[32, 40], [48, 48]]}, r"prune\.widths is "),
        ({"widths": [[999, 40], [48, 48], [40, 36]]}, r"prune\.widths is .* none of them wider"),
    ],
)
def test_shapes_that_the_base_cannot_take_are_refused_before_it_is_trained(content, changes, said):
    content["prune"].update(changes)
    with pytest.raises(InputError, match=said):
        check(content, path="params.yaml")


@pytest.mark.parametrize(
    "changes", [{"allocation": "uniform"}, {"target": "latency"}, {"method": "unstructured"}]
)
def test_unused_proportions_may_be_of_another_shape(content, changes):
    content["prune"].update({"proportions": [[1, 2], [3, 4]], **changes})
    check(content, path="params.yaml")


def test_a_missing_key_is_named(content):
    del content["train"]["epochs"]
    with pytest.raises(InputError, match=r"train\.epochs is missing; allowed: a whole number"):
        check(content, path="params.yaml")


def test_a_missing_section_is_named(content):
    del content["prune"]
    with pytest.raises(InputError, match="section 'prune' is missing"):
        check(content, path="params.yaml")


def test_an_unknown_section_is_named_with_the_nearest_known_one(content):
    content["purne"] = {}
    with pytest.raises(InputError, match=r"purne is unknown; did you mean prune\?"):
        check(content, path="params.yaml")


@pytest.mark.parametrize("text", ["a: [", "- 1\n", ""])
def test_a_file_that_is_not_sections_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml"):
        read_params(path)


def test_a_params_file_that_extends_another_has_its_values_where_it_states_none(tmp_path):
    (tmp_path / "params.yaml").write_text("train: {epochs: 64, seed: 0}\ndata: {flip: true}\n")
    path = tmp_path / "models" / "small.yaml"
    path.parent.mkdir()
    path.write_text("extends: ../params.yaml\ntrain: {epochs: 9}\n")
    assert read_params(path) == {"train": {"epochs": 9, "seed": 0}, "data": {"flip": True}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: other.yaml", "other.yaml is missing"),
        ("extends: [a]", r"extends is \['a'\]; allowed: the path of a params file"),
        ("extends: params.yaml\ntrain: 9", "the section 'train' holds no keys"),
    ],
)
def test_a_wrong_extending_file_is_refused(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text("train: {epochs: 64}\n")
    (tmp_path / "small.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_params(tmp_path / "small.yaml")


def test_the_accepted_values_on_disk_do_not_depend_on_the_params():
    """Otherwise every changed value would start the whole pipeline again."""
    assert set(accepted()) == set(SECTIONS)
    assert accepted()["prune"]["amount"] == "a number in [0, 1)"


def test_every_key_is_explained_by_a_comment():
    """Beside it, or beside a key of that name in another section."""
    text = COMMITTED.read_text()
    explained = set(re.findall(r"^  (\w+):.*#", text, re.MULTILINE))
    sections = {name: keys for name, keys in accepted().items() if name != "studies"}
    keys = {key for keys in sections.values() for key in keys}
    assert keys - explained == set()


@pytest.mark.parametrize("written", ["1e-5", "1e-05", "0.00001", "1E-5", "1.e-5", "1.0e-05"])
def test_numbers_are_read_however_dvc_or_a_person_writes_them(tmp_path, written):
    path = tmp_path / "params.yaml"
    text = COMMITTED.read_text().replace("weight_decay: 0.008 ", f"weight_decay: {written} ")
    path.write_text(text)
    assert load_params(RecipeParams, path, section="recipe").weight_decay == 1e-5
    check(read_params(path), path)


@dataclass(frozen=True)
class WithUsualValues:
    seed: int = whole(at_least=0)
    colour: float = number(at_least=0, usual=0.0)
    flip: bool = flag(usual=True)
    exclude: list = texts(usual=[])


def test_params_at_their_usual_value_are_not_recorded():
    assert recorded(WithUsualValues(seed=0, colour=0, flip=True, exclude=[])) == {"seed": 0}
    others = {"seed": 0, "colour": 0.2, "flip": False, "exclude": ["head"]}
    assert recorded(WithUsualValues(**others)) == others


def test_a_usual_value_is_no_default():
    with pytest.raises(InputError, match=r"recipe\.colour is missing"):
        parse_section(WithUsualValues, {"recipe": {"seed": 0}}, "recipe", "params.yaml")


def test_a_large_number_with_an_exponent_is_a_number(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("recipe:\n  bias_rate: 1e16\n")
    assert read_params(path) == {"recipe": {"bias_rate": 1e16}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("prune.mixed", "prune.mixup_share"),
        ("prune.mixed_views", "prune.mixup_views"),
        ("verdict", "compare_revisions"),
    ],
)
def test_an_old_key_is_refused_with_its_new_name(content, old, new):
    *sections, key = old.split(".")
    place = content[sections[0]] if sections else content
    place[key] = place.pop(new.split(".")[-1])
    with pytest.raises(InputError) as refusal:
        check(content, path="params.yaml")
    assert str(refusal.value) == f"params.yaml: {old} is now {new}"


def test_an_old_key_in_a_study_is_refused_with_its_new_name(content):
    content["studies"]["tiny"]["prune"] = {"mixed": [0.5]}
    with pytest.raises(InputError, match=r"studies\.tiny: prune\.mixed is now prune\.mixup_share"):
        check(content, path="params.yaml")


def test_every_new_name_is_a_key_of_params_yaml(content):
    keys = {*content, *(f"{section}.{key}" for section in content for key in content[section])}
    assert set(RENAMED.values()) <= keys
    assert not set(RENAMED) & keys


def test_a_folder_of_images_that_is_not_there_is_refused_before_any_work(content):
    content["data"] |= {"source": "folder", "path": "no/such/folder"}
    with pytest.raises(InputError, match="data.path is 'no/such/folder', which is no folder"):
        check(content, path="params.yaml")


def test_a_small_dataset_gives_all_it_has_so_that_no_count_is_refused(content, tmp_path):
    content["data"] |= {"source": "folder", "path": str(tmp_path), "train_images": 500}
    check(content, path="params.yaml")


def test_every_batch_that_is_larger_than_the_training_split_is_named(content, tmp_path):
    content["data"] |= {"source": "folder", "path": str(tmp_path), "train_images": 300}
    content["train"]["batch_size"] = 300
    with pytest.raises(InputError) as refusal:
        check(content, path="params.yaml")
    assert str(refusal.value) == (
        "teach.batch_size is 500, prune.batch_size is 500; allowed: at most 300, which is "
        "data.train_images"
    )


def test_without_a_teacher_its_batches_do_not_matter(content, tmp_path):
    content["data"] |= {"source": "folder", "path": str(tmp_path), "train_images": 300}
    for section in ("train", "prune"):
        content[section] |= {"batch_size": 300, "distillation": 0}
    content["prune"]["mixup_share"] = 0
    content["teach"] |= {"factory": "none", "batch_size": 500}
    check(content, path="params.yaml")


@pytest.mark.parametrize("changes", [{"target": "latency"}, {"budget_ms": 1}])
def test_a_profile_counts_no_milliseconds_of_images_of_another_size(content, tmp_path, changes):
    content["data"] |= {"source": "folder", "path": str(tmp_path), "image_size": [64, 64]}
    content["prune"] |= changes
    with pytest.raises(
        InputError, match=r"images of \[32, 32\], but data.image_size is \[64, 64\]"
    ):
        check(content, path="params.yaml")


@pytest.mark.parametrize(
    ("size", "blocks"), [([32, 48], 3), ([8, 8], 3), ([16, 16], 4), ([4, 4], 2)]
)
def test_images_that_the_chain_cannot_take_are_refused(size, blocks):
    with pytest.raises(InputError, match=rf"{blocks} blocks \(teach.widths\) takes squares of at"):
        refuse_image_size(size, {"train.widths": 1, "teach.widths": blocks})


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_the_chain_runs_on_the_smallest_images_that_are_allowed_and_on_none_below(blocks):
    model = Chain({"widths": [[4, 4]] * blocks, "classes": 2}).eval()
    least = 2**blocks + 1
    refuse_image_size([least, least], {"train.widths": blocks})
    pixels = torch.rand(2, 3, least, least)
    torch.testing.assert_close(folded(model, size=least)(pixels), model(pixels))
    with pytest.raises((RuntimeError, IndexError)):
        model(pixels[..., 1:, 1:])


def test_a_checkpoint_of_cifar10_keeps_the_keys_that_it_always_had(content):
    params = DataParams(**content["data"])
    assert params.provenance() == {"train_images": 47_500, "validation_images": 2_500}
    content["data"]["flip"] = False
    assert DataParams(**content["data"]).provenance()["flip"] is False
    content["data"]["source"] = "folder"
    recorded_keys = DataParams(**content["data"]).provenance().keys()
    assert recorded_keys == content["data"].keys() - {"test_split"}
    content["data"]["test_split"] = "validation"
    assert DataParams(**content["data"]).provenance() == content["data"]


# Keys that nothing reads


@pytest.mark.parametrize(
    ("changes", "key", "value", "reason"),
    [
        ({}, "network.normalization", [127, 128], "network.factory is 'chain'"),
        ({}, "network.arguments", {"width": 8}, "network.factory is 'chain'"),
        ({}, "network.weights", "weights.pth", "network.factory is 'chain'"),
        ({}, "network.weights_sha256", "ab", "network.factory is 'chain'"),
        ({}, "network.keep_whole", ["head"], "network.factory is 'chain'"),
        ({}, "train.frozen_epochs", 2, "network.factory is 'chain'"),
        ({}, "recipe.optimizer", "sgd", "network.factory is 'chain'"),
        ({}, "recipe.body_rate", 0.1, "network.factory is 'chain'"),
        ({}, "recipe.frozen_norms", True, "network.factory is 'chain'"),
        (OTHER_NETWORK, "network.weights_sha256", "ab", "network.weights is ''"),
        ({}, "teach.arguments", {"width": 8}, "teach.factory is 'chain'"),
        (NO_TEACHER, "teach.arguments", {"width": 8}, "teach.factory is 'none'"),
        ({}, "data.path", "my/photos", "data.source is 'cifar10'"),
        ({}, "data.resize", "stretch", "data.source is 'cifar10'"),
        ({}, "data.bad_files", "skip", "data.source is 'cifar10'"),
        ({}, "data.validation_share", 0.2, "data.source is 'cifar10'"),
        ({}, "data.test_share", 0.2, "data.source is 'cifar10'"),
        ({}, "data.split_seed", 1, "data.source is 'cifar10'"),
        (DIGITS, "data.path", "my/photos", "data.source is 'torchvision:FashionMNIST'"),
        (DIGITS, "data.bad_files", "skip", "data.source is 'torchvision:FashionMNIST'"),
        (DIGITS, "prepare.local_path", "a.tar", "data.source is 'torchvision:FashionMNIST'"),
        (
            {"prepare.sources": ["npm"]},
            "prepare.local_path",
            "a.tar",
            "prepare.sources is ['npm']",
        ),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_the_reason(content, changes, key, value, reason):
    section, name = key.split(".")
    usual = content[section][name]
    change(content, {**changes, key: value})
    with pytest.raises(InputError) as refusal:
        check(content, path="params.yaml")
    because = reason.split()[0]
    assert str(refusal.value) == (
        f"{key} is {value!r}, but nothing reads it while {reason}: change {because}, or set {key} "
        f"to {usual!r}"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {**OTHER_NETWORK, "network.normalization": [127, 128], "train.frozen_epochs": 1},
        {**OTHER_TEACHER, "recipe.optimizer": "sgd", "recipe.frozen_norms": True},
        {**DIGITS, "data.resize": "stretch", "data.split_seed": 1},
        {"prepare.local_path": "cifar-10-binary.tar.gz"},
    ],
)
def test_a_key_that_something_reads_may_have_any_value(content, changes):
    change(content, changes)
    check(content, path="params.yaml")


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        (
            {**OTHER_NETWORK, **NO_TEACHER, "recipe.optimizer": "adamw"},
            [
                "network.factory is torchvision:squeezenet1_1: train.widths, "
                "train.whitening_bias_epochs, prune.proportions, "
                "recipe.bias_rate, recipe.head_rate",
                "recipe.optimizer is adamw: recipe.momentum, recipe.sgd_momentum",
            ],
        ),
        (
            {**OTHER_NETWORK, "recipe.optimizer": "sgd"},
            [
                "network.factory is torchvision:squeezenet1_1: train.widths, "
                "train.whitening_bias_epochs, prune.proportions",
            ],
        ),
        (
            OTHER_TEACHER,
            [
                "teach.factory is torchvision:squeezenet1_1: teach.widths, "
                "teach.whitening_bias_epochs"
            ],
        ),
        (
            {"prune.method": "unstructured"},
            ["prune.method is unstructured: prune.importance, prune.round_to"],
        ),
    ],
)
def test_keys_without_a_neutral_value_that_nothing_reads_are_named(content, changes, lines):
    change(content, changes)
    notes = check(content, path="params.yaml")
    assert notes == [f"not read while {line}" for line in lines]

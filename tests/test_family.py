"""The family: its params, the peers' shapes, what is said beside peers, and the model to pick."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from stages import export, quantize, validate_params
from stages.common.building.checkpoint import load_checkpoint
from stages.common.core.cli import InputError
from stages.common.core.params import read_params
from stages.common.inference.onnx_graph import cost_of, load_model
from stages.family import frontier, pick, untrained
from stages.family.page.comparison import BYTES, TIMES, unmatched, verdict
from stages.family.page.results import Row
from stages.family.peers import PEERS, network
from tests.networks import call, write_params
from tests.pipelines import ROOT

FOLDER = ROOT / "stages" / "family"
PIPELINE = yaml.safe_load((FOLDER / "dvc.yaml").read_text())
LISTS = {key: value for each in PIPELINE["vars"] for key, value in each.items()}


# Params and pipeline


@pytest.mark.parametrize("name", [*LISTS["models"], "peers"])
def test_the_params_of_every_model_are_allowed(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = FOLDER / f"{name}.yaml"
    validate_params.check(read_params(path), path)


def test_a_stage_runs_again_when_a_file_of_the_family_changes_what_it_reads():
    """A section in shared.yaml that no stage names would be read, and its change not be noticed."""
    read = {
        "train": {"data", "network", "recipe", "train"},
        "export": {"data", "network", "export"},
        "quantize": {"data", "recipe", "quantize"},
    }
    shared = yaml.safe_load((FOLDER / "shared.yaml").read_text())
    for stage, sections in read.items():
        named = {
            file: names
            for each in PIPELINE["stages"][stage]["do"]["params"]
            if isinstance(each, dict)
            for file, names in each.items()
        }
        assert set(named.get("stages/family/shared.yaml", [])) == set(shared) & sections, stage
        if sections & {"network", "train"}:
            assert named["stages/family/${item}.yaml"] is None, stage  # the whole file


def test_a_model_and_its_further_seeds_have_one_shape():
    nano = read_params(FOLDER / "nano.yaml")
    for seed in (1, 2):
        other = read_params(FOLDER / f"nano_seed{seed}.yaml")
        assert other.pop("train") == {**nano["train"], "seed": seed}
        assert other == {key: value for key, value in nano.items() if key != "train"}


def test_every_model_and_every_peer_is_timed_with_its_check():
    command = PIPELINE["stages"]["benchmark"]["cmd"]
    once = [name for name in LISTS["models"] if "_seed" not in name]
    for folder, names in (("models/family", once), ("models/peers", list(PEERS))):
        for name in names:
            assert f"--variant {name}={folder}/{name}.onnx" in command
            assert f"--variant {name}_int8={folder}/{name}_int8.onnx" in command
            assert f"--check {name}=metrics/family/export/{name}.json" in command
            assert f"--check {name}_int8=metrics/family/quantize/{name}.json" in command
    assert LISTS["peers"] == list(PEERS)


# Peers


@pytest.mark.parametrize(
    ("name", "million_params"),
    [
        ("resnet8", 0.078),  # keras_model.py of mlcommons/tiny
        ("resnet20", 0.27),  # the others: the table of pytorch-cifar-models
        ("resnet32", 0.47),
        ("resnet56", 0.86),
        ("mobilenetv2_x0_5", 0.70),
    ],
)
def test_a_peer_has_the_published_number_of_params(name, million_params):
    count = sum(each.numel() for each in network(10, name).parameters()) / 1e6
    assert round(count, len(str(million_params)) - 2) == million_params


def test_mobilenet_for_small_images_halves_them_three_times():
    features = network(10, "mobilenetv2_x0_5").eval().features
    assert features(torch.zeros(1, 3, 32, 32)).shape[2:] == (4, 4)


def test_a_peer_is_untrained_goes_through_the_same_programs_and_has_the_same_bytes_again(
    data_directory, tmp_path, monkeypatch
):
    params = write_params(
        tmp_path / "params.yaml",
        network={"factory": "stages.family.peers:network", "arguments": {"name": "resnet8"}},
        train=read_params(ROOT / "params.yaml")["train"],
        quantize={"calibration_images": 20, "max_accuracy_drop": 100.0},
    )
    for name in ("one", "two"):
        call(
            untrained,
            monkeypatch,
            params=params,
            data=data_directory,
            peer=Path("resnet8"),
            checkpoint=tmp_path / f"{name}.pt",
        )
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
    checkpoint = load_checkpoint(tmp_path / "one.pt", "stages.family.peers:network")
    assert checkpoint.provenance["trained"] is False
    norms = [each for each in checkpoint.model.modules() if isinstance(each, nn.BatchNorm2d)]
    assert all(each.running_mean.abs().max() > 0 for each in norms)
    files = {"params": params, "data": data_directory}
    call(
        export,
        monkeypatch,
        **files,
        checkpoint=tmp_path / "one.pt",
        onnx=tmp_path / "peer.onnx",
        metrics=tmp_path / "export.json",
    )
    call(
        quantize,
        monkeypatch,
        **files,
        resume=tmp_path / "resume",
        onnx=tmp_path / "peer.onnx",
        check=tmp_path / "export.json",
        int8=tmp_path / "peer_int8.onnx",
        metrics=tmp_path / "quantize.json",
    )
    assert 12.4e6 < cost_of(load_model(tmp_path / "peer_int8.onnx")).macs < 12.6e6


# The frontier


def row(name: str, accuracy: float, size: int, ms: float, opencv_ms: float | None = 1.0) -> Row:
    times = {"onnxruntime": ms, "opencv": opencv_ms}
    return Row(name, accuracy, accuracy, size, times, times, f"models/family/{name}_int8.onnx")


def test_a_peer_is_matched_by_a_model_of_its_accuracy_at_no_more_cost():
    family = [row("small", 90.0, 100, 0.2), row("large", 94.0, 300, 0.9)]
    peers = [row("Beaten", 90.0, 100, 0.5), row("Smaller", 94.0, 299, 0.9)]
    assert unmatched(family, peers, BYTES) == peers[1:]
    assert unmatched(family, peers, TIMES["onnxruntime"]) == []


def test_a_peer_that_was_not_timed_in_a_runtime_is_not_compared_there():
    peers = [row("Wrong", 99.0, 100, 0.1, opencv_ms=None)]
    family = [row("ours", 90.0, 100, 0.2, opencv_ms=5.0)]
    assert unmatched(family, peers, TIMES["opencv"]) == []
    assert "OpenCV" not in verdict(family, peers)


def test_what_is_worse_than_a_peer_is_said():
    family = [row("small", 90.0, 100, 0.3)]
    text = verdict(family, [row("Peer", 91.0, 110, 0.2), row("Large", 95.0, 900, 9.0)])
    assert "small is less accurate than Peer (90.00 against 91.00 %)" in text
    assert "small is slower than Peer in ONNX Runtime (0.30 against 0.20 ms)" in text
    assert "No model has the accuracy of Peer or Large at as few bytes, " in text


def test_where_nothing_is_worse_that_is_said():
    text = verdict([row("small", 92.0, 100, 0.1)], [row("Peer", 91.0, 110, 0.2)])
    assert text.startswith("No model is less accurate or slower")
    assert "For every peer" in text


@pytest.fixture
def measured(tmp_path) -> Path:
    """The outputs of evaluate, quantize and benchmark, of two models and two peers."""
    latency = {"latency_ms_median": 0.5}
    blocks: dict[str, dict] = {
        "environment": {
            "cpu": "C",
            "threads": 1,
            "opencv": "5",
            "onnxruntime": "1",
            "rounds": 10,
            "calls": 5,
            "matmul_gflops": 100.0,
        }
    }
    sizes = {"large": 2000, "nano": 100, "resnet8": 110, "mobilenetv2_x0_5": 900}
    for name, size in sizes.items():
        for variant in (name, f"{name}_int8"):
            blocks[variant] = {"onnxruntime": latency, "opencv": latency}
            evaluation = {"accuracy": 90.0 if size < 1000 else 95.0, "images": 100}
            write(tmp_path / "evaluate" / f"{variant}.json", evaluation | {"size_bytes": size})
        write(tmp_path / "quantize" / f"{name}.json", {"size_bytes": size})
    del blocks["mobilenetv2_x0_5_int8"]["opencv"]
    write(tmp_path / "benchmark.json", blocks)
    return tmp_path


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def call_frontier(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    call(
        frontier,
        monkeypatch,
        evaluate=folder / "evaluate",
        quantize=folder / "quantize",
        benchmark=folder / "benchmark.json",
        models=Path("models/family"),
        json=folder / "frontier.json",
        table=folder / "frontier.md",
        picture=folder / "frontier.png",
    )
    return json.loads((folder / "frontier.json").read_text())


def test_the_frontier_has_the_family_and_its_peers_by_bytes(measured, monkeypatch):
    content = call_frontier(measured, monkeypatch)
    assert list(content["family"]) == ["nano", "large"]
    assert content["family"]["nano"]["origin"] == "models/family/nano_int8.onnx"
    assert content["family"]["nano"]["size_bytes"] == 100
    assert list(content["peers"]) == ["ResNet-8", "MobileNetV2 x0.5"]
    assert content["peers"]["ResNet-8"]["accuracy"] == PEERS["resnet8"].int8_accuracy
    assert content["peers"]["MobileNetV2 x0.5"]["int8_ms"]["opencv"] is None
    assert (measured / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_of_the_frontier_names_what_is_wrong_and_where_figures_come_from(
    measured, monkeypatch
):
    call_frontier(measured, monkeypatch)
    table = (measured / "frontier.md").read_text()
    assert "| **nano** | 90.00 / 90.00 | 100 | 0.50 / 0.50 | 0.50 / 0.50 |" in table
    [mobilenet] = [line for line in table.splitlines() if "| [MobileNetV2" in line]
    assert mobilenet.endswith("| 0.50 / 0.50 | 0.50 / wrong here |")
    assert "https://github.com/" in mobilenet
    assert "Trained once each (n = 1). Accuracy of peers" in table
    assert "random weights" in table


def test_the_spread_over_further_seeds_is_said(measured, monkeypatch):
    for seed, accuracy in ((1, 89.5), (2, 90.5)):
        path = measured / "evaluate" / f"nano_seed{seed}_int8.json"
        write(path, {"accuracy": accuracy, "images": 100, "size_bytes": 100})
    assert list(call_frontier(measured, monkeypatch)["family"]) == ["nano", "large"]
    assert (
        "nano 3 times, with other seeds (90.00 ± 0.50 %" in (measured / "frontier.md").read_text()
    )


def test_equal_results_give_equal_pictures(measured, monkeypatch):
    call_frontier(measured, monkeypatch)
    first = (measured / "frontier.png").read_bytes()
    call_frontier(measured, monkeypatch)
    assert (measured / "frontier.png").read_bytes() == first


def test_a_result_that_is_missing_is_named(measured, monkeypatch):
    (measured / "evaluate" / "nano_int8.json").unlink()
    with pytest.raises(InputError, match=r"nano_int8.json is missing; run 'git checkout metrics"):
        call_frontier(measured, monkeypatch)


def test_a_key_that_is_missing_is_named(measured, monkeypatch):
    blocks = json.loads((measured / "benchmark.json").read_text())
    del blocks["environment"]["rounds"]
    write(measured / "benchmark.json", blocks)
    with pytest.raises(InputError, match=r"benchmark.json: environment lacks 'rounds'"):
        call_frontier(measured, monkeypatch)


def test_accuracies_on_different_images_share_no_table(measured, monkeypatch):
    path = measured / "evaluate" / "large.json"
    write(path, {**json.loads(path.read_text()), "images": 50})
    with pytest.raises(InputError, match="evaluated on different images"):
        call_frontier(measured, monkeypatch)


def test_a_file_that_was_evaluated_in_another_runtime_is_named(measured, monkeypatch):
    path = measured / "evaluate" / "large.json"
    write(path, {**json.loads(path.read_text()), "evaluated_in": "ONNX Runtime"})
    call_frontier(measured, monkeypatch)
    table = (measured / "frontier.md").read_text()
    assert "through OpenCV DNN, large through ONNX Runtime." in table


# Pick

MODELS = {
    "nano": {"accuracy": 90.0, "size_bytes": 100, "int8_ms": {"opencv": 0.3, "onnxruntime": 0.1}},
    "small": {"accuracy": 93.0, "size_bytes": 300, "int8_ms": {"opencv": 0.2, "onnxruntime": 0.4}},
    "wrong": {"accuracy": 95.0, "size_bytes": 900, "int8_ms": {"opencv": None, "onnxruntime": 0.9}},
}


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ((300, None, None), "small"),
        ((299, None, None), "nano"),
        ((10**6, None, None), "wrong"),
        ((None, 0.25, "opencv"), "small"),
        ((None, 0.25, "onnxruntime"), "nano"),
        ((None, 9.0, "opencv"), "small"),  # a file that is wrong there does not fit
        ((10**6, 0.4, "onnxruntime"), "small"),
    ],
)
def test_the_most_accurate_model_within_the_limits_is_picked(limits, name):
    assert pick.pick(MODELS, *limits) == name


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ((99, None, None), "no model has at most 99 bytes; the smallest is nano, with 100"),
        (
            (None, 0.1, "opencv"),
            "no model takes at most 0.1 ms in OpenCV DNN; the fastest is small, with 0.200 ms",
        ),
        (
            (100, 0.1, "opencv"),
            "no model of at most 100 bytes takes at most 0.1 ms in OpenCV DNN; the fastest is "
            "nano, with",
        ),
    ],
)
def test_where_no_model_fits_the_nearest_is_named(limits, said):
    with pytest.raises(InputError, match=said):
        pick.pick(MODELS, *limits)


def test_the_picked_model_is_shown_with_its_file_and_how_to_get_it(measured, monkeypatch, capsys):
    call_frontier(measured, monkeypatch)
    capsys.readouterr()
    call(pick, monkeypatch, frontier=measured / "frontier.json", bytes=Path("150"))
    printed = capsys.readouterr().out
    assert "| nano | 90.00 % | 100 | 0.50 ms | 0.50 ms |" in printed
    assert "dvc pull models/family/nano_int8.onnx" in printed


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "BYTES or MS is missing"),
        ({"ms": "1"}, "MS and RUNTIME"),
        ({"bytes": "1", "runtime": "opencv"}, "MS and RUNTIME"),
        ({"bytes": "350KB"}, "BYTES is '350KB'; expected a number above 0, such as 350000"),
        ({"bytes": "0"}, "BYTES is '0'; expected"),
        ({"ms": "0,6", "runtime": "opencv"}, "MS is '0,6'; expected a number above 0, such as 0.6"),
        ({"ms": "nan", "runtime": "opencv"}, "MS is 'nan'; expected"),
        ({"ms": "1", "runtime": "onnx"}, "RUNTIME is 'onnx'; expected opencv or onnxruntime"),
    ],
)
def test_a_limit_that_is_missing_or_wrong_is_named(measured, monkeypatch, limits, said):
    words = {name: Path(value) for name, value in limits.items()}
    with pytest.raises(InputError, match=said):
        call(pick, monkeypatch, frontier=measured / "frontier.json", **words)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "frontier.json is missing; run 'git checkout metrics/family'"),
        (b"\xff", "is no JSON"),
        (b"[]", "holds no JSON object"),
        (b"{}", "lacks 'family'"),
        (b'{"machine": "C", "family": {}}', "names no model"),
        (b'{"machine": "C", "family": {"nano": {}}}', "nano lacks 'accuracy'"),
    ],
)
def test_a_damaged_json_of_the_family_is_one_line(tmp_path, monkeypatch, content, said):
    path = tmp_path / "frontier.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        call(pick, monkeypatch, frontier=path, bytes=Path("150"))

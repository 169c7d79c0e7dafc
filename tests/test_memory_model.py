"""Pruning to the bytes of a microcontroller: flash is the TFLite file, RAM the tensor arena."""

import argparse
import copy
import dataclasses
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from stages import memory_model as stage
from stages import prune
from stages.common.building.checkpoint import Checkpoint, save_checkpoint
from stages.common.core.cli import InputError
from stages.common.data.dataset import Images
from stages.common.inference.export.onnx_export import onnx_of
from stages.common.inference.int8.quantizer import quantized
from stages.common.inference.layer_graph.graph import quantization_between, with_output
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.params import QuantizeParams
from stages.common.inference.tflite.file import load_tflite
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.mcu.structure import structure_of
from stages.common.network.chain import Chain, widths_of
from stages.common.network.network import Network
from stages.common.pruning.costs import memory_cost
from stages.common.pruning.fine_tuning import cut_of
from stages.common.pruning.memory.model import MemoryModel, load_memory_model, outputs_of
from stages.common.pruning.params import PruneParams, refuse_contradictions
from stages.common.pruning.plan.goals import Cost, StayWithinBytes
from stages.common.pruning.plan.plan import make_plan, rounded_width
from stages.common.pruning.plan.ranking import Group, Ranking
from stages.common.pruning.summary import summary
from stages.common.training.checkpoints import EpochStore
from tests.conftest import make_images
from tests.networks import NETWORK, PARAMS, PROVENANCE, call, random_network
from tests.own_networks import imported
from tests.test_plan import PARAMS as PRUNE
from tests.test_prune_networks import new_network

FLASH = dataclasses.replace(PRUNE, target="flash", round_to=1, steps=1)
RAM = dataclasses.replace(FLASH, target="ram")
NETWORKS = ("chain", "inverted_residual", "mixed")


@pytest.fixture(scope="module")
def images() -> Images:
    return make_images(100)


def network_of(name: str) -> Network:
    if name == "mixed":
        return new_network("tests.test_prune_networks:Mixed")
    return random_network() if name == "chain" else imported(name)


@cache
def memory_of(name: str) -> MemoryModel:
    """The model as the stage describes the network."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory.json"
        content = stage.memory_model(Checkpoint(network_of(name), PROVENANCE), FLASH)
        path.write_text(json.dumps(content))
        return load_memory_model(path)


def cut_once(base: Network, images: Images, params: PruneParams, memory: MemoryModel) -> Network:
    """A copy of the base after all is removed in one step, without fine-tuning."""
    return cut_of(base, params, images, memory)(copy.deepcopy(base), 1)


def quantized_file(network: Network, images: Images, path: Path) -> Path:
    """The INT8 TFLite file that the pipeline makes of the network, but for its metadata."""
    model = onnx_of(network, 18, {})
    path.write_bytes(
        quantized(model, images, QuantizeParams(**PARAMS["quantize"])).SerializeToString()
    )
    graph = with_output(read_graph(path), quantization_between(-8.0, 8.0))
    path.write_bytes(tflite_bytes(graph))
    return path


# ------------------------------------------------------------------------------------ prediction


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bytes_of_a_pruned_network_are_predicted_from_the_unpruned_one(name, images, tmp_path):
    """Both from above: flash by what metadata may take, RAM by a rescaling before a concatenation
    that the quantized network may not need.
    """
    base, memory = network_of(name), memory_of(name)
    params = dataclasses.replace(FLASH, amount=0.4, allocation="uniform")
    pruned = cut_once(base, images, params, memory)
    assert memory.flash(outputs_of(pruned)) <= 0.6 * memory.flash(outputs_of(base))
    path = quantized_file(pruned, images, tmp_path / "model")
    size = path.stat().st_size
    assert size <= memory.flash(outputs_of(pruned)) <= size + 2000
    arena = structure_of(load_tflite(path)).estimated_arena()
    assert arena <= memory.ram(outputs_of(pruned)) <= 1.01 * arena


def test_a_prediction_for_another_network_is_refused():
    memory = memory_of("chain")
    other = Chain({"widths": [[8, 8], [16, 16], [16, 24]], "classes": 10})
    with pytest.raises(InputError, match="cannot follow the layers of this network"):
        memory_cost(other, memory, "flash")
    with pytest.raises(InputError, match="cannot follow the layers of this network"):
        memory_cost(imported("residual"), memory, "ram")


# ---------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("name", ["chain", "inverted_residual"])
@pytest.mark.parametrize("target", ["flash", "ram"])
def test_a_budget_in_bytes_is_kept_and_reported(name, target, images):
    base, memory = network_of(name), memory_of(name)
    whole = memory.bytes(target, outputs_of(base))
    params = dataclasses.replace(RAM, target=target, budget_bytes=int(0.9 * whole), round_to=2)
    pruned = cut_once(base, images, params, memory)
    assert memory.bytes(target, outputs_of(pruned)) <= params.budget_bytes
    metrics = summary(base, pruned, params, {}, memory)
    assert metrics["amount_asked"] is None
    assert metrics["amount_reached"] >= 0.1
    assert metrics["predicted_bytes"]["before"][target] == whole
    assert metrics["predicted_bytes"]["after"][target] <= params.budget_bytes


def test_layers_that_do_not_decide_the_arena_keep_their_channels(images):
    """In the chain the first two convolutions do: their maps are alive together, and largest."""
    base, memory = random_network(), memory_of("chain")
    params = dataclasses.replace(RAM, amount=0.1, allocation="uniform")
    pruned = cut_once(base, images, params, memory)
    (first, *_), *others = widths_of(pruned)
    assert first < widths_of(base)[0][0]
    assert others == widths_of(base)[1:]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("round_to", [1, 2])
def test_no_group_could_be_wider_within_the_budget(seed, round_to):
    rng = np.random.default_rng(seed)
    sizes, prices = [8, 6, 12], [5, 3, 2]
    groups = [
        Group(f"group{number}", rng.random(size).astype(np.float32))
        for number, size in enumerate(sizes)
    ]

    def cost(widths: list[int]) -> int:
        return sum(price * width for price, width in zip(prices, widths, strict=True))

    goal = StayWithinBytes(50, Cost(cost, cost(sizes), "bytes of flash"), Ranking("global", []))
    plan = list(make_plan(groups, goal, round_to).values())
    assert cost(plan) <= 50
    for index, group in enumerate(groups):
        wider = {rounded_width(group, kept, round_to) for kept in range(1, group.width + 1)}
        for width in (each for each in wider if each > plan[index]):
            assert cost([*plan[:index], width, *plan[index + 1 :]]) > 50


@pytest.mark.parametrize("target", ["flash", "ram"])
def test_a_budget_that_cannot_be_reached_is_refused_with_the_least_that_can(target, images):
    base, memory = random_network(), memory_of("chain")
    params = dataclasses.replace(FLASH, target=target, budget_bytes=1000)
    unit = {"flash": "bytes of flash", "ram": "bytes of RAM"}[target]
    said = rf"asks for 1,000 {unit}; with prune.round_to 1 the least that can be reached is \d+,"
    with pytest.raises(InputError, match=said):
        cut_once(base, images, params, memory)


def test_steps_approach_the_bytes_evenly(images):
    base, memory = random_network(), memory_of("chain")
    whole = memory.flash(outputs_of(base))
    params = dataclasses.replace(FLASH, amount=0.4, steps=2)
    cut = cut_of(base, params, images, memory)
    half = cut(copy.deepcopy(base), 1)
    done = cut(half, 2)
    found = [memory.flash(outputs_of(each)) / whole for each in (half, done)]
    assert found == pytest.approx([0.8, 0.6], abs=0.02)


# ---------------------------------------------------------------------------------------- params


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "flash", "method": "unstructured"}, "zeros in place save no bytes"),
        ({"target": "ram", "budget_ms": 1.0}, "prune.budget_ms counts milliseconds"),
        ({"budget_bytes": 1000}, "prune.budget_bytes counts bytes, but prune.target is macs"),
        (
            {"target": "flash", "budget_bytes": 1000, "widths": [[4]]},
            "prune.budget_bytes and prune.widths both say",
        ),
    ],
)
def test_params_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        refuse_contradictions(dataclasses.replace(PRUNE, **changes))


def test_a_budget_in_bytes_is_no_part_of_a_checkpoint_that_has_none():
    assert "budget_bytes" not in PRUNE.provenance()
    assert dataclasses.replace(FLASH, budget_bytes=9).provenance()["budget_bytes"] == 9


# ----------------------------------------------------------------------------------------- stage


def run_stage(monkeypatch, folder: Path, params: PruneParams) -> Path:
    content = {"prune": dataclasses.asdict(params), "network": NETWORK}
    (folder / "params.yaml").write_text(json.dumps(content))
    files = {"params": folder / "params.yaml", "base": folder / "base.pt"}
    call(stage, monkeypatch, **files, memory=folder / "memory.json")
    return folder / "memory.json"


def test_pruning_gets_nothing_where_it_counts_no_bytes(tmp_path, monkeypatch):
    """And nothing is read then: the base may be any network."""
    path = run_stage(monkeypatch, tmp_path, PRUNE)
    assert json.loads(path.read_text()) == {"used": False}
    with pytest.raises(InputError, match="describes no network; run 'dvc repro memory_model'"):
        load_memory_model(path)


def test_pruning_gets_the_network_where_it_counts_bytes(tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "base.pt", random_network(), PROVENANCE)
    memory = load_memory_model(run_stage(monkeypatch, tmp_path, FLASH))
    assert memory == memory_of("chain")
    assert "12 operators of" in capsys.readouterr().out


def test_a_network_that_can_have_no_file_is_refused_with_the_reason():
    with pytest.raises(InputError, match=r"target is flash, but .* Clip .* be macs or params"):
        stage.memory_model(Checkpoint(imported("gated"), PROVENANCE), FLASH)


@pytest.mark.parametrize("content", ["", "{}", '{"used": true, "format": "another"}', "[1]"])
def test_a_damaged_memory_model_is_refused(tmp_path, content):
    (tmp_path / "memory.json").write_text(content)
    with pytest.raises(InputError, match="no memory model of this version"):
        load_memory_model(tmp_path / "memory.json")


def test_pruning_without_the_description_that_it_needs_is_one_line(tmp_path):
    args = argparse.Namespace(memory=None)
    with pytest.raises(InputError, match="prune.target is flash: --memory is missing"):
        prune.cost_model_of(random_network(), args, FLASH, [], EpochStore(tmp_path))

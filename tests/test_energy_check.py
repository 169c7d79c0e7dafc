"""stages.energy_check: layers and memories as ZigZag takes them, and the comparison.

What runs ZigZag is skipped where its environment (build/zigzag, make hardware) is missing.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

import onnx
import pytest
import yaml

from stages import energy_check
from stages.common.chain import read_chain
from stages.common.cli import InputError
from stages.common.energy import SRAM_BYTES, EnergyParams, estimates
from stages.common.energy_check_table import LEVELS, buffers_pj
from stages.common.traffic import Operator, work_of
from stages.common.zigzag import (
    CHIPS,
    EnergyCheckParams,
    Layer,
    accelerator,
    layers_of,
    mapping,
    refuse_large_layers,
    spent,
    workload,
)
from stages.energy_check import COUNTS, by_level, estimated, refuse_other_counts
from tests.pipelines import ROOT
from tests.test_energy import PARAMS as ENERGY
from tests.test_energy import fp32_model, int8_model

[STAGE] = [
    stage
    for name, stage in yaml.safe_load(
        (ROOT / "stages" / "pipelines" / "hardware" / "dvc.yaml").read_text()
    )["stages"].items()
    if name == "energy_check"
]
PYTHON, DRIVER = (
    ROOT / re.search(rf"--{name} (\S+)", STAGE["cmd"])[1] for name in ("python", "driver")
)
needs_zigzag = pytest.mark.skipif(
    not PYTHON.is_file(), reason="ZigZag's environment is missing (make hardware)"
)
ARRAY = EnergyCheckParams(rows=4, columns=4, accumulators=1, buffer="8 KB", loop_factors=4)


def layers(folder: Path) -> tuple[Layer, ...]:
    """3x3 filters (3, 2, 3, 3) over (2, 4, 4), and after pooling a linear layer from 3 to 5."""
    onnx.save(int8_model(), folder / "int8.onnx")
    return layers_of(read_chain(folder / "int8.onnx"), work_of(int8_model()))


def square_layer(channels: int) -> Layer:
    """As many linear outputs as inputs."""
    operator = Operator(
        precision="int8",
        macs=channels**2,
        nonzero_macs=channels**2,
        comparisons=0,
        weights=channels**2,
        nonzero_weights=channels**2,
        bias_bytes=0,
        read_bytes=channels,
        written_bytes=channels,
    )
    sizes = {"K": channels, "C": channels, "OY": 1, "OX": 1, "FY": 1, "FX": 1}
    return Layer(
        "linear 1",
        sizes,
        image=(1, 1),
        stride=(1, 1),
        pads=(0, 0),
        output_bytes=1,
        operator=operator,
    )


def as_counted(found: tuple[Layer, ...], times: int = 1) -> dict[str, dict]:
    """As if ZigZag had counted what the estimate counts, SRAM and DRAM several times, and then
    50 pJ more for each layer in a buffer."""
    result = {}
    for layer in found:
        ours = estimated(layer, ENERGY)
        result[layer.name] = {
            "macs": ours["macs"],
            "arithmetic_pj": ours["arithmetic_pj"],
            "memories": {
                "input_registers": {"I": {"energy_pj": 0.0, "reads": 9, "writes": 9}},
                "output_buffer": {"O": {"energy_pj": 50.0 * (times - 1), "reads": 9, "writes": 9}},
                "sram": {
                    "I": {
                        "energy_pj": times * ours["sram_pj"],
                        "reads": times * ours["sram_read_bytes"],
                        "writes": 0,
                    },
                    "O": {
                        "energy_pj": 0.0,
                        "reads": 0,
                        "writes": times * ours["sram_written_bytes"],
                    },
                },
                "dram": {
                    "W": {
                        "energy_pj": times * ours["dram_pj"],
                        "reads": times * ours["dram_read_bytes"],
                        "writes": 0,
                    }
                },
            },
        }
    return {"version": "1.2.3", "layers": result}


def test_layers_are_those_of_the_file_and_pooling_lies_between_them(tmp_path):
    conv, linear = layers(tmp_path)
    assert (conv.name, linear.name) == ("conv 1", "linear 2")
    assert conv.sizes == {"K": 3, "C": 2, "OY": 4, "OX": 4, "FY": 3, "FX": 3}
    assert (conv.image, conv.stride, conv.pads) == ((4, 4), (1, 1), (1, 1))
    assert linear.sizes == {"K": 5, "C": 3, "OY": 1, "OX": 1, "FY": 1, "FX": 1}
    assert (conv.operator.macs, linear.operator.macs) == (54 * 16, 15)


def test_the_workload_is_a_chain_with_padding_and_32_bit_sums(tmp_path):
    conv, linear = workload(layers(tmp_path))
    assert conv["pr_loop_dims"] == ["IY", "IX"]
    assert (conv["pr_loop_sizes"], conv["padding"]) == ([4, 4], [[1, 1], [1, 1]])
    assert conv["operand_precision"] == {"I": 8, "W": 8, "O": 32, "O_final": 8}
    assert linear["operand_precision"]["O_final"] == 32  # the logits are float32
    assert linear["operand_source"] == {"I": conv["id"], "W": linear["id"]}


def test_a_network_that_is_not_int8_is_refused(tmp_path):
    onnx.save(fp32_model(), tmp_path / "fp32.onnx")
    with pytest.raises(InputError, match="layer 1 is fp32; it must be int8"):
        layers_of(read_chain(tmp_path / "fp32.onnx"), work_of(fp32_model()))


def test_the_chips_have_the_energies_of_the_estimate_by_the_byte():
    memories = {chip: accelerator(chip, ENERGY, ARRAY)["memories"] for chip in CHIPS}
    for chip in CHIPS:
        assert accelerator(chip, ENERGY, ARRAY)["operational_array"]["unit_energy"] == 2.0 + 1.0
        assert memories[chip]["sram"]["r_cost"] == memories[chip]["sram"]["w_cost"] == 1.0
        assert memories[chip]["sram"]["size"] == 8 * SRAM_BYTES["8 KB"]
        assert memories[chip]["sram"]["operands"] == ["I1", "O"]
        assert memories[chip]["dram"]["r_cost"] == 100.0  # the lower of DRAM's energies
        assert memories[chip]["dram"]["operands"] == ["I2"]
        assert [memories[chip][f"{name}_registers"]["r_cost"] for name in
                ("input", "weight", "output")] == [0, 0, 0]  # fmt: skip
    names = {chip: set(memories[chip]) for chip in CHIPS}
    assert names["free_registers"] == names["no_buffers"]
    assert names["buffers"] - names["no_buffers"] == {
        "input_buffer", "weight_buffer", "output_buffer",
    }  # fmt: skip
    large = dataclasses.replace(ARRAY, accumulators=3, buffer="32 KB")
    chip = accelerator("buffers", ENERGY, large)["memories"]
    assert chip["output_registers"]["size"] == 3 * 32
    assert (chip["input_buffer"]["size"], chip["input_buffer"]["r_cost"]) == (8 * 32 * 1024, 2.0)


def test_rows_take_input_channels_and_columns_make_output_channels(tmp_path):
    wide = dataclasses.replace(ARRAY, rows=7)
    [default] = mapping(layers(tmp_path), "buffers", wide)
    assert default["spatial_mapping"] == {"D1": ["C, 7"], "D2": ["K, 4"]}


def test_a_layer_that_the_activation_memory_may_not_hold_is_refused(tmp_path, monkeypatch):
    found = layers(tmp_path)
    refuse_large_layers(found, ENERGY)
    monkeypatch.setitem(SRAM_BYTES, "8 KB", 32 + 4 * 48 - 1)  # one byte less than conv 1 needs
    with pytest.raises(InputError, match=r"conv 1 holds up to 224 .*energy\.activation_sram"):
        refuse_large_layers(found, ENERGY)


def test_a_count_that_differs_is_named(tmp_path):
    found = layers(tmp_path)
    ours = {layer.name: estimated(layer, ENERGY) for layer in found}
    same = {name: by_level(layer) for name, layer in as_counted(found)["layers"].items()}
    refuse_other_counts(ours, same)
    for key in COUNTS:
        other = {name: dict(layer) for name, layer in same.items()}
        other["linear 2"][key] += 1
        with pytest.raises(AssertionError, match=f"linear 2: {key} is "):
            refuse_other_counts(ours, other)


def run_main(folder: Path, monkeypatch: pytest.MonkeyPatch, python: Path) -> dict:
    onnx.save(int8_model(), folder / "int8.onnx")
    sections = {"energy": dataclasses.asdict(ENERGY), "energy_check": dataclasses.asdict(ARRAY)}
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    arguments = {
        "params": folder / "params.yaml",
        "base-int8": folder / "int8.onnx",
        "pruned-int8": folder / "int8.onnx",
        "python": python,
        "driver": DRIVER,
        "metrics": folder / "check.json",
        "table": folder / "check.md",
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["energy_check", *words])
    energy_check.main()
    return json.loads((folder / "check.json").read_text())


def test_the_table_compares_by_memory_and_by_layer(tmp_path, monkeypatch):
    times = {"free_registers": 1, "buffers": 2, "no_buffers": 3}
    monkeypatch.setattr(energy_check, "refuse_without_zigzag", lambda python: None)
    monkeypatch.setattr(
        energy_check,
        "spent",
        lambda python, driver, layers, chip, energy, params: as_counted(layers, times[chip]),
    )
    block = run_main(tmp_path, monkeypatch, PYTHON)["pruned_int8"]
    ours, twice = (block["totals"][chip] for chip in ("estimate", "buffers"))
    assert block["totals"]["free_registers"] == ours
    assert twice["sram_pj"] == 2 * ours["sram_pj"]
    moved = ours["sram_pj"] + ours["dram_pj"]
    assert twice["total_pj"] == ours["arithmetic_pj"] + 2 * moved + 2 * 50.0
    # What was left out and what was compared are the whole estimate.
    whole = estimates(work_of(int8_model()), ENERGY)["dense"]["streamed"]["total_uj_low"]
    assert ours["total_pj"] + block["estimate_left_out_pj"] == pytest.approx(1e6 * whole)
    table = (tmp_path / "check.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")] for line in table.splitlines() if "|" in line
    ]
    ratio = f"{twice['total_pj'] / ours['total_pj']:.2f}"
    assert [row[8] for row in rows if row[1:3] == ["pruned_int8", "ZigZag, buffers of 8 KB"]] == [
        ratio
    ]
    assert [row[1] for row in rows if row[2] in ("864", "15")] == ["conv 1", "linear 2"]
    assert f"the same energies give {ratio} and {ratio} times as much" in table
    assert "100 % of what the buffers take are partial sums and results" in table
    assert "takes 100 % by the estimate and 100 % there" in table  # the same file twice
    assert "4 x 4" in table
    assert "zigzag-dse 1.2.3" in table


def test_without_the_environment_one_line_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="python is missing.*make hardware") as refusal:
        run_main(tmp_path, monkeypatch, tmp_path / "build" / "python")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "check.json").exists()


def test_a_failure_of_zigzag_is_one_line_with_its_reason():
    """The project's own interpreter has no ZigZag."""
    with pytest.raises(InputError, match="'buffers'.*No module named 'zigzag'.*make hardware") as e:
        spent(Path(sys.executable), DRIVER, (square_layer(4),), "buffers", ENERGY, ARRAY)
    assert "\n" not in str(e.value)


@needs_zigzag
@pytest.mark.parametrize("key", ["macs", "read_bytes", "written_bytes", "weights"])
def test_an_estimate_that_counts_twice_is_found(key):
    """Nothing that ZigZag is given comes from what it is to check."""
    layer = square_layer(4)
    twice = dataclasses.replace(layer.operator, **{key: 2 * getattr(layer.operator, key)})
    layer = dataclasses.replace(layer, operator=twice)
    found = spent(PYTHON, DRIVER, (layer,), "free_registers", ENERGY, ARRAY)["layers"]
    with pytest.raises(AssertionError, match="linear 1: .* in the estimate"):
        refuse_other_counts(
            {"linear 1": estimated(layer, ENERGY)}, {"linear 1": by_level(found["linear 1"])}
        )


@needs_zigzag
def test_a_buffer_that_is_too_small_is_named(monkeypatch):
    monkeypatch.setitem(SRAM_BYTES, "8 KB", 3)
    with pytest.raises(InputError, match="Memory capacity overflow for mem_op I1"):
        spent(PYTHON, DRIVER, (square_layer(4),), "buffers", ENERGY, ARRAY)


@needs_zigzag
def test_zigzag_counts_what_the_estimate_counts_and_more_with_a_real_array(tmp_path, monkeypatch):
    """That they are the same with free registers is asserted by the stage."""
    metrics = run_main(tmp_path, monkeypatch, PYTHON)
    assert list(metrics) == ["base_int8", "pruned_int8"]
    totals = metrics["base_int8"]["totals"]
    assert totals["free_registers"] == totals["estimate"]
    assert totals["buffers"]["arithmetic_pj"] == totals["estimate"]["arithmetic_pj"]
    assert totals["buffers"]["total_pj"] > totals["estimate"]["total_pj"]
    assert totals["no_buffers"]["sram_pj"] > totals["buffers"]["sram_pj"]
    for block in totals.values():
        assert block["total_pj"] == pytest.approx(sum(block[level] for level in LEVELS))
    assert metrics["base_int8"] == metrics["pruned_int8"]  # the same file: the same figures


@needs_zigzag
def test_a_layer_that_fills_the_array_costs_what_is_computed_by_hand():
    """Each of 16 weights, 4 inputs and 4 results passes through its buffer once."""
    found = spent(PYTHON, DRIVER, (square_layer(4),), "buffers", ENERGY, ARRAY)
    levels = by_level(found["layers"]["linear 1"])
    assert levels["macs"] == 16
    assert levels["arithmetic_pj"] == 16 * 3.0
    assert levels["dram_pj"] == 16 * 100.0
    assert levels["sram_pj"] == (4 + 4) * 1.0
    written_and_read = [levels[f"{name}_buffer_pj"] for name in ("input", "weight", "output")]
    assert written_and_read == [2 * 4, 2 * 16, 2 * 4]


@needs_zigzag
def test_a_layer_larger_than_the_array_reads_its_inputs_again_and_keeps_its_sums():
    """8 to 8 channels on 4 x 4: two rounds of columns read the inputs from their buffer, and each
    column adds up both rounds of rows before it gives its sum away."""
    found = spent(PYTHON, DRIVER, (square_layer(8),), "buffers", ENERGY, ARRAY)
    levels = by_level(found["layers"]["linear 1"])
    assert levels["dram_pj"] == 64 * 100.0
    assert levels["sram_pj"] == 8 + 8
    buffers = [levels[f"{name}_buffer_pj"] for name in ("input", "weight", "output")]
    assert buffers == [8 + 2 * 8, 2 * 64, 2 * 8]
    assert buffers_pj(levels) == sum(buffers)


@needs_zigzag
def test_zigzag_reads_partial_sums_that_are_not_there_yet():
    """What the table says of it: 2x2 filters on one row and column are 4 rounds, each of which
    writes 4 bytes a position; the first one needs to read none, and is counted."""
    operator = dataclasses.replace(
        square_layer(1).operator, macs=4 * 961, weights=4, read_bytes=1024, written_bytes=961
    )
    sizes = {"K": 1, "C": 1, "OY": 31, "OX": 31, "FY": 2, "FX": 2}
    layer = Layer(
        "conv 1",
        sizes,
        image=(32, 32),
        stride=(1, 1),
        pads=(0, 0),
        output_bytes=1,
        operator=operator,
    )
    array = dataclasses.replace(ARRAY, rows=1, columns=1)
    found = spent(PYTHON, DRIVER, (layer,), "no_buffers", ENERGY, array)["layers"]["conv 1"]
    outputs = found["memories"]["sram"]["O"]
    assert outputs["reads"] == outputs["writes"] == 4 * 4 * 961


def test_the_energies_of_the_committed_params_are_those_of_the_estimate():
    section = yaml.safe_load((ROOT / "params.yaml").read_text())["energy"]
    chip = accelerator("buffers", EnergyParams(**section), ARRAY)
    assert chip["operational_array"]["unit_energy"] == pytest.approx(0.3)
    costs = {name: chip["memories"][name]["r_cost"] for name in ("output_buffer", "sram", "dram")}
    assert costs == {"output_buffer": 10 / 8, "sram": 100 / 8, "dram": 1300 / 8}

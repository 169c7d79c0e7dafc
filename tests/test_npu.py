"""stages.npu: Vela's estimates arrive unchanged, and sparse models have the zeros asked for."""

import csv
import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from stages import npu
from stages.common.core.cli import InputError
from stages.common.inference.layer_graph.graph import quantization_between, with_output
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.tflite.file import (
    int8_values,
    load_tflite,
    packed,
    weight_tensors,
    write_none,
)
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.npu.sparse_tflite import magnitudes, nonzero_weights, share_of_zeros, thinned
from stages.common.npu.table import on_npu
from stages.common.npu.vela import Costs, Estimate, Target, estimate, estimate_of, is_target
from tests.networks import PARAMS, call, int8_tflite, write_models, write_params
from tests.small_graphs import inverted_residual, residual, write_int8

TARGET = Target(*PARAMS["npu"]["targets"][0].split())
SUMMARY = {
    "cycles_npu": "1000",
    "cycles_sram_access": "300",
    "cycles_on_chip_flash_access": "20",
    "cycles_off_chip_flash_access": "2000",
    "cycles_dram_access": "0",
    "cycles_total": "2500",
    "inferences_per_second": "200000.0",
    "sram_memory_used": "10.5",
    "on_chip_flash_memory_used": "1",
    "off_chip_flash_memory_used": "4",
    "dram_memory_used": "0",
    "total_original_weights": "5000",
    "total_npu_encoded_weights": "4000",
    "weights_storage_area": "Off-chip Flash",
}
OUTPUT = "\nCPU operators = 1 (25.0%)\nNPU operators = 3 (75.0%)\n"


@pytest.fixture
def model_file(tmp_path) -> Path:
    path = tmp_path / "int8.tflite"
    path.write_bytes(int8_tflite())
    return path


@cache
def estimate_of_bytes(content: bytes, folder: Path) -> Estimate:
    (folder / "model.tflite").write_bytes(content)
    return estimate(folder / "model.tflite", TARGET)


def test_the_largest_weights_of_the_3x3_filters_are_kept_as_many_as_asked(model_file):
    model = load_tflite(model_file)
    nonzero = nonzero_weights(model) // 4
    thin = thinned(model, nonzero)

    assert nonzero_weights(thin) == nonzero
    assert share_of_zeros(thin) > 70 > share_of_zeros(model)
    kept, cleared = [], []
    for before, after in zip(weight_tensors(model), weight_tensors(thin), strict=True):
        old, new = int8_values(model, before), int8_values(thin, after)
        if before.shape[1:3].tolist() != [3, 3]:
            np.testing.assert_array_equal(old, new)
            continue
        size = magnitudes(old, before)
        np.testing.assert_array_equal(new[new != 0], old[new != 0])
        kept += size[new != 0].tolist()
        cleared += size[(new == 0) & (old != 0)].tolist()
    assert cleared
    assert max(cleared) <= min(kept)
    assert packed(model) == int8_tflite()  # the first one is unchanged


def test_nothing_is_cleared_where_more_weights_may_stay_than_there_are(model_file):
    assert packed(thinned(load_tflite(model_file), 10**9)) == int8_tflite()


def test_zeros_shrink_the_encoded_weights_and_not_the_arithmetic(model_file, tmp_path):
    model = load_tflite(model_file)
    base = estimate_of_bytes(int8_tflite(), tmp_path)
    thin = estimate_of_bytes(packed(thinned(model, nonzero_weights(model) // 5)), tmp_path)
    assert thin.costs.encoded_weight_bytes < 0.7 * base.costs.encoded_weight_bytes
    assert thin.costs.weight_bytes == base.costs.weight_bytes
    assert thin.costs.npu_cycles == pytest.approx(base.costs.npu_cycles, rel=0.2)
    assert base.npu_operators == base.operators == 12
    assert 0 < base.costs.npu_cycles <= base.costs.total_cycles
    assert base == estimate(model_file, TARGET)  # and a second time the same


def test_fp32_stays_off_the_npu_and_has_no_cycles(tmp_path):
    fp32, _ = write_models(tmp_path)
    found = estimate_of_bytes(tflite_bytes(read_graph(fp32)), tmp_path)
    assert found.npu_operators == 0 < found.operators
    assert found.costs is None


def test_figures_are_those_of_velas_summary_in_bytes():
    found = estimate_of(SUMMARY, OUTPUT)
    assert (found.operators, found.npu_operators) == (4, 3)
    assert (found.costs.total_cycles, found.costs.npu_cycles) == (2500, 1000)
    assert (found.costs.sram_access_cycles, found.costs.off_chip_access_cycles) == (320, 2000)
    assert (found.costs.limited_by, found.weights_in) == ("flash", "flash")
    assert (found.costs.sram_bytes, found.costs.off_chip_bytes) == (11776, 4096)
    assert (found.costs.weight_bytes, found.costs.encoded_weight_bytes) == (5000, 4000)
    in_sram = estimate_of(
        SUMMARY | {"weights_storage_area": "On-chip Flash", "cycles_off_chip_flash_access": "0"},
        OUTPUT,
    )
    assert (in_sram.costs.limited_by, in_sram.weights_in) == ("npu", "SRAM")


def test_a_network_that_vela_cannot_compile_is_named(tmp_path):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(int8_tflite()[:3000])
    with pytest.raises(InputError, match=r"damaged\.tflite: Vela \S+ cannot compile") as caught:
        estimate(damaged, TARGET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("ethos-u55-128 Ethos_U55_High_End_Embedded Sram_Only", True),
        ("ethos-u85-512 Ethos_U85_SYS_DRAM_Mid Dedicated_Sram_384KB", True),
        ("ethos-u55-128 Ethos_U85_SYS_DRAM_Mid Sram_Only", False),
        ("ethos-u55-129 Ethos_U55_High_End_Embedded Sram_Only", False),
        ("ethos-u55-128 Ethos_U55_High_End_Embedded Sram", False),
        ("ethos-u55-128", False),
        (128, False),
    ],
)
def test_a_target_needs_velas_names_and_memories_of_its_family(text, allowed):
    assert is_target(text) == allowed


@pytest.fixture
def arguments(tmp_path, model_file) -> dict[str, Path]:
    """Base and pruned have TFLite files, the pruned one with two thirds of the weights 0."""
    found = {
        "params": write_params(tmp_path / "params.yaml"),
        "base": model_file,
        "pruned": tmp_path / "pruned.tflite",
        "fp32": write_models(tmp_path)[0],
        "metrics": tmp_path / "npu.json",
        "csv": tmp_path / "npu.csv",
        "table": tmp_path / "npu.md",
        "picture": tmp_path / "npu.png",
    }
    model = load_tflite(model_file)
    found["pruned"].write_bytes(packed(thinned(model, nonzero_weights(model) // 3)))
    return found


def leave_out(arguments: dict[str, Path], name: str) -> None:
    """As stages.tflite does where an operator has no such form."""
    write_none(arguments[name], "Sigmoid cannot be converted")


def test_main_writes_the_same_keys_for_every_variant(arguments, monkeypatch):
    call(npu, monkeypatch, **arguments)

    metrics = json.loads(arguments["metrics"].read_text())
    assert list(metrics) == ["base", "pruned", "unstructured", "base_fp32"]
    for block in metrics.values():
        assert set(block) == {"zero_weights_percent", str(TARGET)}
        assert tuple(block[str(TARGET)]) == ("npu_operators", *npu.METRICS)
    # As many weights are left in both, and here in the same places.
    assert metrics["unstructured"] == metrics["pruned"] != metrics["base"]
    assert metrics["base_fp32"][str(TARGET)]["npu_operators"] == 0
    rows = list(csv.DictReader(arguments["csv"].read_text().splitlines()))
    assert [row["variant"] for row in rows] == ["base", "pruned", "unstructured"]
    assert {field.name for field in dataclasses.fields(Costs)} < set(rows[0])
    assert rows[0]["name"] == "base | U55-256 flash"
    table = arguments["table"].read_text()
    assert "not measurements" in table
    assert "base_fp32 0 of 12" in table
    assert "unstructured is neither fine-tuned nor evaluated" in table
    assert arguments["picture"].read_bytes().startswith(b"\x89PNG")


def test_a_pruned_network_without_a_file_is_named_and_base_is_estimated(arguments, monkeypatch):
    leave_out(arguments, "pruned")
    call(npu, monkeypatch, **arguments)
    metrics = json.loads(arguments["metrics"].read_text())
    assert list(metrics) == ["base", "base_fp32", "pruned"]
    assert metrics["pruned"] == {"unsupported": "Sigmoid cannot be converted"}
    assert metrics["base"][str(TARGET)]["total_cycles"] > 0
    table = arguments["table"].read_text()
    assert "No estimate of pruned: Sigmoid cannot be converted." in table
    rows = list(csv.DictReader(arguments["csv"].read_text().splitlines()))
    assert [row["variant"] for row in rows] == ["base"]


def test_without_base_nothing_is_estimated_and_every_file_is_there(arguments, monkeypatch):
    for name in ("base", "pruned"):
        leave_out(arguments, name)
    call(npu, monkeypatch, **arguments)
    metrics = json.loads(arguments["metrics"].read_text())
    assert metrics == {
        name: {"unsupported": "Sigmoid cannot be converted"} for name in ("base", "pruned")
    }
    assert len(arguments["table"].read_text().splitlines()) == 2
    assert arguments["csv"].read_text().startswith("name,variant,target")
    assert len(arguments["csv"].read_text().splitlines()) == 1
    assert arguments["picture"].read_bytes().startswith(b"\x89PNG")


def test_a_control_that_cannot_be_converted_is_named(arguments, monkeypatch):
    model = onnx.load(arguments["fp32"])
    model.graph.node[1].op_type = "Tanh"
    onnx.save(model, arguments["fp32"])
    call(npu, monkeypatch, **arguments)
    metrics = json.loads(arguments["metrics"].read_text())
    assert "Tanh" in metrics["base_fp32"]["unsupported"]
    assert list(metrics) == ["base", "pruned", "unstructured", "base_fp32"]


def test_a_residual_and_a_depthwise_network_run_whole_on_the_npu(tmp_path):
    for name, make in (("residual", residual), ("depthwise", inverted_residual)):
        path = write_int8(tmp_path / f"{name}.onnx", make())
        graph = with_output(read_graph(path), quantization_between(-8.0, 8.0))
        found = estimate_of_bytes(tflite_bytes(graph), tmp_path)
        assert found.npu_operators == found.operators > 10
        assert found.costs.npu_cycles > 0


def test_zeros_are_found_among_depthwise_filters_and_not_in_additions(tmp_path):
    path = write_int8(tmp_path / "int8.onnx", inverted_residual())
    graph = with_output(read_graph(path), quantization_between(-8.0, 8.0))
    (tmp_path / "int8.tflite").write_bytes(tflite_bytes(graph))
    model = load_tflite(tmp_path / "int8.tflite")
    shapes = [tensor.shape.tolist() for tensor in weight_tensors(model)]
    assert shapes.count([1, 3, 3, 24]) == 2
    assert len(shapes) == 8
    nonzero = nonzero_weights(model) // 2
    thin = thinned(model, nonzero)
    assert nonzero_weights(thin) == nonzero
    first, last = (weight_tensors(thin)[index] for index in (0, -1))
    assert np.count_nonzero(int8_values(thin, first)) > 0.9 * np.prod(first.shape)
    assert np.count_nonzero(int8_values(thin, last)) > 0.9 * np.prod(last.shape)


def test_operators_on_the_npu_are_counted_for_one_target_at_a_time():
    """Ethos-U85 merges some operators that the others run one by one."""
    u85 = Target("ethos-u85-512", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB")
    whole = {TARGET: Estimate(61, 61, "flash", None), u85: Estimate(51, 51, "DRAM", None)}
    assert on_npu(whole) == "61 of 61"
    assert on_npu(whole | {u85: Estimate(51, 50, "DRAM", None)}) == "50 of 51"

"""stages.hardware.energy: counts, bytes and energies against small graphs computed by hand."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from stages.common.core.cli import InputError
from stages.common.core.params import parse_section, read_params
from stages.common.inference.layer_graph.graph import quantization_between, with_output
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.tflite.file import int8_values, load_tflite, weight_tensors
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.npu.sparse_tflite import thinned as thinned_tflite
from stages.hardware import energy
from stages.hardware.energy_model.energy import estimates
from stages.hardware.energy_model.operator_counts import Operator, Work, work_of
from stages.hardware.energy_model.params import EnergyParams
from stages.hardware.energy_model.sparse_onnx import nonzero_weights, thinned
from tests.pipelines import ROOT

# 3x3 filters (3, 2, 3, 3) over (2, 4, 4), pooled to (3, 1, 1), and a linear layer to 5 logits.
FILTERS = (np.arange(54).reshape(3, 2, 3, 3) - 27).astype(np.int8)  # one of them is 0
FILTER_SCALES = np.array([0.01, 0.02, 0.03], np.float32)
LINEAR = np.array([[1, 0, 2], [0, 3, 0], [4, 5, 6], [7, 0, 8], [9, 10, 11]], np.int8)  # 4 zeros
PARAMS = EnergyParams(
    int8_add_pj=0.5,
    int8_multiply_pj=2.0,
    int32_add_pj=1.0,
    fp32_add_pj=10.0,
    fp32_multiply_pj=30.0,
    sram_8kb_pj=8.0,
    sram_32kb_pj=16.0,
    sram_1mb_pj=80.0,
    dram_pj=[800, 1600],
    activation_sram="8 KB",
    weight_sram="32 KB",
)


def model_of(nodes: list, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """x (batch, 2, 4, 4) -> y (batch, 5)."""
    graph = make_graph(
        nodes,
        "handmade",
        [make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return make_model(graph, opset_imports=[make_opsetid("", 18)])


def fp32_model() -> onnx.ModelProto:
    return model_of(
        [
            make_node("Conv", ["x", "w1", "b1"], ["conv"], pads=[1, 1, 1, 1]),
            make_node("Relu", ["conv"], ["relu"]),
            make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[4, 4], strides=[4, 4]),
            make_node("Flatten", ["pool"], ["flat"]),
            make_node("Gemm", ["flat", "w2"], ["y"], transB=1),
        ],
        {
            "w1": FILTERS * FILTER_SCALES.reshape(-1, 1, 1, 1),
            "b1": np.ones(3, np.float32),
            "w2": LINEAR.astype(np.float32),
        },
    )


def int8_model() -> onnx.ModelProto:
    """The same network as QDQ: every activation is int8, as a runtime that fuses holds it."""
    constants = {
        "s": np.array(0.5, np.float32),
        "z": np.array(0, np.int8),
        "w1": FILTERS,
        "w1_s": FILTER_SCALES,
        "w1_z": np.zeros(3, np.int8),
        "b1": np.ones(3, np.int32),
        "b1_s": 0.5 * FILTER_SCALES,
        "b1_z": np.zeros(3, np.int32),
        "w2": LINEAR,
        "w2_s": np.full(5, 0.1, np.float32),
        "w2_z": np.zeros(5, np.int8),
    }

    def quantized(name: str) -> list:
        return [
            make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
            make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]),
        ]

    weights = [
        make_node("DequantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_d"], axis=0)
        for name in ("w1", "b1", "w2")
    ]
    nodes = [
        *weights,
        *quantized("x"),
        make_node("Conv", ["x_d", "w1_d", "b1_d"], ["conv"], pads=[1, 1, 1, 1]),
        make_node("Relu", ["conv"], ["relu"]),
        *quantized("relu"),
        make_node("MaxPool", ["relu_d"], ["pool"], kernel_shape=[4, 4], strides=[4, 4]),
        *quantized("pool"),
        make_node("Flatten", ["pool_d"], ["flat"]),
        make_node("Gemm", ["flat", "w2_d"], ["y"], transB=1),
    ]
    return model_of(nodes, constants)


def test_fp32_counts_equal_those_computed_by_hand():
    conv, pool, linear = work_of(fp32_model()).operators
    assert work_of(fp32_model()).image_bytes == 4 * 2 * 4 * 4
    assert conv == Operator(
        precision="fp32",
        macs=54 * 16,  # every weight at every one of 4 x 4 places, padding included
        nonzero_macs=53 * 16,
        comparisons=0,
        weights=54,
        nonzero_weights=53,
        bias_bytes=3 * 4,
        read_bytes=2 * 16 * 4,
        written_bytes=3 * 16 * 4,  # once: ReLU is fused
    )
    assert (pool.precision, pool.macs, pool.weights) == ("fp32", 0, 0)
    assert pool.comparisons == 3 * 15  # the largest of 16, for 3 channels
    assert (pool.read_bytes, pool.written_bytes) == (3 * 16 * 4, 3 * 4)
    assert (linear.macs, linear.nonzero_macs, linear.bias_bytes) == (15, 11, 0)
    assert (linear.read_bytes, linear.written_bytes) == (3 * 4, 5 * 4)


def test_int8_has_the_operations_of_fp32_on_a_quarter_of_the_bytes_but_float32_logits():
    fp32, int8 = work_of(fp32_model()), work_of(int8_model())
    assert int8.image_bytes == 2 * 4 * 4
    assert [operator.precision for operator in int8.operators] == ["int8"] * 3
    for quantity in ("macs", "nonzero_macs", "comparisons", "weights", "bias_bytes", "read_bytes"):
        share = 4 if quantity == "read_bytes" else 1
        assert fp32.total(quantity) == share * int8.total(quantity), quantity
    assert [operator.written_bytes for operator in int8.operators] == [3 * 16, 3, 5 * 4]
    assert int8.operators[0].weight_bytes == 54 + 3 * 4
    assert fp32.operators[0].weight_bytes == 54 * 4 + 3 * 4
    assert int8.operators[0].packed_weight_bytes == 53 + 7 + 3 * 4  # 54 bits are 7 bytes
    assert int8.operators[2].packed_weight_bytes == 11 + 2


def test_an_operator_that_is_not_counted_is_refused_by_name():
    model = fp32_model()
    model.graph.node[1].op_type = "Sigmoid"
    with pytest.raises(InputError, match=r"Sigmoid \(it makes 'relu'\) is not counted"):
        work_of(model)


def work(precision: str = "int8") -> Work:
    """1,000,000 MACs of which 3/4 are not with 0; 40,960 weights, a quarter of them not 0."""
    operator = Operator(
        precision=precision,
        macs=1_000_000,
        nonzero_macs=750_000,
        comparisons=100_000,
        weights=40_960,
        nonzero_weights=10_240,
        bias_bytes=0,
        read_bytes=3_000_000,
        written_bytes=1_500_000,
    )
    return Work(image_bytes=500_000, operators=(operator,))


def test_int8_energies_equal_those_computed_by_hand():
    found = estimates(work(), PARAMS)
    dense, skipping = found["dense"], found["zero_skipping"]
    assert dense["arithmetic_uj"] == 3.0 + 0.05  # 1e6 x (2 + 1) pJ, 1e5 x 0.5 pJ
    assert skipping["arithmetic_uj"] == 2.25 + 0.05
    assert dense["activations_uj"] == skipping["activations_uj"] == 5.0  # 5e6 bytes, 1 pJ each
    assert dense["streamed"] == {
        "weight_sram_bytes": 0,
        "weight_dram_bytes": 40_960,
        "weights_uj_low": 4.096,  # 100 pJ a byte
        "weights_uj_high": 8.192,
        "total_uj_low": 12.146,
        "total_uj_high": 16.242,
    }
    assert dense["resident"]["weight_sram_bytes"] == 32 * 1024  # what the memory holds
    assert dense["resident"]["weight_dram_bytes"] == 8192
    assert dense["resident"]["weights_uj_low"] == pytest.approx(0.0655 + 0.8192, abs=1e-3)
    assert dense["resident"]["weights_uj_high"] == pytest.approx(0.0655 + 1.6384, abs=1e-3)
    # 10,240 bytes and 40,960 bits fit.
    assert found["packed_weight_bytes"] == skipping["resident"]["weight_sram_bytes"] == 15_360
    assert skipping["resident"]["weights_uj_low"] == skipping["resident"]["weights_uj_high"]


def test_fp32_energies_use_fp32_operations_and_four_bytes_a_weight():
    dense = estimates(work("fp32"), PARAMS)["dense"]
    assert dense["arithmetic_uj"] == 40.0 + 1.0
    assert dense["streamed"]["weight_dram_bytes"] == 4 * 40_960


def test_zeros_change_nothing_in_a_dense_engine():
    whole, thin = (estimates(work_of(m), PARAMS) for m in (int8_model(), thinned(int8_model(), 20)))
    assert whole["dense"] == thin["dense"]
    assert whole["macs"] == thin["macs"]
    assert thin["nonzero_macs"] < whole["nonzero_macs"]
    assert thin["packed_weight_bytes"] < whole["packed_weight_bytes"]


def test_thinning_leaves_the_asked_number_of_weights_the_same_as_in_tflite(tmp_path):
    model = int8_model()
    assert nonzero_weights(model) == 53 + 11
    thin = thinned(model, 31)
    assert nonzero_weights(thin) == 31
    assert nonzero_weights(model) == 53 + 11  # unchanged
    assert nonzero_weights(thinned(model, 5)) == 11  # the linear layer stays whole
    onnx.save(model, tmp_path / "int8.onnx")
    chain = with_output(read_graph(tmp_path / "int8.onnx"), quantization_between(-1.0, 1.0))
    (tmp_path / "int8.tflite").write_bytes(tflite_bytes(chain))
    tflite = thinned_tflite(load_tflite(tmp_path / "int8.tflite"), 31)
    filters = next(t for t in weight_tensors(tflite) if t.shape[1:3].tolist() == [3, 3])
    [left] = [numpy_helper.to_array(t) for t in thin.graph.initializer if t.name == "w1"]
    np.testing.assert_array_equal(left.transpose(0, 2, 3, 1), int8_values(tflite, filters))


def test_params_hold_the_published_energies():
    params = parse_section(EnergyParams, read_params(ROOT / "params.yaml"), "energy", "params.yaml")
    assert (params.int8_add_pj, params.int8_multiply_pj, params.int32_add_pj) == (0.03, 0.2, 0.1)
    assert (params.fp32_add_pj, params.fp32_multiply_pj) == (0.9, 3.7)
    assert (params.sram_8kb_pj, params.sram_32kb_pj, params.sram_1mb_pj) == (10, 20, 100)
    assert params.dram_pj == [1300, 2600]


@pytest.mark.parametrize("value", [[2600, 1300], [1300], [-1, 2], ["1", 2], 1300, [1, True]])
def test_an_invalid_range_of_dram_energies_is_refused(value):
    section = dataclasses.asdict(PARAMS) | {"dram_pj": value}
    with pytest.raises(InputError, match="energy.dram_pj .* allowed: two numbers"):
        parse_section(EnergyParams, {"energy": section}, "energy", "params.yaml")


def run_main(folder: Path, monkeypatch: pytest.MonkeyPatch, params: EnergyParams) -> None:
    onnx.save(fp32_model(), folder / "fp32.onnx")
    onnx.save(int8_model(), folder / "int8.onnx")
    onnx.save(thinned(int8_model(), 31), folder / "pruned_int8.onnx")
    text = yaml.safe_dump({"energy": dataclasses.asdict(params)})
    (folder / "params.yaml").write_text(text)
    arguments = {
        "params": "params.yaml",
        "base": "fp32.onnx",
        "pruned": "fp32.onnx",
        "base-int8": "int8.onnx",
        "pruned-int8": "pruned_int8.onnx",
        "metrics": "energy.json",
        "table": "energy.md",
        "picture": "energy.png",
    }
    words = [w for name, file in arguments.items() for w in (f"--{name}", str(folder / file))]
    monkeypatch.setattr("sys.argv", ["energy", *words])
    energy.main()


def test_main_writes_the_same_keys_for_every_variant(tmp_path, monkeypatch):
    run_main(tmp_path, monkeypatch, PARAMS)
    metrics = json.loads((tmp_path / "energy.json").read_text())
    assert list(metrics) == ["base", "pruned", "base_int8", "pruned_int8", "unstructured_int8"]
    assert all(block.keys() == metrics["base"].keys() for block in metrics.values())
    # As many weights are left in both, and here in the same places.
    assert metrics["unstructured_int8"] == metrics["pruned_int8"] != metrics["base_int8"]
    table = (tmp_path / "energy.md").read_text()
    assert "An estimate, not a measurement" in table
    assert "unstructured_int8, zeros skipped" in table
    assert "is neither fine-tuned nor evaluated" in table
    assert (tmp_path / "energy.png").read_bytes().startswith(b"\x89PNG")


def test_activations_that_the_memory_cannot_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(energy.SRAM_BYTES, "8 KB", 319)  # one byte less than input and output
    with pytest.raises(InputError, match=r"base holds 320 bytes .*energy\.activation_sram \(8 KB"):
        run_main(tmp_path, monkeypatch, PARAMS)

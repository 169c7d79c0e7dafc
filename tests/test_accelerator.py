"""stages.hardware.accelerator: integer logits agree with ONNX Runtime, and the Verilog equals them.

Tests that generate or simulate Verilog are skipped where NNgen or Verilator is missing.
"""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.common.core.cli import InputError
from stages.common.core.params import parse_section
from stages.common.inference.layer_graph.chain import read_chain
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import predict
from stages.hardware import accelerator, accelerator_table
from stages.hardware.external import requirements
from stages.hardware.external.verilator import refuse_without_verilator
from stages.hardware.nngen_engine.engine import Accelerator, refuse_without_nngen
from stages.hardware.nngen_engine.integer_network import (
    IntegerLayer,
    IntegerNetwork,
    convolved,
    factors,
    integer_logits,
    integer_network,
    largest_sums,
    rescaled,
)
from stages.hardware.nngen_engine.params import AcceleratorParams
from stages.hardware.nngen_engine.simulation import (
    Resources,
    Run,
    Simulator,
    counted_resources,
    run_of,
    write_memory,
)
from stages.hardware.nngen_engine.zero_weights import with_weights, with_zeros
from tests.conftest import make_images
from tests.networks import call, write_models, write_params

SECTION = {
    "par_ich": 2,
    "par_och": 1,
    "axi_bits": 64,
    "images": 2,
    "zero_percent": 80,
    "max_cycles": 100_000,
}
SMALL = AcceleratorParams(**SECTION)
needs_tools = pytest.mark.skipif(
    importlib.util.find_spec("nngen") is None or shutil.which("verilator") is None,
    reason="NNgen (requirements-hardware.txt) or Verilator is not installed",
)


def layer(
    kernel: int, weights: tuple[int, int], size: int, seed: int, final: bool = False
) -> IntegerLayer:
    """A convolution of random integers with (outputs, inputs) ``weights``; 3x3 ones are padded."""
    rng = np.random.default_rng(seed)
    outputs, inputs = weights
    return IntegerLayer(
        kind="linear" if final else "conv",
        shape=(size, size, outputs),
        kernel=(kernel, kernel),
        stride=(1, 1),
        padding=(1, 1) if kernel == 3 else (0, 0),
        weight=rng.integers(-128, 128, (outputs, kernel, kernel, inputs)).astype(np.int8),
        bias=rng.integers(-20_000, 20_000, outputs).astype(np.int32),
        multiplier=rng.integers(500, 2**15, outputs).astype(np.int16),
        shift=4 if final else 22,
        final=final,
    )


def pool(size: int, shape: tuple[int, int, int]) -> IntegerLayer:
    return IntegerLayer("max_pool", shape, kernel=(size, size), stride=(size, size))


NETWORK = IntegerNetwork(  # 8x8 pixels, two convolutions; the first max-pool leaves a row out
    (8, 8, 3),
    (
        layer(2, (3, 3), size=7, seed=1),
        pool(2, (3, 3, 3)),
        layer(3, (5, 3), size=3, seed=2),
        pool(3, (1, 1, 5)),
        layer(1, (4, 5), size=1, seed=3, final=True),
    ),
)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8)).astype(np.uint8)


def slow_logits(network: IntegerNetwork, pixels: np.ndarray) -> list[int]:
    """One image, one product at a time, with whole numbers of any size."""
    x = pixels.transpose(1, 2, 0).tolist()
    for each in network.layers:
        height, width, channels = each.shape
        x = [
            [[value(each, x, row, column, c) for c in range(channels)] for column in range(width)]
            for row in range(height)
        ]
    return x[0][0]


def value(each: IntegerLayer, x: list, row: int, column: int, channel: int) -> int:
    seen = [
        (i, j, x[r][c])
        for i in range(each.kernel[0])
        for j in range(each.kernel[1])
        if 0 <= (r := row * each.stride[0] + i - each.padding[0]) < len(x)
        and 0 <= (c := column * each.stride[1] + j - each.padding[1]) < len(x[0])
    ]
    if each.weight is None:
        return max(pixel[channel] for _, _, pixel in seen)
    total = int(each.bias[channel])
    for i, j, pixel in seen:
        total += sum(int(w) * v for w, v in zip(each.weight[channel, i, j], pixel, strict=True))
    scaled = total * int(each.multiplier[channel]) / 2**each.shift  # exact: below 53 bits
    rounded = int(abs(scaled) + 0.5) * (1 if scaled >= 0 else -1)
    return rounded if each.final else min(max(rounded, 0), 255)


def test_integer_logits_equal_a_computation_product_by_product():
    found = integer_logits(NETWORK, PIXELS)
    for image, logits in zip(PIXELS, found, strict=True):
        assert logits.tolist() == slow_logits(NETWORK, image)
    assert len(np.unique(found)) > 6


def test_halves_are_rounded_away_from_0_and_activations_clipped():
    base = layer(1, (1, 1), size=1, seed=0, final=True)
    totals = np.array([[1], [-1], [3], [-3], [5], [-6]])
    final = replace(base, multiplier=np.array([1], np.int16), shift=1)
    assert rescaled(totals, final).ravel().tolist() == [1, -1, 2, -2, 3, -3]
    hidden = replace(final, final=False)
    assert rescaled(np.array([[-5], [511], [508]]), hidden).ravel().tolist() == [0, 255, 254]


def test_sums_beyond_float32_are_exact(monkeypatch):
    wide = layer(3, (2, 600), size=4, seed=5)
    wide = replace(wide, weight=np.full_like(wide.weight, 127), multiplier=np.ones(2, np.int16))
    wide = replace(wide, shift=17)
    assert largest_sums(wide.weight, wide.bias).min() > 2**24
    x = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 600)).astype(np.uint8)
    expected = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (1, 1), (0, 0))).sum(axis=3) * 127
    sums = sum(expected[:, i : i + 4, j : j + 4] for i in range(3) for j in range(3))
    np.testing.assert_array_equal(convolved(x, wide), rescaled(sums[..., None] + wide.bias, wide))


def test_integer_factors_are_within_half_a_unit_of_the_real_factors():
    real = np.array([0.0031, 0.0007, 0.00005])
    multiplier, shift = factors(real)
    assert 2**14 <= multiplier.max() < 2**15
    np.testing.assert_allclose(multiplier / 2.0**shift, real, atol=0.5 / 2**shift)


def test_predictions_agree_with_onnx_runtime(tmp_path):
    path = write_models(tmp_path)[1]
    images = make_images(200, seed=7)
    expected = predict(OnnxRuntimeSession(path, threads=1), images, 50)
    found = integer_logits(integer_network(read_chain(path)), images.pixels)
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.95
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_activations_other_than_uint8_with_zero_point_0_are_refused(tmp_path):
    chain = read_chain(write_models(tmp_path)[1])
    shifted = replace(chain.input, zero_point=np.array([0]))
    with pytest.raises(InputError, match=r"not uint8 with zero point 0.*activation_type"):
        integer_network(replace(chain, input=shifted))
    with pytest.raises(InputError, match="not uint8 with zero point 0"):
        integer_network(read_chain(tmp_path / "fp32.onnx"))


def test_a_pool_whose_windows_overlap_is_refused():
    refusing = object.__new__(Accelerator)
    overlapping = replace(pool(3, (3, 3, 3)), stride=(2, 2))
    with pytest.raises(InputError, match=r"kernel \(3, 3\) and stride \(2, 2\)"):
        refusing._max_pool(None, overlapping)


def test_zeros_replace_only_the_smallest_weights(tmp_path):
    chain = read_chain(write_models(tmp_path)[1])
    thin = with_zeros(chain, percent=80)

    def weights(of) -> list[np.ndarray]:
        return [each.weight for each in of.layers if each.weight is not None]

    before, after = weights(chain), weights(thin)
    count = sum(np.count_nonzero(weight) for weight in before)
    assert count * 0.2 <= sum(np.count_nonzero(weight) for weight in after) <= count * 0.2 + 1
    for old, new in zip(before, after, strict=True):
        assert new.dtype == np.int8
        assert ((new == old) | (new == 0)).all()
    network = integer_network(chain)
    swapped = with_weights(network, integer_network(thin))
    for old, new in zip(network.layers, swapped.layers, strict=True):
        assert new.shift == old.shift
        assert new.multiplier is old.multiplier


def test_bench_output_is_parsed_and_an_unfinished_simulation_is_refused():
    said = "cycles    120\nbeats_read 10\nbeats_written 3\nlogit    -5\nlogit  7\n- $finish\n"
    found = run_of(said, SMALL)
    assert (found.cycles, found.read_bytes, found.written_bytes) == (120, 80, 24)
    assert found.logits.tolist() == [-5, 7]
    with pytest.raises(InputError, match=r"100,000 cycles \(accelerator\.max_cycles\)"):
        run_of("", SMALL)


def test_multipliers_and_ram_are_counted_in_the_verilog():
    multiplier = (
        "module {}_core_{}\n(\n  input CLK,\n  input update,\n  input [{}-1:0] a,\n"
        "  input [{}-1:0] b,\n  output [16-1:0] c\n);\nendmodule\n"
    )
    ram = "module ram_w16_l1024_id0_{}\n(\n  input CLK\n);\n  reg [16-1:0] mem [0:256-1];\n\n"
    other = "module fifo\n(\n  input CLK\n);\n  reg [99-1:0] mem [0:8-1];\n\nendmodule\n"
    source = multiplier.format("madd", 0, 8, 8) + multiplier.format("madd", 1, 8, 8)
    source += multiplier.format("multiplier", 0, 32, 16) + ram.format(0) + ram.format(1) + other
    assert counted_resources(source) == Resources({"32x16": 1, "8x8": 2}, ram_bits=2 * 16 * 256)


def test_the_memory_file_has_a_byte_a_line(tmp_path):
    write_memory(tmp_path / "memory.hex", np.array([0, 255, 16], np.uint8))
    assert (tmp_path / "memory.hex").read_text() == "00\nff\n10\n"


def test_missing_tools_are_one_clear_error(monkeypatch):
    monkeypatch.setattr(requirements.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"verilator is missing.*apt-get install"):
        refuse_without_verilator()
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"nngen is missing.*requirements-hardware\.txt"):
        refuse_without_nngen()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"par_ich": 3}, "par_ich is 3; allowed: 1 or 2 or 4 or 8 or 16"),
        ({"par_och": True}, "par_och is True"),
        ({"axi_bits": 48}, "axi_bits is 48; allowed: 32 or 64"),
    ],
)
def test_wrong_params_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        parse_section(AcceleratorParams, {"accelerator": SECTION | changes}, "accelerator", "p")


class PerfectSimulator:
    """Gives what the integer network gives, and the cycles it is told."""

    verilog = "module accelerator"

    def __init__(self, wrong: int = 0):
        self.wrong = wrong
        self.resources = Resources({"32x16": 2, "8x8": 18}, ram_bits=4096)

    def run(self, network: IntegerNetwork, pixels: np.ndarray) -> Run:
        logits = integer_logits(network, pixels[None])[0]
        logits[0] += self.wrong
        return Run(logits, cycles=1000, read_bytes=640, written_bytes=64)


def run_main(
    folder: Path, data: Path, simulator: PerfectSimulator, monkeypatch: pytest.MonkeyPatch
) -> Path:
    for check in ("refuse_without_nngen", "refuse_without_verilator"):
        monkeypatch.setattr(accelerator, check, lambda: None)
    monkeypatch.setattr(accelerator, "Accelerator", lambda network, params: None)
    monkeypatch.setattr(accelerator, "Simulator", lambda made, folder: simulator)
    metrics = folder / "accelerator" / "base.json"
    call(
        accelerator,
        monkeypatch,
        params=write_params(folder / "params.yaml", accelerator=SECTION),
        data=data,
        onnx=write_models(folder)[1],
        metrics=metrics,
        verilog=folder / "accelerator" / "base.v",
    )
    return metrics


def test_main_writes_cycles_and_accuracy_and_the_table_shows_them(
    tmp_path, data_directory, monkeypatch
):
    path = run_main(tmp_path, data_directory, PerfectSimulator(), monkeypatch)
    metrics = json.loads(path.read_text())
    assert metrics["cycles"] == metrics["cycles_with_zeros"] == 1000
    assert metrics["macs_per_cycle"] == round(metrics["macs"] / 1000, 2)
    assert metrics["busy_percent"] == round(metrics["macs"] / 1000 / 18 * 100, 1)
    assert metrics["agreement_onnxruntime"] >= 98
    assert metrics["images"] == 100
    halved = metrics | {"cycles": 500, "macs": metrics["macs"] // 4}
    path.with_name("pruned.json").write_text(json.dumps(halved))
    table = tmp_path / "accelerator.md"
    call(accelerator_table, monkeypatch, metrics=path.parent, table=table)
    lines = table.read_text().splitlines()
    assert lines[0] == "| figure | base | pruned | × base |"
    assert "| cycles | 1,000 | 500 | 0.50 |" in lines
    assert "| multipliers of 8x8 bits | 18 | 18 |  |" in lines
    assert lines.index("| multipliers of 8x8 bits | 18 | 18 |  |") + 1 == lines.index(
        "| multipliers of 32x16 bits | 2 | 2 |  |"
    )
    [macs] = [line for line in lines if line.startswith("| multiply-accumulates (MACs)")]
    assert macs.endswith("| 0.25 |")


def test_an_accelerator_with_wrong_logits_writes_no_metrics(tmp_path, data_directory, monkeypatch):
    with pytest.raises(AssertionError, match="the accelerator's logits are"):
        run_main(tmp_path, data_directory, PerfectSimulator(wrong=1), monkeypatch)
    assert not (tmp_path / "accelerator").exists()


def test_a_missing_json_is_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"base\.json is missing; run 'make hardware'"):
        call(accelerator_table, monkeypatch, metrics=tmp_path, table=tmp_path / "table.md")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory) -> Simulator:
    """Compiling takes most of a minute, so the tests share it."""
    return Simulator(Accelerator(NETWORK, SMALL), tmp_path_factory.mktemp("simulator"))


@needs_tools
def test_the_verilog_gives_the_integer_logits_in_a_fixed_number_of_cycles(simulator):
    assert "module accelerator\n" in simulator.verilog
    runs = [accelerator.checked_run(simulator, NETWORK, pixels) for pixels in PIXELS]
    thin = [
        each if each.weight is None else replace(each, weight=each.weight // 100)
        for each in NETWORK.layers
    ]
    zeros = accelerator.checked_run(simulator, replace(NETWORK, layers=tuple(thin)), PIXELS[0])
    assert len({run.cycles for run in [*runs, zeros]}) == 1
    assert len({run.logits.tobytes() for run in [*runs, zeros]}) == 4
    assert runs[0].cycles > NETWORK.macs / 18
    weights = sum(each.weight.size for each in NETWORK.layers if each.weight is not None)
    assert runs[0].read_bytes > weights + PIXELS[0].size
    assert simulator.resources.multipliers["8x8"] == 9 * 2 * 1


@needs_tools
def test_one_wrong_weight_is_detected(simulator, monkeypatch):
    last = NETWORK.layers[-1]
    weight = last.weight.copy()
    weight[0, 0, 0, 0] ^= 64
    wrong = replace(NETWORK, layers=(*NETWORK.layers[:-1], replace(last, weight=weight)))
    made = simulator.accelerator
    image = made.memory(wrong, PIXELS[0])
    assert (image != made.memory(NETWORK, PIXELS[0])).sum() == 1
    monkeypatch.setattr(made, "memory", lambda network, pixels: image)
    with pytest.raises(AssertionError, match="the accelerator's logits are"):
        accelerator.checked_run(simulator, NETWORK, PIXELS[0])

"""stages.hardware.hls: exact fixed point, which hls4ml's C++ must equal bit for bit.

Tests that run hls4ml are skipped where it, QONNX or g++ is missing.
"""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.core.cli import InputError
from stages.common.inference.layer_graph.chain import Chain, read_chain
from stages.common.inference.layer_graph.graph import Layer
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import predict
from stages.hardware import hls, hls_table
from stages.hardware.external import requirements
from stages.hardware.hls_design import design
from stages.hardware.hls_design.cost import (
    Matrix,
    allowed_reuse_factor,
    allowed_reuse_factors,
    cost_of,
    least_cycles,
    matrices_of,
)
from stages.hardware.hls_design.design import percent_right, verified_design
from stages.hardware.hls_design.fixed_point import (
    FixedPoint,
    fixed_chain,
    holding,
    largest_sum,
    nearest_format,
    real_activations,
    real_logits,
)
from stages.hardware.hls_design.project import (
    ARITHMETIC,
    SLOW,
    Target,
    onnx_of,
    refuse_without_tools,
    settings_of,
    write_project,
)
from tests.conftest import make_images
from tests.networks import call, write_models, write_params

needs_hls4ml = pytest.mark.skipif(
    importlib.util.find_spec("hls4ml") is None
    or importlib.util.find_spec("qonnx") is None
    or shutil.which("g++") is None,
    reason="hls4ml, qonnx (requirements-hardware.txt) or g++ is not installed",
)
IMAGES = make_images(20, seed=3)
TARGET = Target(part="xczu9eg-ffvb1156-2-e", clock_ns=5, reuse_factor=7)
PARAMS = {
    "widths": [2, 8, 12],
    "first_layer_width": 16,
    "calibration_images": 20,
    "max_accuracy_drop": 5.0,
    "simulated_images": 12,
    "reuse_factors": [1, 12],
    "reuse_factor": 12,
    "part": TARGET.part,
    "clock_ns": 5,
}


def small_chain() -> Chain:
    """Pixels to 10 logits: a convolution without padding, one with it, a linear layer."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    layers = (
        Layer("conv_1", "conv", ("pixels",), (4, 31, 31), (2, 2), activation="relu",
              weight=normal(4, 3, 2, 2, scale=0.01), bias=normal(4)),
        Layer("pool_1", "max_pool", ("conv_1",), (4, 6, 6), (5, 5), (5, 5)),
        Layer("conv_2", "conv", ("pool_1",), (6, 6, 6), (3, 3), pads=(1, 1, 1, 1),
              activation="relu",
              weight=normal(6, 4, 3, 3), bias=normal(6)),
        Layer("pool_2", "max_pool", ("conv_2",), (6, 1, 1), (6, 6), (6, 6)),
        Layer("linear", "linear", ("pool_2",), (10, 1, 1), weight=normal(10, 6)),
    )  # fmt: skip
    return Chain((3, 32, 32), None, layers, {})


def small_fixed(width: int = 6):
    chain = small_chain()
    return fixed_chain(chain, real_activations(chain, IMAGES.pixels), width, first_width=16)


@pytest.mark.parametrize(
    ("form", "value", "integer"),
    [
        (FixedPoint(4, 2, signed=True), 0.25, 1),
        (FixedPoint(4, 2, signed=True), 0.125, 1),  # a half goes up,
        (FixedPoint(4, 2, signed=True), -0.125, 0),  # below zero too
        (FixedPoint(4, 2, signed=True), -0.126, -1),
        (FixedPoint(4, 2, signed=True), 9.0, 7),  # too large: the largest
        (FixedPoint(4, 2, signed=True), -9.0, -8),
        (FixedPoint(4, 2, signed=False), 9.0, 15),
        (FixedPoint(4, 2, signed=False), -1.0, 0),
        (FixedPoint(4, -2, signed=True), 0.109375, 7),  # 7 * 2 ** -6
        (FixedPoint(4, 6, signed=False), 10.0, 3),  # steps of 4
    ],
)
def test_rounding_follows_ap_rnd_and_ap_sat(form, value, integer):
    assert form.of(torch.tensor([value])).tolist() == [integer]
    assert form.reals(torch.tensor([value])).tolist() == [integer * 2.0**-form.fraction]


@pytest.mark.parametrize("largest", [0.0078, 0.49, 0.5, 0.96, 1.0, 3.99, 4.0, 100.0])
@pytest.mark.parametrize("signed", [True, False])
def test_the_format_is_the_finest_that_holds_the_largest_value(largest, signed):
    form = holding(largest, 6, signed)
    finer = replace(form, integer=form.integer - 1)
    step = 2.0**-form.fraction
    values = torch.tensor([largest], dtype=torch.float64)
    assert abs(float(form.reals(values)) - largest) <= step / 2
    assert float(finer.reals(values)) < largest - step / 4


def test_an_outlier_is_saturated_when_all_other_values_round_finer():
    values = torch.cat([torch.linspace(0, 1, 100_000), torch.tensor([1.5])])
    assert nearest_format(values, 8, signed=False).integer == 0
    assert nearest_format(torch.tensor([0.0, 1.5]), 8, signed=False).integer == 1
    assert holding(1.5, 8, signed=False).integer == 1


def test_logits_approach_those_of_fp32_with_more_bits(tmp_path):
    fp32, _ = write_models(tmp_path)
    chain = read_chain(fp32)
    activations = real_activations(chain, IMAGES.pixels)
    expected = predict(OnnxRuntimeSession(fp32, threads=1), IMAGES, 20)
    np.testing.assert_allclose(real_logits(chain, IMAGES.pixels, 7), expected, atol=1e-3)
    errors = [
        np.abs(fixed_chain(chain, activations, width, 16).logits(IMAGES.pixels, 7) - expected).max()
        for width in (4, 8, 16)
    ]
    assert errors[2] < 0.02
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_logits_equal_numpy_integer_sums_for_any_batch_size():
    """The same in numpy's integers, from the formats and the rounded weights alone."""
    chain = small_fixed()
    first, _, second, _, last = chain.layers
    values = IMAGES.pixels.astype(np.int64)
    values = rounded(first, correlated(values, first, padding=0), fraction=0)
    values = values[:, :, :30, :30].reshape(20, 4, 6, 5, 6, 5).max(axis=(3, 5))
    values = rounded(second, correlated(values, second, padding=1), first.output.fraction)
    weight = (last.layer.weight * 2.0**last.weight.fraction).astype(np.int64)
    sums = values.max(axis=(2, 3)) @ weight.T
    expected = sums * 2.0 ** -(second.output.fraction + last.weight.fraction)
    np.testing.assert_array_equal(chain.logits(IMAGES.pixels, 20), expected)
    np.testing.assert_array_equal(chain.logits(IMAGES.pixels, 3), expected)
    assert len(np.unique(expected)) > 50


def correlated(values: np.ndarray, fixed, padding: int) -> np.ndarray:
    weight = (fixed.layer.weight * 2.0**fixed.weight.fraction).astype(np.int64)
    padded = np.pad(values, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight)


def rounded(fixed, sums: np.ndarray, fraction: int) -> np.ndarray:
    fraction += fixed.weight.fraction
    bias = (fixed.layer.bias.astype(np.float64) * 2.0**fraction).astype(np.int64)
    shift = fraction - fixed.output.fraction
    assert shift > 0
    values = (np.maximum(sums + bias[:, None, None], 0) + 2 ** (shift - 1)) >> shift
    return np.minimum(values, fixed.output.highest)


def test_weights_and_biases_are_exact_in_their_formats():
    for fixed in small_fixed().layers:
        for values, form in ((fixed.layer.weight, fixed.weight), (fixed.layer.bias, fixed.bias)):
            if form is not None:
                held = form.reals(torch.tensor(values)).numpy()
                np.testing.assert_array_equal(held, values.astype(np.float64))
    assert [str(fixed.weight) for fixed in small_fixed().layers if fixed.weight] == [
        "ap_fixed<16,-4,AP_RND,AP_SAT>",
        "ap_fixed<6,3,AP_RND,AP_SAT>",
        "ap_fixed<6,3,AP_RND,AP_SAT>",
    ]


def test_the_bound_of_a_sum_is_tight():
    fixed = small_fixed().layers[0]
    step = 2.0**-fixed.weight.fraction
    weight, bias = (
        np.abs(each.astype(np.float64)) / step for each in (fixed.layer.weight, fixed.layer.bias)
    )
    expected = max(weight[each].sum() * 255 + bias[each] for each in range(4))
    assert largest_sum(fixed, 255, fixed.weight.fraction) == expected < 2**53


def test_costs_equal_those_counted_by_hand():
    matrix = Matrix(inputs=36, outputs=6, weight_bits=6, positions=36, reads=64)
    assert allowed_reuse_factors(matrix) == [1, 2, 3, 4, 6, 9, 12, 18, 36, 72, 108, 216]
    assert allowed_reuse_factor(matrix, 5) == 4  # as near as 6
    assert allowed_reuse_factor(matrix, 1000) == 216
    assert least_cycles(matrix, factor=9) == 64 - 36 + 36 * 9
    chain = small_fixed()
    assert matrices_of(chain) == [
        Matrix(inputs=12, outputs=4, weight_bits=16, positions=961, reads=1024),
        matrix,
        Matrix(inputs=6, outputs=10, weight_bits=6),
    ]
    cost = cost_of(chain, 12)  # the linear layer allows 6 and 12
    assert (cost["reuse_factor_low"], cost["reuse_factor_high"]) == (12, 12)
    assert cost["multipliers"] == 4 + 18 + 5
    assert cost["weight_bits"] == 48 * 16 + (216 + 60) * 6
    assert cost["weight_bits_a_cycle"] == 4 * 16 + (18 + 5) * 6
    assert cost["estimated_cycles_an_image"] == 1024 - 961 + 961 * 12


@needs_hls4ml
@pytest.mark.parametrize(("inputs", "outputs"), [(12, 24), (36, 6), (54, 20), (7, 5)])
def test_allowed_reuse_factors_equal_those_of_hls4ml(inputs, outputs):
    from hls4ml.backends import get_backend

    backend = get_backend("Vitis")
    expected = backend.get_valid_reuse_factors(inputs, outputs)
    matrix = Matrix(inputs, outputs, weight_bits=8)
    assert allowed_reuse_factors(matrix) == expected
    for wanted in range(1, inputs * outputs + 9):
        nearest = backend.get_closest_reuse_factor(expected, wanted)
        assert allowed_reuse_factor(matrix, wanted) == nearest


def test_every_value_of_the_project_has_a_type_and_sums_are_not_rounded():
    layers = settings_of(small_fixed(), 3)["LayerName"]
    assert layers["global_in"]["Precision"] == {"result": "ap_ufixed<8,8>"}
    assert {"Conv_0", "Relu_1", "MaxPool_1", "Flatten_0", "MatMul_0"} < set(layers)
    for name, layer in layers.items():
        assert "result" in layer["Precision"], name
    relu, conv = (layers[name]["Precision"]["result"] for name in ("Relu_0", "Conv_0"))
    assert (relu, conv) == ("ap_ufixed<6,4,AP_RND,AP_SAT>", "ap_fixed<7,5,AP_RND,AP_SAT>")
    assert layers["Conv_1"]["Precision"]["accum"] == "auto"


@needs_hls4ml
def test_the_cpp_gives_our_logits_bit_for_bit_and_its_project_is_complete(tmp_path):
    chain = small_fixed()
    folder = tmp_path / "project"
    bench = IMAGES[:2]
    built = verified_design(chain, TARGET, folder, IMAGES, bench)
    assert built["logits_differing"] == 0
    assert built["logits"] == 200
    assert built["simulated_accuracy"] == percent_right(chain.logits(IMAGES.pixels, 20), IMAGES)
    for name in ("build_prj.tcl", "project.tcl", "firmware/network.cpp", "firmware/weights"):
        assert (folder / name).exists()
    assert SLOW in (folder / ARITHMETIC).read_text()
    assert not list(folder.rglob("*.so"))
    lines = (folder / "tb_data" / "tb_output_predictions.dat").read_text().splitlines()
    expected = chain.logits(bench.pixels, 2)
    np.testing.assert_allclose([np.fromstring(line, sep=" ") for line in lines], expected)


@needs_hls4ml
def test_equal_networks_give_equal_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = []
    for _ in range(2):
        write_project(small_fixed(), TARGET, Path("project"))
        files = sorted(path for path in Path("project").rglob("*") if path.is_file())
        written.append({path: path.read_bytes() for path in files})
        shutil.rmtree("project")
    assert written[0] == written[1]
    assert len(written[0]) > 50


def test_cpp_with_one_wrong_logit_is_rejected(tmp_path, monkeypatch):
    chain = small_fixed()
    wrong = chain.logits(IMAGES.pixels, 20)
    wrong[3, 4] += 2.0**-10
    monkeypatch.setattr(design, "write_project", lambda *_: [6, 6, 6])
    monkeypatch.setattr(design, "write_test_bench", lambda *_: None)
    monkeypatch.setattr(design, "simulated_logits", lambda *_, **__: wrong)
    with pytest.raises(AssertionError, match="1 of 200 logits are not those"):
        verified_design(chain, TARGET, tmp_path, IMAGES, IMAGES[:2])
    monkeypatch.setattr(design, "write_project", lambda *_: [6, 6, 12])
    with pytest.raises(AssertionError, match="other reuse factors"):
        verified_design(chain, TARGET, tmp_path, IMAGES, IMAGES[:2])


def test_the_narrowest_width_that_is_good_enough_is_chosen():
    found = {16: 94.0, 8: 93.2, 6: 92.9, 4: 60.0}
    assert hls.narrowest(found, reference=94.0, most=1.0) == 8
    assert hls.narrowest(found, reference=94.0, most=1.2) == 6
    with pytest.raises(InputError, match=r"every width.*94\.00 %.*hls\.max_accuracy_drop"):
        hls.narrowest(found, reference=95.1, most=1.0)


def test_missing_tools_are_one_clear_error(monkeypatch):
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"hls4ml is missing.*requirements-hardware\.txt"):
        refuse_without_tools()
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(requirements.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"g\+\+ is missing.*apt-get install g\+\+"):
        refuse_without_tools()


def test_an_unsupported_linear_layer_is_named():
    chain = small_fixed()
    last = chain.layers[-1]
    biased = replace(last, layer=replace(last.layer, bias=np.zeros(10, np.float32)))
    with pytest.raises(InputError, match="linear layer with a bias"):
        onnx_of(replace(chain, layers=(*chain.layers[:-1], biased)))


@pytest.fixture
def without_hls4ml(monkeypatch):
    """In its place our own arithmetic, which another test compares with it."""
    monkeypatch.setattr(hls, "refuse_without_tools", lambda: None)
    chains = []

    def written(chain, target, folder) -> list[int]:
        chains.append(chain)
        cost = cost_of(chain, target.reuse_factor)
        return [cost["reuse_factor_low"], cost["reuse_factor_high"]]

    monkeypatch.setattr(design, "write_project", written)
    monkeypatch.setattr(design, "write_test_bench", lambda *_: None)
    monkeypatch.setattr(
        design, "simulated_logits", lambda _, pixels, *__, **___: chains[-1].logits(pixels, 50)
    )


def test_main_and_the_table_report_every_width_and_reuse_factor(
    tmp_path, data_directory, monkeypatch, without_hls4ml, capsys
):
    metrics = tmp_path / "hls"
    for name in ("base", "pruned"):
        call(
            hls,
            monkeypatch,
            params=write_params(tmp_path / "params.yaml", hls=PARAMS),
            data=data_directory,
            onnx=write_models(tmp_path)[0],
            project=tmp_path / name,
            metrics=metrics / f"{name}.json",
        )
    said = capsys.readouterr().out
    assert said.count("vitis-run --mode hls --tcl build_prj.tcl") == 2
    found = json.loads((metrics / "base.json").read_text())
    assert list(found["widths"]) == ["2", "8", "12"]
    assert list(found["reuse_factors"]) == ["1", "12"]
    assert found["widths"]["2"]["accuracy"] < found["widths"]["12"]["accuracy"]
    built = found["design"]
    assert built["simulated_images"] == 12
    assert built["width"] in (8, 12)
    assert len(built["formats"]) == 8
    assert list(built["formats"][-1]) == ["weight"]  # no bias, and full sums as logits

    words = ["hls_table", "--metrics", str(metrics), "--table", str(tmp_path / "hls.md")]
    monkeypatch.setattr("sys.argv", [*words, "--network", "base", "--network", "pruned"])
    hls_table.main()
    lines = (tmp_path / "hls.md").read_text().splitlines()
    accuracies = [line for line in lines if line.startswith("| base |")]
    assert len(accuracies) == 1
    assert f"| {found['fp32']['accuracy']:.2f} % |" in accuracies[0]
    assert "| 12 | 0 of 120 |" in accuracies[0]
    costs = [line for line in lines if line.startswith("| 12 | ")]
    assert len(costs) == 2
    assert f"| {found['reuse_factors']['12']['multipliers']:,} | 1.000 |" in costs[0]

    changed = json.loads((metrics / "pruned.json").read_text())
    del changed["widths"]["2"]
    (metrics / "pruned.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="the networks differ in widths"):
        hls_table.main()
    (metrics / "pruned.json").unlink()
    with pytest.raises(InputError, match=r"pruned\.json is missing; run 'make hardware'"):
        hls_table.main()

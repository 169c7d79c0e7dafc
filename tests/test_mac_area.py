"""stages.hardware.mac_area: the reference equals numpy, and the Verilog equals the reference.

Tests that simulate or synthesize are skipped where iverilog, pyosys or the liberty file is missing.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.common.core.cli import InputError
from stages.hardware import mac_area
from stages.hardware.external import requirements
from stages.hardware.mac.reference import (
    FP32_TINY,
    NAN,
    bits,
    fp32_stimulus,
    fp32_sums,
    int_stimulus,
    int_sums,
    signed,
    values,
)
from stages.hardware.mac.simulation import FORMATS, Check, check, simulated
from stages.hardware.mac.synthesis import refuse_without_tools, standard_cells, xilinx_parts
from tests.pipelines import ROOT

RTL = ROOT / "stages" / "hardware" / "mac"
PIPELINE = yaml.safe_load((ROOT / "stages" / "hardware" / "dvc.yaml").read_text())
LIBERTY = Path(PIPELINE["stages"]["mac_area"]["cmd"].split("--liberty ")[1].split()[0])
needs_iverilog = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="Icarus Verilog (iverilog) is not installed"
)
needs_synthesis = pytest.mark.skipif(
    importlib.util.find_spec("pyosys") is None or not LIBERTY.is_file(),
    reason="pyosys (requirements-hardware.txt) or qflow-tech-osu018 is not installed",
)
FIGURES = {  # as if measured
    name: {
        "operand_bits": form.width,
        "sum_bits": form.sum_width,
        "simulated_steps": 1234,
        "standard_cells": {"area_um2": 100.0 * form.width, "cells": 50, "flip_flops": 32},
        "xilinx7": {"luts": 0, "carry_chains": 0, "flip_flops": 0, "dsps": 1},
        "xilinx7_without_dsps": {
            "luts": 10 * form.width, "carry_chains": 4, "flip_flops": 32, "dsps": 0,
        },
    }
    for name, form in FORMATS.items()
}  # fmt: skip


def steps(*operands: tuple[float, float], clear: int = 0) -> np.ndarray:
    """fp32 steps; the first one clears the sum."""
    patterns = bits(np.array(operands, np.float32))
    first = [1] + [clear] * (len(operands) - 1)
    return np.column_stack([first, patterns])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", ["int4", "int8", "int16"])
def test_integer_sums_equal_numpy_and_include_the_corner_values(name, rng):
    form = FORMATS[name]
    stimulus = int_stimulus(form.width, 300, rng)
    low, high = -(2 ** (form.width - 1)), 2 ** (form.width - 1) - 1
    operands = signed(stimulus[:, 1:], form.width)
    assert operands.min() == low
    assert operands.max() == high
    assert [low, low] in operands.tolist()
    sums = signed(int_sums(stimulus, form.width, form.sum_width), form.sum_width)
    starts = np.flatnonzero(stimulus[:, 0])
    assert len(starts) > 50
    products = operands.astype(np.int64).prod(axis=1)
    expected = np.concatenate([run.cumsum() for run in np.split(products, starts[1:])])
    np.testing.assert_array_equal(sums, expected)


def test_fp32_sums_equal_numpy_except_for_subnormals(rng):
    stimulus = fp32_stimulus(500, rng)
    sums = values(fp32_sums(stimulus))
    a, b = values(stimulus[:, 1]), values(stimulus[:, 2])
    before = np.where(stimulus[:, 0] == 1, np.float32(0), np.concatenate([[0], sums[:-1]]))
    with np.errstate(all="ignore"):
        product = a * b
        expected = before.astype(np.float32) + product
    assert expected.dtype == np.float32
    normal = np.ones(len(a), bool)
    for each in (a, b, product, before, expected):
        normal &= (each == 0) | ~(np.abs(each) <= FP32_TINY)
    assert normal.mean() > 0.5
    np.testing.assert_array_equal(sums[normal], expected[normal])  # a NaN equals a NaN here
    assert np.isnan(expected[normal]).any()
    assert np.isinf(expected[normal]).any()


@pytest.mark.parametrize(
    ("operands", "pattern"),
    [
        ([(2.0**-126, 0.5)], 0x00000000),  # a subnormal result is 0
        ([(-(2.0**-126), 0.5)], 0x00000000),  # +0 + -0
        ([(1e-40, 1e30)], 0x00000000),  # a subnormal operand is 0
        ([(1e-40, np.inf)], NAN),  # and 0 times infinity is no number
        ([(np.inf, -1.0)], 0xFF800000),
        ([(np.inf, 1.0), (-np.inf, 1.0)], NAN),
        ([(np.nan, 1.0), (1.0, 1.0)], NAN),
        ([(2.0**127, 2.0)], 0x7F800000),  # too large
        ([(1.0, 1.0), (2.0**-24, 1.0)], 0x3F800000),  # half a unit: to the even one
        ([(1.0 + 2.0**-23, 1.0), (2.0**-24, 1.0)], 0x3F800002),
        ([(1.0 - 2.0**-24, 2.0**-126)], 0x00000000),  # 2^-126 less half a unit: 0
        ([(1.0 + 2.0**-23, 1.0 - 2.0**-23), (-1.0, 1.0)], 0x00000000),  # rounded before it is added
        ([(3.0, 1.0), (-3.0, 1.0)], 0x00000000),
    ],
)
def test_fp32_special_cases_follow_the_comment_in_the_verilog(operands, pattern):
    assert hex(fp32_sums(steps(*operands))[-1]) == hex(pattern)


@needs_iverilog
@pytest.mark.parametrize("name", FORMATS)
def test_the_verilog_equals_the_reference_bit_for_bit(name, rng):
    found = check(RTL, FORMATS[name], count=200, rng=rng)
    assert found.mismatches == 0
    assert found.steps > 250


@needs_iverilog
def test_a_wrong_multiplier_is_detected(tmp_path, rng):
    for file in RTL.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    source = (RTL / "mac_fp32.v").read_text()
    (tmp_path / "mac_fp32.v").write_text(source.replace("half & (rest | digits[0])", "half"))
    assert check(tmp_path, FORMATS["fp32"], count=50, rng=rng).mismatches > 0
    (tmp_path / "mac_int.v").write_text(
        (RTL / "mac_int.v").read_text().replace("signed [WIDTH-1:0] a", "[WIDTH-1:0] a")
    )
    assert check(tmp_path, FORMATS["int8"], count=50, rng=rng).mismatches > 0


@needs_iverilog
def test_a_sum_that_was_never_cleared_is_undefined():
    assert simulated(RTL, FORMATS["int8"], np.array([[0, 1, 1], [1, 2, 3]])).tolist() == [-1, 6]


@needs_synthesis
def test_synthesis_counts_flip_flops_and_uses_dsps_only_if_allowed():
    form = FORMATS["int8"]
    cells = standard_cells(RTL, form, LIBERTY)
    assert cells["flip_flops"] == 32
    assert cells["area_um2"] > cells["cells"] > 200
    with_dsps, without = (xilinx_parts(RTL, form, dsps=each) for each in (True, False))
    assert with_dsps["dsps"] == 1
    assert without["dsps"] == 0
    assert without["luts"] > with_dsps["luts"]
    assert without["flip_flops"] == 32


def test_missing_tools_are_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(requirements.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"iverilog is missing.*apt-get install iverilog"):
        simulated(RTL, FORMATS["int8"], np.array([[1, 1, 1]]))
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pyosys is missing.*requirements-hardware\.txt"):
        refuse_without_tools(tmp_path / "cells.lib")
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match=r"cells\.lib is missing.*qflow-tech-osu018"):
        refuse_without_tools(tmp_path / "cells.lib")


def run_main(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "params.yaml").write_text("mac_area: {seed: 0, random_inputs: 5}\n")
    arguments = {
        "params": folder / "params.yaml",
        "rtl": RTL,
        "liberty": folder / "cells.lib",
        "metrics": folder / "mac_area.json",
        "table": folder / "mac_area.md",
    }
    words = [w for name, value in arguments.items() for w in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["mac_area", *words])
    mac_area.main()


def test_main_writes_the_same_keys_for_every_format(tmp_path, monkeypatch):
    monkeypatch.setattr(mac_area, "refuse_without_tools", lambda liberty: None)
    monkeypatch.setattr(mac_area, "check", lambda *_: Check(steps=1234, mismatches=0))
    monkeypatch.setattr(
        mac_area,
        "standard_cells",
        lambda _, form, __: {"area_um2": 100.0 * form.width, "cells": 50, "flip_flops": 32},
    )
    monkeypatch.setattr(
        mac_area,
        "xilinx_parts",
        lambda _, form, dsps: {
            "luts": 0 if dsps else 10 * form.width,
            "carry_chains": 0 if dsps else 4,
            "flip_flops": 0 if dsps else 32,
            "dsps": int(dsps),
        },
    )
    run_main(tmp_path, monkeypatch)
    assert json.loads((tmp_path / "mac_area.json").read_text()) == FIGURES
    table = (tmp_path / "mac_area.md").read_text()
    assert "| fp32 | 32 bits | 3,200 µm² | 4.00 | 50 | 32 | 320 | 4.00 | 0 | 1 |" in table
    assert "standard cells of cells" in table
    assert "before place and route" in table


def test_a_format_with_wrong_sums_writes_no_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr(mac_area, "refuse_without_tools", lambda liberty: None)
    monkeypatch.setattr(mac_area, "check", lambda *_: Check(steps=9, mismatches=1))
    with pytest.raises(AssertionError, match="1 of 9 sums are wrong"):
        run_main(tmp_path, monkeypatch)
    assert not (tmp_path / "mac_area.json").exists()

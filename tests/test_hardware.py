"""stages.hardware.summary: figures of other stages side by side, and claims judged by them."""

import json
from pathlib import Path

import pytest

from stages.common.core.cli import InputError
from stages.common.core.params import load_params
from stages.hardware import summary
from stages.hardware.overview.claims import CHANNELS, Claim, Evidence, claims_of
from stages.hardware.overview.collect import Sources, collect, nearest_zeros
from stages.hardware.overview.page import claim_table, mark, sentence, what_pays
from stages.hardware.overview.params import HardwareParams
from stages.hardware.overview.quantities import ASIC, CPU, FPGA, NPU, PLATFORMS, VARIANTS, Quantity
from tests.pipelines import ROOT

SLOW, FAST = "ethos-u55-256 Some_System Shared_Sram", "ethos-u55-256 Some_System Sram_Only"
PARAMS = HardwareParams(npu_slow_weights=SLOW, npu_fast_weights=FAST, noise=0.05)
RATIOS = "ratio_to_base,onnxruntime_ratio_to_base"
SWEEP = f"""prune.method,prune.amount,variant,nonzero_params,size_bytes,{RATIOS}
structured,0.6,pruned,300,1200,0.5,0.4
unstructured,0.3,base,1000,4000,1.0,1.0
unstructured,0.3,base_int8,1000,1000,0.8,0.8
unstructured,0.3,pruned,700,4000,1.01,1.02
unstructured,0.3,pruned_int8,700,1000,0.51,0.52
unstructured,0.6,base,1000,4000,1.0,1.0
unstructured,0.6,base_int8,1000,1000,0.5,0.5
unstructured,0.6,pruned,400,4000,1.03,1.04
unstructured,0.6,pruned_int8,390,1000,0.53,0.54
"""


def timed(ratio: float) -> dict:
    """A variant's block of the benchmark."""
    return {"opencv": {"ratio_to_base": ratio}, "onnxruntime": {"ratio_to_base": ratio / 2}}


def engine(total: float) -> dict:
    return {memory: {"total_uj_low": total} for memory in ("streamed", "resident")}


def engine_run(cycles: int, read_bytes: int) -> dict:
    return {"cycles": cycles, "cycles_with_zeros": cycles, "read_bytes": read_bytes}


def design(**figures: int) -> dict:
    return {"design": {"reuse_factor": 9}, "reuse_factors": {"1": {}, "9": figures}}


def sources(folder: Path) -> Sources:
    """Metrics of a base of 1000 multiply-accumulates and a pruned network of 250."""
    ratios = {"base": (1.0, 4000), "pruned": (0.4, 1000), "base_int8": (0.5, 1000),
              "pruned_int8": (0.2, 250)}  # fmt: skip
    npu = {
        name: {
            target: {"total_cycles": cycles, "encoded_weight_bytes": size, "sram_bytes": 10 * size}
            for target, cycles in ((SLOW, slow), (FAST, fast))
        }
        for name, slow, fast, size in (
            ("base", 900, 300, 1000), ("pruned", 300, 100, 250), ("unstructured", 450, 300, 330)
        )
    }  # fmt: skip
    area = {
        form: {
            "standard_cells": {"area_um2": um2},
            "xilinx7": {"dsps": dsps},
            "xilinx7_without_dsps": {"luts": luts},
        }
        for form, um2, luts, dsps in (("int8", 100.0, 50, 1), ("fp32", 500.0, 300, 2))
    }
    energy = {
        name: {"macs": macs, "nonzero_macs": nonzero, "dense": engine(dense),
               "zero_skipping": engine(sparse)}
        for name, macs, nonzero, dense, sparse in (
            ("base", 1000, 1000, 40.0, 44.0), ("pruned", 250, 250, 10.0, 11.0),
            ("base_int8", 1000, 1000, 8.0, 9.0), ("pruned_int8", 250, 250, 2.0, 2.2),
            ("unstructured_int8", 1000, 250, 8.0, 3.0),
        )
    }  # fmt: skip
    contents = {
        "benchmark.json": {
            "environment": {"cpu": "a processor"},
            **{name: timed(ratio) for name, (ratio, _) in ratios.items()},
        },
        **{
            f"evaluate/{name}.json": {"nonzero_params": 350, "size_bytes": size}
            for name, (_, size) in ratios.items()
        },
        "npu.json": npu,
        "mac_area.json": area,
        "energy.json": energy,
        "accelerator/base.json": engine_run(cycles=8000, read_bytes=6000),
        "accelerator/pruned.json": engine_run(cycles=2400, read_bytes=2000),
        "hls/base.json": design(multipliers=90),
        "hls/pruned.json": design(multipliers=30),
    }
    for name, content in contents.items():
        path = folder / "metrics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "sweep.csv").write_text(SWEEP)
    return Sources(folder / "metrics", folder / "sweep.csv")


def named(quantities: list[Quantity], platform: str, name: str) -> Quantity:
    [found] = [each for each in quantities if (each.platform, each.name) == (platform, name)]
    return found


def test_every_platform_has_time_or_energy_and_figures_are_multiples_of_the_reference(tmp_path):
    quantities, _ = collect(sources(tmp_path), PARAMS)
    assert {each.platform for each in quantities if each.kind in ("time", "energy")} == set(
        PLATFORMS
    )
    assert all(each.ratio(each.reference) == 1 for each in quantities)
    cycles = named(quantities, NPU, "cycles, weights in slow memory")
    assert cycles.reference == "base_int8"  # FP32 does not run there
    assert cycles.ratio("pruned_int8") == pytest.approx(1 / 3)
    assert cycles.ratio("unstructured_int8") == pytest.approx(1 / 2)


def test_a_pipeline_of_all_layers_is_compared_at_one_reuse_factor(tmp_path):
    quantities, _ = collect(sources(tmp_path), PARAMS)
    multipliers = named(quantities, FPGA, "multipliers of a pipeline of all layers")
    assert multipliers.values == {"base_int8": 90, "pruned_int8": 30}
    read = named(quantities, FPGA, "bytes that the engine reads")
    assert read.values == {"base_int8": 6, "pruned_int8": 2}  # KB


def test_area_for_equal_speed_counts_what_an_engine_multiplies(tmp_path):
    quantities, _ = collect(sources(tmp_path), PARAMS)
    dense = named(quantities, ASIC, "area for equal speed")
    sparse = named(quantities, ASIC, "area for equal speed, zeros skipped")
    assert dense.ratio("pruned") == 0.25
    assert dense.ratio("base_int8") == pytest.approx(0.2)
    assert dense.ratio("unstructured_int8") == pytest.approx(0.2)
    assert sparse.ratio("unstructured_int8") == pytest.approx(0.05)


def test_zeros_on_the_cpu_come_from_the_sweep_point_nearest_in_nonzero_weights(tmp_path):
    quantities, notes = collect(sources(tmp_path), PARAMS)
    time = named(quantities, CPU, "time in OpenCV DNN")
    assert time.values["unstructured"] == pytest.approx(1.03)
    # The sweep's may be another machine: what counts is 0.53 beside 0.5, timed in the same rounds.
    int8 = time.values["base_int8"]
    assert time.values["unstructured_int8"] == pytest.approx(int8 * 0.53 / 0.5)
    assert "400 weights" in notes[0]


def test_a_sweep_without_zeros_says_what_to_run():
    rows = [{"prune.method": "structured", "variant": "pruned", "nonzero_params": "3"}]
    with pytest.raises(InputError, match="unstructured.*make study NAME=sweep"):
        nearest_zeros(rows, 3)


@pytest.mark.parametrize(
    "file", ["benchmark.json", "npu.json", "accelerator/pruned.json", "hls/base.json"]
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path, file):
    found = sources(tmp_path)
    (found.folder / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing; run '(dvc repro|make hardware)"):
        collect(found, PARAMS)


def test_an_npu_target_without_figures_is_named(tmp_path):
    params = HardwareParams(npu_slow_weights="u99 X Y", npu_fast_weights=FAST, noise=0.05)
    with pytest.raises(InputError, match="npu.json lacks base / u99 X Y"):
        collect(sources(tmp_path), params)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [((0.5, 0.9), "confirmed"), ((0.5, 0.97), "conditional"), ((0.96, 1.2), "refuted")],
)
def test_a_claim_is_judged_by_all_its_ratios_and_noise_is_no_gain(ratios, verdict):
    evidence = tuple(
        Evidence(Quantity(CPU, "time", "t", "ms", "measured", {"base": 1, "pruned": ratio}), *pair)
        for ratio in ratios
        for pair in CHANNELS[:1]
    )
    assert Claim("it is so", ("time",), evidence).verdict(noise=0.05) == verdict


def test_a_claim_uses_all_figures_of_its_kinds(tmp_path):
    quantities, _ = collect(sources(tmp_path), PARAMS)
    claims = {claim.text: claim for claim in claims_of(quantities)}
    smaller = claims["INT8 arithmetic is smaller"]
    assert smaller.verdict(0.05) == "confirmed"
    assert {each.quantity.kind for each in smaller.evidence} == {"arithmetic"}
    sparse = claims["Sparse models map well on hardware"]
    assert sparse.verdict(0.05) == "conditional"
    assert {each.quantity.kind for each in sparse.evidence} == {"time", "memory", "energy"}


def test_every_claim_has_a_mark_for_each_platform(tmp_path):
    quantities, _ = collect(sources(tmp_path), PARAMS)
    lines = claim_table(claims_of(quantities), 0.05).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][-4:] == list(PLATFORMS)
    throughput = next(index for index, row in enumerate(rows) if "throughput" in row[0])
    structured, zeros = rows[throughput : throughput + 2]
    assert structured[1:4] == ["time", "**conditional**", "structured"]
    assert structured[4:] == ["✓ 0.40", "✓ 0.33", "✓ 0.30", "–"]
    assert zeros[:4] == ["", "", "", "unstructured"]
    assert zeros[4:] == ["✗ 1.03 – 1.08", "partly 0.50 – 1.00", "✗ 1.00", "–"]
    assert sum(bool(row[0]) for row in rows[2:]) == 9


@pytest.mark.parametrize("page", ["energy", "mac_area", "hls", "accelerator", "hardware"])
def test_no_cell_of_a_committed_table_is_longer_than_40_characters(page):
    lines = (ROOT / "metrics" / f"{page}.md").read_text().splitlines()
    cells = [cell.strip() for line in lines if line.startswith("|") for cell in line.split("|")]
    assert len(cells) > 40
    assert [cell for cell in cells if len(cell) > 40] == []


def test_a_mark_counts_a_ratio_within_the_noise_as_no_gain():
    def evidence(*ratios: float) -> list[Evidence]:
        values = [{"base": 1.0, "pruned": ratio} for ratio in ratios]
        return [
            Evidence(Quantity(CPU, "time", "t", "ms", "measured", each), "pruned", "base")
            for each in values
        ]

    assert mark(evidence(0.5, 0.06), 0.05) == "✓ 0.060 – 0.50"
    assert mark(evidence(0.5, 0.96), 0.05) == "partly 0.50 – 0.96"
    assert mark(evidence(0.96), 0.05) == "✗ 0.96"
    assert mark([], 0.05) == "–"


def test_one_line_a_platform_lists_what_pays_and_what_does_not(tmp_path):
    quantities, _ = collect(sources(tmp_path), PARAMS)
    lines = what_pays(quantities, 0.05).splitlines()
    assert [line.split("**")[1] for line in lines] == list(PLATFORMS)
    assert "pays: structured INT8 0.20, structured 0.40, INT8 0.50 × base" in lines[0]
    assert lines[0].endswith("; zeros do not: 1.03 × base, 1.06 × INT8.")
    assert lines[1].endswith("pays: structured INT8 0.33 × INT8; zeros pay: 0.50 × INT8.")


def test_zeros_that_help_one_precision_only_pay_in_part():
    values = {"base": 4.0, "base_int8": 4.0, "unstructured": 4.0, "unstructured_int8": 2.0}
    said = sentence(Quantity(CPU, "time", "t", "ms", "measured", values), 0.05)
    assert said == "does not pay: INT8 1.00 × base; zeros pay in part: 1.00 × base, 0.50 × INT8"


def test_the_stage_writes_page_metrics_and_picture(tmp_path, monkeypatch, capsys):
    found = sources(tmp_path)
    arguments = {
        "params": ROOT / "params.yaml",
        "metrics-folder": found.folder,
        "sweep": found.sweep,
        "metrics": tmp_path / "hardware.json",
        "page": tmp_path / "hardware.md",
        "picture": tmp_path / "hardware.png",
    }
    npu = found.folder / "npu.json"
    params = load_params(HardwareParams, ROOT / "params.yaml", section="hardware")
    npu.write_text(
        npu.read_text()
        .replace(SLOW, params.npu_slow_weights)
        .replace(FAST, params.npu_fast_weights)
    )
    flags = [item for key, value in arguments.items() for item in (f"--{key}", str(value))]
    monkeypatch.setattr("sys.argv", ["hardware", *flags])
    summary.main()
    page = arguments["page"].read_text()
    metrics = json.loads(arguments["metrics"].read_text())
    assert set(metrics["quantities"]) == set(PLATFORMS)
    assert set(metrics["claims"].values()) <= {"confirmed", "conditional", "refuted"}
    assert all(title in page for title in VARIANTS.values())
    assert page.strip() == capsys.readouterr().out.strip()
    assert arguments["picture"].read_bytes().startswith(b"\x89PNG")

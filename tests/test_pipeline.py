"""The pipeline as a user runs it: DVC itself, in a repository of its own, on tiny data."""

import csv
import json
import sys

import pytest
import yaml

from tests.pipelines import ALL_STAGES, FIRST_OUTPUT, ROOT, TINY, stages_run
from tests.profiles import smooth_profile

VARIANTS = ["base", "pruned", "base_int8", "pruned_int8"]


@pytest.fixture(autouse=True)
def put_back(repository):
    """Every change of a test, a failing one too, is undone before the next."""
    yield
    if repository.run("git", "status", "--porcelain"):
        repository.run("git", "checkout", "--quiet", ".")
        repository.run("git", "clean", "-d", "--force", "--quiet")
        repository.dvc("checkout", "--quiet", "--allow-missing")


def test_one_command_makes_every_model_metric_and_plot(repository):
    output = (repository.path / FIRST_OUTPUT).read_text()
    assert stages_run(output) == ALL_STAGES - {"validate_params", "prepare"}
    for name in ("model", "model_int8", "model_pruned", "model_pruned_int8"):
        assert (repository.path / "models" / f"{name}.onnx").stat().st_size > 0
    for variant in VARIANTS:
        assert repository.json(f"metrics/evaluate/{variant}.json")["images"] == 100
    blocks = [repository.json("metrics/summary.json")[variant] for variant in VARIANTS]
    assert all(block.keys() == blocks[0].keys() for block in blocks)
    sizes = [block["size_bytes"] for block in blocks]
    assert sizes == sorted(sizes, reverse=True)  # base > pruned > base INT8 > pruned INT8
    assert blocks[1]["macs"] < 0.65 * blocks[0]["macs"]
    for picture in ("accuracy_plot", "latency_comparison", "pareto"):
        assert (repository.path / "plots" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_does_nothing_and_the_status_is_clean(repository):
    assert stages_run(repository.dvc("repro")) == set()
    assert "up to date" in repository.dvc("status", "dvc.yaml")
    # Without a target, DVC names the pipelines that run on request as well.
    named = [line for line in repository.dvc("status").splitlines() if not line.startswith("\t")]
    family = {line for line in named if line.startswith("stages/family/dvc.yaml:")}
    assert len(family) == 48  # four of each model, one of each variant and peer, and three
    assert set(named) - family == {
        "stages/card/dvc.yaml:card@base:",
        "stages/card/dvc.yaml:card@base_int8:",
        "stages/card/dvc.yaml:card@pruned:",
        "stages/card/dvc.yaml:card@pruned_int8:",
        "stages/card/dvc.yaml:compare_robustness:",
        "stages/card/dvc.yaml:robustness:",
        "stages/controls/dvc.yaml:controls:",
        "stages/hardware/dvc.yaml:accelerator@base:",
        "stages/hardware/dvc.yaml:accelerator@pruned:",
        "stages/hardware/dvc.yaml:accelerator_table:",
        "stages/hardware/dvc.yaml:energy:",
        "stages/hardware/dvc.yaml:hardware:",
        "stages/hardware/dvc.yaml:hls@base:",
        "stages/hardware/dvc.yaml:hls@pruned:",
        "stages/hardware/dvc.yaml:hls_table:",
        "stages/hardware/dvc.yaml:mac_area:",
        "stages/jetson/dvc.yaml:jetson_fp16@base:",
        "stages/jetson/dvc.yaml:jetson_fp16@pruned:",
        "stages/jetson/dvc.yaml:jetson_symmetric@base:",
        "stages/jetson/dvc.yaml:jetson_symmetric@pruned:",
        "stages/jetson/dvc.yaml:jetson_table:",
        "stages/jetson/dvc.yaml:jetson_test@base_fp16:",
        "stages/jetson/dvc.yaml:jetson_test@base_int8_symmetric:",
        "stages/jetson/dvc.yaml:jetson_test@pruned_fp16:",
        "stages/jetson/dvc.yaml:jetson_test@pruned_int8_symmetric:",
        "stages/runtimes/dvc.yaml:runtimes:",
        "stages/mcu/dvc.yaml:mcu@base:",
        "stages/mcu/dvc.yaml:mcu@pruned:",
        "stages/mcu/dvc.yaml:mcu_table:",
        "stages/sensitivity/dvc.yaml:sensitivity:",
    }


def test_everything_renders_as_one_page(repository):
    output = repository.dvc("plots", "show")
    page = (repository.path / "dvc_plots" / "index.html").read_text()
    assert "index.html" in output
    for title in ("Training: loss", "Fine-tuning", "Latency", "Size", "Confusion: pruned, INT8"):
        assert title in page, title


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prune.amount=1.5", "prune.amount is 1.5; allowed: a number in [0, 1)"),
        ("train.epochs=abc", "train.epochs is 'abc'; allowed: a whole number of at least 1"),
        ("quantize.calibration_images=0", "quantize.calibration_images is 0; allowed:"),
        ("+prune.amout=0.5", "prune.amout is unknown; did you mean prune.amount?"),
    ],
)
def test_a_wrong_param_is_one_line_before_any_work(repository, override, said):
    output = repository.dvc("exp", "run", "-S", override, succeed=False)
    assert stages_run(output) == {"validate_params"}
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in output


def test_a_misspelt_param_is_named_before_any_work(repository):
    output = repository.dvc("exp", "run", "-S", "prune.amout=0.5", succeed=False)
    assert "prune.amout" in output
    assert "Traceback" not in output
    assert stages_run(output) <= {"validate_params"}


def test_another_amount_runs_only_what_depends_on_pruning_and_shows_what_changed(repository):
    before = repository.json("metrics/summary.json")["pruned"]
    ran = stages_run(repository.dvc("exp", "run", "-S", "prune.amount=0.7"))
    after = repository.json("metrics/summary.json")["pruned"]
    assert ran == {name for name in ALL_STAGES if "pruned" in name} | {
        "validate_params",
        "memory_model",
        "prune",
        "npu",
        "benchmark",
        "compare",
    }
    diff = json.loads(repository.dvc("metrics", "diff", "--json"))["metrics/summary.json"]
    assert diff["pruned.size_bytes"]["diff"] < 0
    assert diff["pruned.macs"]["diff"] < 0
    assert "base.macs" not in diff
    # Of 100 images the two networks may have as many right.
    assert ("pruned.accuracy" in diff) == (before["accuracy"] != after["accuracy"])
    ratios = [each["latency_ratio_to_base"]["opencv"] for each in (before, after)]
    assert ("pruned.latency_ratio_to_base.opencv" in diff) == (ratios[0] != ratios[1])
    assert json.loads(repository.dvc("plots", "diff", "--json"))
    assert_a_person_can_read_the_comparison(repository)


def assert_a_person_can_read_the_comparison(repository):
    """At most 30 metrics in all, so at most 30 rows; at most 40 columns of what changed."""
    everything = json.loads(repository.dvc("metrics", "diff", "--all", "--json"))
    assert 0 < sum(len(file) for file in everything.values()) <= 30
    table = repository.dvc("exp", "show", "--only-changed", "--csv").splitlines()
    [head] = [line for line in table if line.startswith("Experiment,")]
    assert len(head.split(",")) <= 40


def test_pruning_to_milliseconds_needs_a_profile_and_nothing_else_does(repository):
    """A profile that comes or changes prunes nothing anew as long as nobody asks for time."""
    [where] = [var for var in yaml.safe_load((ROOT / "dvc.yaml").read_text())["vars"]
               if "profile" in var]  # fmt: skip
    profile = repository.path / where["profile"]
    profile.unlink(missing_ok=True)
    by_time = ["-S", "prune.target=latency", "-S", "prune.round_to=8", "-S", "prune.amount=0.1"]
    refused = repository.dvc("exp", "run", *by_time, succeed=False)
    assert f"error: {where['profile']} is missing: the latency of this device is not" in refused
    repository.run("git", "checkout", "--quiet", "params.yaml")
    profile.write_text(json.dumps(smooth_profile(TINY["train"]["widths"])))
    assert stages_run(repository.dvc("repro")) == {"latency_profile"}
    ran = stages_run(repository.dvc("exp", "run", *by_time, "export@pruned"))
    assert {"latency_profile", "prune", "export@pruned"} <= ran
    assert not ran & {"train", "teach", "export@base"}
    report = repository.json("metrics/prune.json")
    assert 0.1 <= report["amount_reached"] < 1
    assert report["predicted_latency_ms"]["device"] == "test"


def test_zeros_in_place_save_neither_bytes_nor_multiplications(repository):
    zeros = ["-S", "prune.method=unstructured", "-S", "prune.amount=0.8"]
    repository.dvc("exp", "run", *zeros, "evaluate@pruned")
    base, pruned = (repository.json(f"metrics/evaluate/{name}.json") for name in ("base", "pruned"))
    assert pruned["size_bytes"] == pytest.approx(base["size_bytes"], rel=0.01)
    assert pruned["macs"] == base["macs"]
    assert pruned["nonzero_params"] < 0.5 * base["nonzero_params"]


def test_a_study_runs_its_experiments_in_the_queue_and_keeps_what_is_done(repository):
    files = {"csv": "plots/s.csv", "table": "metrics/s.md", "picture": "plots/s.png"}
    command = [
        sys.executable,
        "-m",
        "stages.tools.study",
        "--params",
        "params.yaml",
        "--name",
        "seeds",
    ]
    command += [word for name, path in files.items() for word in (f"--{name}", path)]
    output = repository.run(*command)
    assert "0 of 2 experiments are done already" in output
    rows = list(csv.DictReader((repository.path / files["csv"]).read_text().splitlines()))
    found = {(row["experiment"], row["prune.seed"], row["variant"]) for row in rows}
    assert found == {(f"seeds-{seed}", str(seed), name) for seed in (0, 1) for name in VARIANTS}
    assert "n = 2 seeds" in (repository.path / files["table"]).read_text()
    assert not (repository.path / files["picture"]).exists()  # no amount varies
    again = repository.run(*command)
    assert "2 of 2 experiments are done already" in again
    with open(repository.path / "params.yaml", "a") as file:
        file.write("# changed\n")
    refused = repository.run(*command, succeed=False)
    assert "error: there are uncommitted changes (M params.yaml)" in refused


def test_controls_run_when_they_are_asked_for_and_once(repository):
    name = "stages/controls/dvc.yaml"
    assert f"dvc repro {name}" in (repository.path / "Makefile").read_text()
    output = repository.dvc("repro", name)
    assert stages_run(output) == {f"{name}:controls"}
    [verdict] = [line for line in output.splitlines() if line.startswith("With 1 epoch each, ")]
    assert verdict in (repository.path / "metrics" / "studies" / "controls.md").read_text()
    metrics = repository.json("metrics/controls.json")
    assert metrics["pruned_minus_scratch"]["n"] == 2
    pruned, scratch = (metrics["arms"][name] for name in ("pruned", "scratch"))
    assert (
        pruned["macs"] == scratch["macs"] == repository.json("metrics/prune.json")["after"]["macs"]
    )
    assert "up to date" in repository.dvc("status", name)  # cached
    assert "up to date" in repository.dvc("status", "dvc.yaml")  # and nothing is stale for it


def test_energy_is_estimated_when_it_is_asked_for_and_once(repository):
    name = "stages/hardware/dvc.yaml"
    assert f"dvc repro --keep-going {name}" in (repository.path / "Makefile").read_text()
    assert stages_run(repository.dvc("repro", f"{name}:energy")) == {f"{name}:energy"}
    assert stages_run(repository.dvc("repro", f"{name}:energy")) == set()
    metrics = repository.json("metrics/energy.json")
    for variant in VARIANTS:
        evaluated = repository.json(f"metrics/evaluate/{variant}.json")
        assert metrics[variant]["macs"] == evaluated["macs"]


def test_the_same_seed_makes_the_same_bits_twice(repository):
    files = [path for path in (repository.path / "models").iterdir() if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    metrics = (repository.path / "metrics" / "train.json").read_bytes()
    stages = [
        name
        for name in ALL_STAGES
        if name.startswith(("train", "teach", "prune", "export", "quant"))
    ]
    repository.dvc(
        "repro", "--force", "--single-item", "--no-run-cache", *sorted(stages, key=order)
    )
    assert len(before) == 9
    for path, content in before.items():
        assert path.read_bytes() == content, path.name
    assert (repository.path / "metrics" / "train.json").read_bytes() == metrics


def order(name: str) -> int:
    return [
        name.startswith(verb) for verb in ("train", "teach", "prune", "export", "quantize")
    ].index(True)

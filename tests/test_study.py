"""Studies: which experiments they make, how their results are put side by side."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from matplotlib import image as png

from stages import validate_params as check
from stages.common.core.cli import InputError
from stages.common.reporting.style import save_png
from stages.common.studies import queue
from stages.common.studies.chart import lines_of, study_chart
from stages.common.studies.grid import experiments_of
from stages.common.studies.table import markdown
from stages.tools import study

SWEEP = {"prune": {"method": ["structured", "unstructured"], "amount": [0.3, 0.9], "epochs": [1]}}
SEEDS = {"prune": {"seed": [0, 1, 2]}}
COLUMNS = (
    "variant,accuracy,size_bytes,params,nonzero_params,macs,latency_ms_median,ratio_to_base,"
    "onnxruntime_latency_ms_median,onnxruntime_ratio_to_base"
)


def rows_of(experiments, accuracies) -> list[dict]:
    rows = []
    for experiment, accuracy in zip(experiments, accuracies, strict=True):
        table = [
            COLUMNS,
            "base,94.0,8000,2000,2000,100000000,4.0,1.0,2.0,1.0",
            f"pruned,{accuracy},4000,1000,1000,50000000,2.0,0.5,1.0,0.5",
            f"pruned_int8,{accuracy - 1},1000,1000,990,50000000,3.0,0.75,0.5,0.25",
        ]
        changes = {key: str(value) for key, value in experiment.changes.items()}
        for row in csv.DictReader(io.StringIO("\n".join(table))):
            rows.append({"experiment": experiment.name, **changes, **row})
    return rows


def test_every_combination_is_an_experiment_named_after_what_varies():
    experiments = experiments_of("sweep", [SWEEP])
    assert [each.name for each in experiments] == [
        "sweep-structured-0.3",
        "sweep-structured-0.9",
        "sweep-unstructured-0.3",
        "sweep-unstructured-0.9",
    ]
    assert experiments[1].settings() == [
        "-S", "prune.method=structured", "-S", "prune.amount=0.9", "-S", "prune.epochs=1",
    ]  # fmt: skip
    [single] = experiments_of("tiny", [{"prune": {"amount": [0.95]}}])
    assert single.name == "tiny"


def test_widths_are_given_in_a_form_that_a_shell_takes():
    experiments = experiments_of("tiny", [{"prune": {"widths": [[[24, 32], [48]]]}}])
    assert experiments[0].settings() == ["-S", "prune.widths=[[24,32],[48]]"]
    table = markdown(experiments, rows_of(experiments, [88.0]))
    assert "dvc exp run compare -S 'prune.widths=[[24,32],[48]]'" in table


def test_experiments_that_vary_lists_and_texts_get_names_that_git_takes():
    widths = [[[32, 40], [48]], [[16, 16], [24]]]
    experiments = experiments_of("s", [{"prune": {"widths": widths, "device": ["a b", "é~"]}}])
    names = [each.name for each in experiments]
    assert names[0] == "s-32_40_48-a_b"
    assert len(set(names)) == 4
    for name in names:
        subprocess.run(["git", "check-ref-format", f"refs/exps/aa/bb/{name}"], check=True)


@pytest.mark.parametrize(
    ("value", "setting"),
    [
        ("cpu", "cpu"),
        (1e-05, "1e-05"),
        (True, "true"),
        (None, "null"),
        ("/data/CIFAR (1)/é~=.tar", '"/data/CIFAR (1)/é~=.tar"'),
        (["a b", "c"], '["a b","c"]'),
    ],
)
def test_values_are_written_as_dvc_reads_them(value, setting):
    [experiment] = experiments_of("s", [{"prune": {"key": [value]}}])
    assert experiment.settings() == ["-S", f"prune.key={setting}"]
    parsed = OverridesParser.create().parse_overrides([experiment.settings()[1]])
    assert parsed[0].value() == value or str(parsed[0].value()) == value


def test_the_same_value_twice_is_refused():
    with pytest.raises(InputError, match=r"studies\.s: 2 experiments are 's-0'; give each value"):
        experiments_of("s", [{"prune": {"seed": [0, 1, 0]}}])


def test_a_study_of_two_grids_runs_one_after_the_other_and_varies_what_differs_between_them():
    grids = [
        {"prune": {"precision": [precision], "budget_ms": [ms], "epochs": [3], "seed": [0, 1]}}
        for precision, ms in (("fp32", 0.5), ("int8", 0.35))
    ]
    experiments = experiments_of("precision", grids)
    names = ["fp32-0.5-0", "fp32-0.5-1", "int8-0.35-0", "int8-0.35-1"]
    assert [each.name for each in experiments] == [f"precision-{name}" for name in names]
    assert {each.varied for each in experiments} == {
        ("prune.precision", "prune.budget_ms", "prune.seed")
    }


def test_grids_of_one_study_must_have_the_same_keys():
    with pytest.raises(InputError, match=r"studies\.precision: its grids have different keys"):
        experiments_of("precision", [{"prune": {"seed": [0]}}, {"prune": {"epochs": [3]}}])


def test_a_failed_command_is_told_with_dvcs_error_and_not_its_hints():
    script = "import sys; sys.exit('ERROR: it broke\\n\\nHaving any troubles? Hit us up')"
    with pytest.raises(InputError, match="failed: it broke$"):
        queue.command(sys.executable, "-c", script)
    with pytest.raises(InputError, match="failed: no output$"):
        queue.command(sys.executable, "-c", "import sys; sys.exit(1)")


@pytest.mark.parametrize("name", ["mine", "__doc__"])
def test_an_unknown_study_is_refused_with_those_there_are(monkeypatch, name):
    arguments = ["--params", "params.yaml", "--name", name, "--csv", "a", "--table", "b"]
    monkeypatch.setattr(sys, "argv", ["study", *arguments, "--picture", "c"])
    with pytest.raises(InputError, match=f"no study '{name}'; it has sweep, seeds, tiny"):
        study.main()


def test_seeds_get_their_mean_and_sample_deviation():
    experiments = experiments_of("seeds", [SEEDS])
    table = markdown(experiments, rows_of(experiments, [93.0, 93.1, 93.5]))
    assert "FP32: 93.20 ± 0.26 % (mean and standard deviation, n = 3 seeds" in table
    assert "INT8: 92.20 ± 0.26 %" in table
    assert "| 2 | 50,000,000 | 1,000 | 93.50 % | 4,000 | 92.50 % | 1,000 |" in table
    assert " ms" not in table  # one shape, and perhaps several machines


def test_few_test_images_have_fewer_decimals_and_a_mean_over_seeds_one_more():
    experiments = experiments_of("seeds", [SEEDS])
    table = markdown(experiments, rows_of(experiments, [93.0, 94.0, 98.0]), decimals=0)
    assert "| 2 | 50,000,000 | 1,000 | 98 % | 4,000 | 97 % | 1,000 |" in table
    assert "FP32: 95.0 ± 2.6 % (mean and standard deviation, n = 3 seeds" in table


def test_two_ways_are_compared_seed_by_seed_at_the_latency_that_was_predicted():
    sections = {"prune": {"target": ["macs", "latency"], "seed": [0, 1, 2], "budget_ms": [1.0]}}
    experiments = experiments_of("precision", [sections])
    rows = rows_of(experiments, [92.0, 92.5, 93.0, 92.2, 92.6, 93.6])
    rows = [{**row, "predicted_latency_ms": "0.9876"} for row in rows]
    table = markdown(experiments, rows)
    assert "| params | predicted | FP32 accuracy |" in table
    assert "| latency | 2 | 50,000,000 | 1,000 | 0.99 ms | 93.60 % |" in table
    assert "FP32, target macs: 92.50 ± 0.50 % (mean" in table
    assert "one base) at 0.50 × the base's time in OpenCV DNN." in table
    assert (
        "FP32, target latency less FP32, target macs: +0.30 ± 0.26 points, by seed (95 % t "
        "interval -0.36 to +0.96: the seeds alone could explain it)." in table
    )
    rows = rows_of(experiments, [92.0, 92.5, 93.0, 93.0, 93.6, 94.1])
    assert "+1.07 ± 0.06 points, by seed (95 % t interval +0.92 to +1.21)." in markdown(
        experiments, rows
    )


def test_more_seeds_than_an_interval_is_known_for_are_refused():
    many = experiments_of("precision", [{"prune": {"target": ["macs"], "seed": list(range(11))}}])
    with pytest.raises(
        InputError, match=r"studies\.precision: prune\.seed has 11 values; allowed: 1"
    ):
        study.require_few_seeds("precision", many)
    study.require_few_seeds("precision", many[1:])
    study.require_few_seeds("sweep", experiments_of("sweep", [SWEEP]))


def test_the_table_has_a_row_and_a_command_for_every_experiment():
    experiments = experiments_of("sweep", [SWEEP])
    table = markdown(experiments, rows_of(experiments, [93.0, 90.0, 93.0, 92.0]))
    assert table.count("\n| structured |") == 2
    assert (
        "| unstructured | 0.9 | 50,000,000 | 1,000 | 92.00 % | 4,000 | 2.00 ms (0.50 × base)"
        in table
    )
    assert table.count("dvc exp run compare -S prune.method=") == 4
    assert "±" not in table  # one seed
    assert "predicted" not in table  # no milliseconds were asked for


def test_the_curve_has_a_line_for_every_method_and_precision(tmp_path):
    experiments = experiments_of("sweep", [SWEEP])
    rows = rows_of(experiments, [93.0, 90.0, 93.0, 92.0])
    lines = lines_of(rows)
    assert list(lines) == [
        "structured, FP32", "structured, INT8", "unstructured, FP32", "unstructured, INT8",
    ]  # fmt: skip
    assert [row["accuracy"] for row in lines["structured, FP32"]] == ["93.0", "90.0"]
    figure = study_chart(rows, note="a machine")
    assert len(figure.axes) == 3
    assert all(len(axes.lines) == 5 for axes in figure.axes)  # and the base
    save_png(tmp_path / "curve.png", figure)
    assert png.imread(tmp_path / "curve.png").std() > 0


def test_a_study_of_values_that_are_not_allowed_is_refused():
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["studies"]["sweep"]["prune"]["amount"] = [0.5, 1.5]
    with pytest.raises(InputError, match=r"studies.sweep: prune.amount is 1.5; allowed: a number"):
        check.check(content, "params.yaml")
    content["studies"]["sweep"]["prune"] = {"amont": [0.5]}
    with pytest.raises(InputError, match=r"prune.amont is unknown; did you mean prune.amount"):
        check.check(content, "params.yaml")


class Client:
    """Stands for 'dvc exp run --run-all': ends after some polls, or when it is told to."""

    def __init__(self, polls: int):
        self.polls = polls
        self.terminated = False

    def poll(self) -> int | None:
        return 0 if self.terminated or self.polls == 0 else None

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None and self.polls > 0:
            self.polls -= 1
            raise subprocess.TimeoutExpired("dvc", timeout)
        return 0

    def terminate(self) -> None:
        self.terminated = True


@pytest.mark.parametrize(
    ("statuses", "ends"),
    [
        (["1 active, 0 idle"] * 4, True),
        (["1 active, 0 idle", "0 active, 0 idle", "1 active, 0 idle", "0 active, 0 idle"], True),
        (["1 active, 0 idle", "0 active, 0 idle", "0 active, 0 idle"], False),
    ],
)
def test_a_queue_whose_worker_died_is_not_waited_for(monkeypatch, statuses, ends):
    client, said = Client(polls=4), iter(statuses)
    monkeypatch.setattr(queue.subprocess, "Popen", lambda _: client)
    monkeypatch.setattr(queue, "dvc", lambda *_: f"Worker status: {next(said)}")
    assert queue.follow_queue() is ends
    assert client.terminated is not ends


def test_a_queue_that_stopped_is_started_again_for_what_is_left(monkeypatch):
    done, calls = {}, []
    experiments = experiments_of("seeds", [SEEDS])

    def follow_queue() -> bool:
        calls.append(len(done))
        done[experiments[len(done)].name] = "commit"
        return False

    monkeypatch.setattr(queue, "follow_queue", follow_queue)
    monkeypatch.setattr(queue, "revision", lambda name: done.get(name))
    monkeypatch.setattr(queue, "dvc", lambda *_: "")
    queue.run_all(experiments)
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("name", ["a#b", "really?", "ünï"])
def test_a_folder_in_which_dvcs_queue_fails_is_named_before_any_work(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot run in a folder with '[#?ü]' in its path"):
        study.require_queueable(tmp_path / name)


def test_spaces_in_the_path_are_allowed(tmp_path):
    study.require_queueable(tmp_path / "a folder (2)")

"""A search: its space, its front, what it proposes after a kill, and what it refuses."""

import json
import random
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from matplotlib import image as png

from stages.common.core.cli import InputError
from stages.common.reporting.style import save_png
from stages.common.studies import pareto
from stages.common.studies.cluster.tasks import Outcome
from stages.common.studies.front import COSTS, TEST, VALIDATION, front_chart, front_table, rows_of
from stages.common.studies.grid import Experiment
from stages.common.studies.journal import Journal
from stages.common.studies.pareto import TRIAL_STAGES, Runner, figures_of_trial
from stages.common.studies.search import (
    BYTES,
    LATENCY,
    SearchParams,
    Trial,
    experiment_of,
    front_of,
    parse_search,
    require_untimed_trials,
)
from stages.tools import study
from stages.validate_params import check

ROOT = Path(__file__).parent.parent
SPACE = {
    "prune": {
        "target": ["macs", "latency"],
        "budget_ms": {"low": 0.2, "high": 1.0, "step": 0.1},
        "widths": [[[8], [16, 8]], []],
        "epochs": [3],
    }
}
VALUES = {"trials": 12, "seed": 0, "cost": LATENCY, "space": SPACE}
SEARCH = SearchParams(**VALUES)


@pytest.fixture
def content() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def trial(number: int, accuracy: float, cost: float) -> Trial:
    changes = {"prune.amount": number / 10, "prune.epochs": 3}
    experiment = Experiment(f"pareto-{number / 10}", changes, varied=("prune.amount",))
    return Trial(number, experiment, accuracy, cost)


def is_beaten(one: Trial, others: list[Trial]) -> bool:
    return any(
        each.accuracy >= one.accuracy
        and each.cost <= one.cost
        and (each.accuracy, each.cost) != (one.accuracy, one.cost)
        for each in others
    )


def test_the_front_is_what_no_other_trial_beats():
    draw = random.Random(0)
    for count in (1, 2, 5, 30):
        trials = [trial(n, draw.randint(85, 95), draw.randint(1, 9)) for n in range(count)]
        front = front_of(trials)
        found = {(each.accuracy, each.cost) for each in front}
        assert found == {(e.accuracy, e.cost) for e in trials if not is_beaten(e, trials)}
        assert len(front) == len(found)  # of equals one
        assert [each.cost for each in front] == sorted(each.cost for each in front)
    assert front_of([]) == []


def test_a_proposal_is_an_experiment_with_the_values_of_params_yaml():
    proposed = {
        "prune.target": '"latency"',
        "prune.budget_ms": 0.30000000000000004,
        "prune.widths": "[[8], [16, 8]]",
    }
    experiment = experiment_of(SEARCH, proposed)
    assert experiment.changes == {
        "prune.target": "latency",
        "prune.budget_ms": 0.3,
        "prune.widths": [[8], [16, 8]],
        "prune.epochs": 3,
    }
    assert experiment.name == "pareto-latency-0.3-8_16_8"


def test_a_range_of_whole_numbers_has_whole_numbers():
    space = {"prune": {"epochs": {"low": 2, "high": 9, "step": 3}}}
    search = parse_search({**VALUES, "space": space}, "params.yaml")
    assert json.dumps(search.values()) == '{"prune.epochs": [2, 5, 8]}'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trails": 3}, r"studies.pareto.trails is unknown; did you mean studies.pareto.trials\?"),
        ({"trials": 0}, r"studies.pareto.trials is 0; allowed: a whole number of at least 1"),
        ({"cost": "ms"}, r"studies.pareto.cost is 'ms'; allowed: predicted_latency_ms or int8"),
        ({"space": {}}, r"studies.pareto.space is {}; allowed: sections of keys"),
        ({"space": {"prune": {"amont": [0.1, 0.2]}}}, r"prune.amont is unknown; did you mean"),
        ({"space": {"prun": {"amount": [0.1, 0.2]}}}, r"space.prun is unknown; did you mean"),
        ({"space": {"prune": {"amount": [0.5, 1.5]}}}, r"space: prune.amount is 1.5; allowed: a"),
        ({"space": {"prune": {"amount": []}}}, r"space: prune.amount is \[\]; allowed: a list of"),
        ({"space": {"prune": {"amount": 0.5}}}, r"space: prune.amount is 0.5; allowed: a list of"),
        ({"space": {"prune": {"amount": [0.5]}}}, r"space: every key has one value; expected"),
        ({"space": {"prune": {"amount": [0.5, 0.5]}}}, r"prune.amount is \[0.5, 0.5\]; give each"),
    ],
)
def test_a_search_that_is_not_allowed_is_refused_in_one_line(content, change, message):
    content["studies"]["pareto"] |= change
    with pytest.raises(InputError, match=message) as refusal:
        check(content, "params.yaml")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hihg": 1}, r"space: prune.amount.hihg is unknown; did you mean prune.amount.high\?"),
        ({"low": 0.9}, r"space: prune.amount has 0 values from low to high; allowed: 1 to 10000"),
        ({"step": 0}, r"space: prune.amount.step is 0; allowed: a number above 0"),
        ({"step": 1e-6}, r"space: prune.amount has 500001 values from low to high; allowed"),
        ({"high": 1.2}, r"space: prune.amount is 1.0; allowed: a number in \[0, 1\)"),
    ],
)
def test_a_range_that_is_not_allowed_is_refused_in_one_line(content, change, message):
    amount = {"low": 0.2, "high": 0.7, "step": 0.1, **change}
    content["studies"]["pareto"]["space"] = {"prune": {"amount": amount}}
    with pytest.raises(InputError, match=message):
        check(content, "params.yaml")


@pytest.mark.parametrize(
    ("factory", "cost", "space", "message"),
    [
        ("chain", LATENCY, {"budget_ms": [0.5, 1]}, None),
        ("chain", LATENCY, {"target": ["latency"], "amount": [0.5, 0.6]}, None),
        ("chain", LATENCY, {"amount": [0.5, 0.6]}, "a trial may count no milliseconds; expected"),
        ("chain", LATENCY, {"budget_ms": [0.5, 1], "precision": ["fp32", "int8"]}, "is of FP32"),
        ("chain", BYTES, {"budget_ms": [0.5, 1], "precision": ["int8"]}, None),
        ("chain", LATENCY, {"budget_ms": [0, 1]}, "a trial may count no milliseconds; expected"),
        ("chain", BYTES, {"amount": [0.5, 0.6]}, None),
        ("torchvision:vgg", BYTES, {"amount": [0.5, 0.6]}, None),
        ("torchvision:vgg", BYTES, {"budget_ms": [0, 1]}, "predicted of the chain alone, and"),
        ("torchvision:vgg", LATENCY, {"budget_ms": [0.5, 1]}, "network.factory is torchvision:vgg"),
    ],
)
def test_a_trial_predicts_milliseconds_and_measures_none(content, factory, cost, space, message):
    content["network"]["factory"] = factory
    search = SearchParams(trials=1, seed=0, cost=cost, space={"prune": space})
    if message is None:
        require_untimed_trials(search, content)
        return
    with pytest.raises(InputError, match=message):
        require_untimed_trials(search, content)


def test_the_committed_search_can_be_run(content):
    search = parse_search(content["studies"]["pareto"], "params.yaml")
    require_untimed_trials(search, content)


@pytest.mark.parametrize("target", TRIAL_STAGES.values())
def test_a_trial_ends_before_the_test_images_and_the_timing(target):
    stages = {each.addressing for each in Repo(ROOT).stage.collect(target, with_deps=True)}
    assert {"train", "prune"} <= stages
    assert not {name.split("@")[0] for name in stages} & {"evaluate", "benchmark", "compare"}


def message_of(monkeypatch, *words: str) -> str:
    """The line that refuses `make study NAME=pareto`."""
    files = [word for key in ("csv", "table", "picture") for word in (f"--{key}", "x")]
    command = ["study", "--params", "params.yaml", "--name", "pareto", *files, *words]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(InputError) as refusal:
        study.main()
    return str(refusal.value)


def test_without_optuna_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert message_of(monkeypatch) == (
        "the study pareto needs Optuna: python -m pip install -r requirements-cluster.txt"
    )


def test_a_search_on_a_cluster_or_without_trials_is_refused(monkeypatch):
    assert "CLUSTER is for grids" in message_of(monkeypatch, "--cluster", "auto")
    monkeypatch.setattr(study, "import_optuna", lambda: None)
    assert "studies.pareto.trials is 0; allowed" in message_of(monkeypatch, "--trials", "0")


class FakeRunner(Runner):
    """Runs nothing: ``output`` is what every experiment prints before it fails."""

    output = ""

    def run(self, name: str, *words: str) -> Outcome:
        return Outcome(name, False, self.output)


@pytest.fixture
def runner(tmp_path, monkeypatch) -> FakeRunner:
    monkeypatch.setattr(pareto, "revision", lambda name: None)
    monkeypatch.setattr(pareto, "head", lambda: "c" * 40)
    return FakeRunner(program=tmp_path / "point.py", folder=tmp_path, commit="c" * 40)


def test_params_that_a_stage_refuses_end_the_trial_and_not_the_search(runner, capsys):
    FakeRunner.output = (
        "error: prune.budget_ms asks for 0.1 ms\n"
        "ERROR: failed to reproduce 'prune': failed to run: python, exited with 2\n"
        "error: 'dvc exp run' failed: prune.budget_ms asks for 0.1 ms\n"
    )
    assert figures_of_trial(trial(1, 0, 0).experiment, LATENCY, runner) is None
    assert "pareto-0.1-untimed: prune.budget_ms asks for 0.1 ms (log: " in capsys.readouterr().out


@pytest.mark.parametrize("code", ["1", "-9", "20"])
def test_an_experiment_that_broke_stops_the_search(runner, code):
    FakeRunner.output = f"ERROR: failed to run: python, exited with {code}\nerror: it broke\n"
    with pytest.raises(InputError, match=r"pareto-0.1-untimed broke; mend it and give the same"):
        figures_of_trial(trial(1, 0, 0).experiment, LATENCY, runner)


def test_a_search_stops_when_another_commit_is_checked_out(runner, monkeypatch):
    monkeypatch.setattr(pareto, "head", lambda: "d" * 40)
    with pytest.raises(
        InputError, match="search is of commit cccccccccccc, and another is checked"
    ):
        figures_of_trial(trial(1, 0, 0).experiment, LATENCY, runner)


def test_a_second_search_in_the_same_folder_is_refused(tmp_path):
    with (
        pareto.only_search(tmp_path),
        pytest.raises(InputError, match="a search runs here already; wait for it"),
        pareto.only_search(tmp_path),
    ):
        pass
    with pareto.only_search(tmp_path):
        pass


def test_an_experiment_of_other_params_is_not_taken_for_a_trial(monkeypatch):
    text = yaml.safe_dump({"prune": {"amount": 0.1, "epochs": 5}})
    monkeypatch.setattr(pareto, "text_at", lambda *_: text)
    with pytest.raises(InputError, match=r"pareto-0.1 has prune.epochs 5, this search 3; remove"):
        pareto.require_same_params(trial(1, 0, 0).experiment, "commit")


def test_int8_has_the_accuracy_of_the_runtime_in_which_it_is_lowest(monkeypatch):
    report = {
        "onnxruntime": {"int8_accuracy": 93.0},
        "opencv_new": {"int8_accuracy": 92.5},
        "wrong_here": {"opencv_classic": "its logits are off"},
        "size_bytes": 600_000,
    }
    monkeypatch.setattr(pareto, "json_at", lambda *_: report)
    assert pareto.figures_of("commit", BYTES) == (92.5, 600_000)


TRIALS = [trial(0, 90.0, 0.5), trial(1, 93.0, 1.0), trial(2, 91.0, 1.25), trial(3, 94.0, 2.0)]


@pytest.mark.parametrize("cost", COSTS)
def test_the_files_name_trials_front_validation_and_test(cost, tmp_path):
    front = front_of(TRIALS)
    measured = {
        each.experiment.name: {
            "accuracy": str(each.accuracy - 1), "size_bytes": "4000", "macs": "1000",
            "latency_ms_median": "1.1", "onnxruntime_latency_ms_median": "",
        }
        for each in front
    }  # fmt: skip
    rows = rows_of(TRIALS, measured, cost)
    assert rows[2]["trial"] == "2"
    assert [row["front"] for row in rows] == ["yes", "yes", "no", "yes"]
    assert rows[2]["experiment"] == "pareto-0.2-untimed"
    assert rows[2][TEST] == rows[2]["latency_ms_median"] == ""
    table = front_table(front, rows, cost, {VALIDATION: 2500, TEST: 10000}, note="a note")
    cells = "1.00 ms | 92.00 %" if cost == LATENCY else "92.00 %"
    kind = COSTS[cost].kind
    assert f"| prune.amount | {kind} validation |" in table
    assert f"\n| 0.1 | 93.00 % | {cells} | 4,000 | 1.10 ms |  |\n" in table
    assert "| 0.2 |" not in table
    assert "dvc exp run compare -S prune.amount=0.1 -S prune.epochs=3" in table
    figure = front_chart(rows, cost, note="a note")
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == [
        "trials, validation images", "front, validation images", "front, test images",
    ]  # fmt: skip
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [4, 3, 3]
    save_png(tmp_path / "front.png", figure)
    assert png.imread(tmp_path / "front.png").std() > 0


def journal(path: Path, **changes: object) -> Journal:
    pytest.importorskip("optuna", reason="needs optuna: make test-cluster")
    return Journal(path / "journal", SearchParams(**{**VALUES, **changes}))


def figures_of(experiment: Experiment) -> tuple[float, float] | None:
    budget = experiment.changes["prune.budget_ms"]
    if budget == 0.2:
        return None
    return 90 + 5 * budget - (experiment.changes["prune.target"] == "macs"), budget


def search_on(found: Journal, trials: int = 1000) -> list[str]:
    """Up to so many trials; the names of all that were proposed."""
    names = []
    for _ in range(trials):
        proposed = found.next()
        if proposed is None:
            break
        number, experiment = proposed
        names.append(experiment.name)
        found.tell(number, figures_of(experiment))
    return names


def test_a_search_that_is_killed_goes_on_to_the_same_trials(tmp_path):
    whole = search_on(journal(tmp_path / "whole"))
    assert len(whole) == 12
    killed = []
    while names := search_on(journal(tmp_path / "killed"), trials=5):
        killed += names
    assert killed == whole
    other = journal(tmp_path / "killed")
    assert search_on(other) == []
    assert {each.experiment.name for each in other.trials()} <= set(whole)
    assert search_on(journal(tmp_path / "other", seed=1)) != whole


def test_a_trial_that_was_running_is_run_again_and_no_other(tmp_path):
    found = journal(tmp_path)
    done = search_on(found, trials=3)
    number, experiment = found.next()
    again = journal(tmp_path)
    assert again.next() == (number, experiment)
    assert experiment.name not in done
    again.tell(number, (91.0, 0.5))
    assert again.next() != (number, experiment)


def test_a_larger_budget_goes_on_and_another_search_is_refused(tmp_path):
    first = search_on(journal(tmp_path))
    more = journal(tmp_path, trials=14)
    assert len(search_on(more)) == 2
    assert search_on(journal(tmp_path / "at once", trials=14))[:12] == first
    space = {"prune": {**SPACE["prune"], "epochs": [5]}}
    for change in ({"seed": 1}, {"cost": BYTES}, {"space": space}):
        [key] = change
        with pytest.raises(InputError, match=f"another studies.pareto.{key}; delete it"):
            journal(tmp_path, **change)


def test_a_damaged_journal_is_refused_in_one_line(tmp_path):
    search_on(journal(tmp_path), trials=2)
    with open(tmp_path / "journal", "a") as file:
        file.write('{"op_code": 4, "wor')
    search_on(journal(tmp_path), trials=1)  # as after a kill in the middle of a line
    for text in ('{"op_code"\n{}\n', "[]\n{}\n"):
        (tmp_path / "journal").write_text(text)
        with pytest.raises(InputError, match="journal is damaged .*delete it"):
            journal(tmp_path)


def test_the_front_is_the_one_of_optuna(tmp_path):
    found = journal(tmp_path, trials=20)
    search_on(found)
    best = {tuple(each.values) for each in found.study.best_trials}
    assert {(each.accuracy, each.cost) for each in front_of(found.trials())} == best
    assert len(set(found.tried())) == 20
    assert found.failed() == 20 - len(found.trials()) > 0


def test_a_space_with_less_than_the_budget_is_tried_as_a_whole(tmp_path):
    space = {"prune": {"budget_ms": [0.5, 0.75], "target": ["macs", "latency"]}}
    found = journal(tmp_path, space=space)
    assert len(search_on(found)) == len(found.tried()) == len(found.trials()) == 4
    assert search_on(journal(tmp_path, space=space)) == []

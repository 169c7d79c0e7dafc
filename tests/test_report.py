"""The report of a pull request, on a repository whose one stage takes no time."""

import json
import sys

import pytest

from stages.common.core.cli import InputError
from stages.tools import pull_request_report as report
from tests.pipelines import Repository

PIPELINE = """
stages:
  make:
    cmd: {python} make.py
    deps: [make.py]
    params: [prune.amount]
    outs:
      - model
      - plots/pareto.png: {{cache: false}}
      - metrics/benchmark.json: {{cache: false}}
    metrics: [metrics/summary.json: {{cache: false}}]
"""
MAKE = """
import json, re
from pathlib import Path

amount = float(re.search(r"amount: (.*)", Path("params.yaml").read_text())[1])

def block(share):
    ratios = {"opencv": 1 - share, "onnxruntime": 1.0}
    costs = {"size_bytes": round(1000 * (1 - share)), "macs": 5000}
    return {"accuracy": 90 - share, **costs, "latency_ratio_to_base": ratios}

for folder in ("metrics", "plots"):
    Path(folder).mkdir(exist_ok=True)
Path("model").write_text(str(amount))
Path("plots/pareto.png").write_text(f"picture of {amount}")
summary = {"base": block(0), "pruned": block(amount)}
Path("metrics/summary.json").write_text(json.dumps(summary))
Path("metrics/benchmark.json").write_text(json.dumps({"pruned": {"latency_ms_median": 9 - amount}}))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Repository:
    """main with amount 0.5, the branch `more` with 0.75, both run; main went on afterwards."""
    repository = Repository(tmp_path_factory.mktemp("report"))
    repository.run("git", "init", "--quiet", "--initial-branch", "main")
    repository.run("git", "config", "user.name", "Test")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.dvc("init", "--quiet")
    (repository.path / ".gitignore").write_text("/model\n/build/\n")
    (repository.path / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (repository.path / "make.py").write_text(MAKE)
    for branch, amount in (("main", 0.5), ("more", 0.75)):
        if branch != "main":
            repository.run("git", "checkout", "--quiet", "-b", branch)
        (repository.path / "params.yaml").write_text(f"prune:\n  amount: {amount}\n")
        repository.dvc("repro")
        repository.commit(f"amount {amount}")
    repository.run("git", "checkout", "--quiet", "main")
    (repository.path / "params.yaml").write_text("prune:\n  amount: 0.5\nlater: 1\n")
    repository.commit("main goes on")
    return repository


@pytest.fixture
def clone(original, tmp_path, monkeypatch) -> Repository:
    """A clone as CI has it: both branches, no model, no DVC cache; `more` is checked out."""
    clone = original.clone(tmp_path / "clone")
    clone.run("git", "checkout", "--quiet", "more")
    monkeypatch.chdir(clone.path)
    return clone


def reported(monkeypatch, *arguments: str) -> str:
    command = ["report", *arguments, "--markdown", "build/report.md"]
    monkeypatch.setattr(sys, "argv", command)
    report.main()
    with open("build/report.md") as file:
        return file.read()


def test_both_sides_of_every_figure_stand_side_by_side(clone, monkeypatch):
    text = reported(monkeypatch, "main")
    assert "`pruned`: accuracy -0.25 points, size -50.0 %." in text
    assert (
        "| pruned | 89.50 % → 89.25 % | 500 bytes → 250 bytes | 5,000 | 0.50 → 0.25 | 1.00 |"
    ) in text
    assert "| base | 90.00 % | 1,000 bytes | 5,000 | 1.00 | 1.00 |" in text
    assert "| params.yaml | prune.amount | 0.5 | 0.75 |" in text
    assert "| metrics/summary.json | pruned.size_bytes | 500 | 250 | -250 |" in text


def test_accuracies_have_the_decimals_that_the_test_images_carry(clone, monkeypatch):
    evaluations = clone.path / "metrics" / "evaluate"
    evaluations.mkdir()
    for images, cell in ((153, "89.5 % → 89.2 %"), (10_000, "89.50 % → 89.25 %")):
        (evaluations / "base.json").write_text(json.dumps({"images": images}))
        clone.commit(f"{images} images")
        clone.run("git", "branch", "--force", "few", "HEAD")
        [row] = [
            line
            for line in reported(monkeypatch, "main", "few").splitlines()
            if line.startswith("| pruned | 89")
        ]
        assert f"| {cell} |" in row


def test_milliseconds_of_two_runs_are_never_compared(clone, monkeypatch):
    text = reported(monkeypatch, "main")
    assert "latency_ms" not in text
    assert "metrics changed (dvc metrics diff)" in text


def test_changes_of_the_base_since_the_branch_left_it_are_left_out(clone, monkeypatch):
    assert "later" not in reported(monkeypatch, "main", "more")


def test_a_clone_without_model_and_cache_is_up_to_date(clone, monkeypatch):
    for head in ([], ["more"]):
        assert "`dvc.lock` is up to date" in reported(monkeypatch, "main", *head)
    assert clone.run("git", "status", "--short") == ""


CHANGES = {
    "params.yaml": ("0.75", "0.8"),
    "make.py": ("90 -", "91 -"),
    "dvc.yaml": ("make.py\n    deps", "make.py --fast\n    deps"),
    "metrics/summary.json": ("89.25", "99.25"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("committed", [False, True])
def test_a_lock_that_is_not_up_to_date_fails_and_names_the_commands(
    clone, monkeypatch, capsys, name, committed
):
    content = (clone.path / name).read_text()
    assert content.count(CHANGES[name][0]) == 1
    (clone.path / name).write_text(content.replace(*CHANGES[name]))
    if committed:
        clone.commit("not run")
    with pytest.raises(SystemExit) as stopped:
        reported(monkeypatch, "main", *["HEAD"] * committed)
    assert stopped.value.code == 1
    assert "make would run again; run: dvc repro && make readme publish" in capsys.readouterr().err
    text = (clone.path / "build" / "report.md").read_text()
    assert "**`dvc.lock` is not up to date**: `make` would run again" in text


def test_a_stage_without_results_is_not_up_to_date(clone, monkeypatch):
    (clone.path / "dvc.lock").unlink()
    with pytest.raises(SystemExit):
        reported(monkeypatch, "main")


ON_REQUEST = """
stages:
  look:
    wdir: ..
    cmd: cp asked/question found
    deps: [asked/question]
    outs: [found: {cache: false}]
"""


def test_a_stale_optional_pipeline_is_reported_but_does_not_fail(clone, monkeypatch):
    """Before it ran there is nothing to say; afterwards its results may be another state's."""
    (clone.path / "asked").mkdir()
    (clone.path / "asked" / "dvc.yaml").write_text(ON_REQUEST)
    (clone.path / "asked" / "question").write_text("one")
    assert "`look`" not in reported(monkeypatch, "main")
    clone.dvc("repro", "asked/dvc.yaml")
    assert "`look`" not in reported(monkeypatch, "main")
    (clone.path / "asked" / "question").write_text("two")
    clone.commit("another question")
    for head in ([], ["HEAD"]):
        text = reported(monkeypatch, "main", *head)
        assert "- `dvc.lock` is up to date" in text
        assert "- `look`, which `dvc repro` does not run, ran on another state than this" in text


def test_both_pictures_are_written_beside_the_report(clone, monkeypatch):
    text = reported(monkeypatch, "main", "more")
    assert "| ![before](report_before.png) | ![after](report_after.png) |" in text
    for side, amount in (("before", 0.5), ("after", 0.75)):
        assert (clone.path / f"build/report_{side}.png").read_text() == f"picture of {amount}"


def test_the_same_picture_is_shown_once(clone, monkeypatch):
    text = reported(monkeypatch, "HEAD")
    assert "The same in both:\n\n![after](report_after.png)" in text
    assert "No variant's accuracy, bytes or MACs changed." in text
    assert "No param changed." in text
    assert "No metric changed." in text


def test_pictures_of_a_pull_request_have_the_addresses_of_its_commits(clone, monkeypatch):
    files = ["--base-files", "https://x.org/base", "--head-files", "https://x.org/fork"]
    text = reported(monkeypatch, "main", "more", *files)
    before, after = (clone.run("git", "rev-parse", name).strip() for name in ("main~1", "more"))
    assert f"![before](https://x.org/base/{before}/plots/pareto.png)" in text
    assert f"![after](https://x.org/fork/{after}/plots/pareto.png)" in text
    assert not list(clone.path.glob("build/*.png"))


def test_a_variant_may_come_and_go():
    block = {"accuracy": 1.0}
    lines = report.headlines({"old": block}, {"new": block}, decimals=2)
    assert lines == ["`old` is gone.", "`new` is new."]
    table = report.summary_table({"old": block}, {"new": block}, decimals=2)
    assert "| new | 1.00 % | - |" in table
    assert "| old | 1.00 % | - |" in table


def test_a_base_without_results_makes_every_variant_new(clone, monkeypatch):
    clone.run("git", "checkout", "--quiet", "main")
    clone.run("git", "rm", "--quiet", "-r", "metrics", "plots")
    clone.commit("no results")
    clone.run("git", "checkout", "--quiet", "-b", "first")
    clone.run("git", "checkout", "--quiet", "main~1", "--", "metrics", "plots")
    text = reported(monkeypatch, "main")
    assert "- `base` is new.\n- `pruned` is new." in text
    assert "Only in working tree:" in text


def test_a_branch_that_only_the_origin_has_is_named(clone, monkeypatch):
    clone.run("git", "branch", "--quiet", "--delete", "--force", "main")
    with pytest.raises(InputError, match=r"'main' is no commit .* did you mean origin/main\?"):
        reported(monkeypatch, "main")


def test_unknown_revisions_and_damaged_summaries_are_named(clone, monkeypatch):
    with pytest.raises(InputError, match="'nowhere' is no commit of this repository"):
        reported(monkeypatch, "nowhere")
    clone.run("git", "checkout", "--quiet", "--orphan", "unrelated")
    clone.commit("unrelated")
    with pytest.raises(InputError, match="have no commit in common"):
        reported(monkeypatch, "main")
    (clone.path / "metrics" / "summary.json").write_text(json.dumps(["pruned"]))
    with pytest.raises(InputError, match=r"summary.json of working tree has no block"):
        report.read_summary(clone.path, report.revision(clone.path, None))
    (clone.path / "metrics" / "summary.json").write_text("<<<<<<< HEAD")
    with pytest.raises(InputError, match=r"summary.json of working tree is no JSON"):
        report.read_summary(clone.path, report.revision(clone.path, None))

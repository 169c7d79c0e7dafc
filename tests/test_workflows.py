"""The workflows of GitHub: linted, without rights they do not need; the script of the comment."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.pipelines import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
ON_GITHUB = "GITHUB_ACTIONS" in os.environ  # there nothing may be missing
TOOLS = Path(sys.executable).parent  # as requirements.txt pins them
COMMENT_TOOLS = all(map(shutil.which, ("bash", "jq", "unzip", "iconv")))


def load(path: Path) -> dict:
    """The workflow; YAML 1.1 reads the key ``on`` as true."""
    content = yaml.safe_load(path.read_text())
    return {"on" if key is True else key: value for key, value in content.items()}


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def actionlint(*workflows: Path) -> subprocess.CompletedProcess:
    command = [TOOLS / "actionlint", "-shellcheck", TOOLS / "shellcheck", *workflows]
    return subprocess.run(command, capture_output=True, text=True)


def test_actionlint_finds_nothing():
    result = actionlint(*WORKFLOWS)
    assert result.returncode == 0, result.stdout


def test_actionlint_looks_into_expressions_and_scripts(tmp_path):
    workflow = (FOLDER / "report.yml").read_text()
    broken = workflow.replace("github.repository", "github.repositry")
    broken = broken.replace('>> "$GITHUB_STEP_SUMMARY"', ">> $GITHUB_STEP_SUMMARY")
    (tmp_path / "report.yml").write_text(broken)
    found = actionlint(tmp_path / "report.yml").stdout
    assert 'property "repositry" is not defined' in found
    assert "SC2086" in found


def test_shellcheck_finds_nothing_in_the_scripts():
    scripts = [ROOT / ".ci" / "run", *ROOT.glob("deploy/*.sh")]
    result = subprocess.run([TOOLS / "shellcheck", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_security_audit_finds_nothing():
    command = [TOOLS / "zizmor", "--offline", "--pedantic", "--no-progress", FOLDER]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_and_says_its_version(path):
    for line in path.read_text().splitlines():
        if "uses:" in line:
            assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_workflow_starts_with_rights_or_secrets(path):
    workflow = load(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert "pull_request_target" not in workflow["on"]
    assert "secrets." not in path.read_text()


def test_what_runs_the_code_of_a_pull_request_may_only_read():
    triggered = [load(path) for path in WORKFLOWS if "pull_request" in load(path)["on"]]
    assert len(triggered) == 2
    for workflow in triggered:
        assert all("permissions" not in job for job in workflow["jobs"].values())
        checkouts = [s for s in steps(workflow) if s.get("uses", "").startswith("actions/checkout")]
        assert checkouts
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_what_may_write_runs_no_code_of_a_pull_request():
    workflow = load(FOLDER / "comment.yml")
    [step] = steps(workflow)
    assert "uses" not in step
    assert "${{" not in step["run"]  # a branch may be named like a command: only by environment
    assert not re.search(r"git |python|pip |make ", step["run"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_is_trained(path):
    for step in steps(load(path)):
        assert not re.search(r"dvc (repro|exp|pull)|stages\.train", step.get("run", ""))


def test_every_push_runs_the_test_command_of_the_readme():
    workflow = load(FOLDER / "tests.yml")
    assert "push" in workflow["on"]
    assert ".ci/run" in [step.get("run") for step in steps(workflow)]


def test_the_oldest_and_the_newest_python_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest, below = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    matrix = load(FOLDER / "tests.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{oldest}", f"3.{int(below) - 1}"]


FAKE_GH = """#!{python}
import json, os, sys
from pathlib import Path

state = Path(os.environ["STATE"])
path, options = sys.argv[2].removeprefix("repos/owner/name/"), sys.argv[3:]
method = options[options.index("--method") + 1] if "--method" in options else "GET"
if method == "GET":
    sys.stdout.buffer.write((state / path.replace("/", "_")).read_bytes())
else:
    content = [method, path, Path("body.md").read_text()]
    (state / "written").write_text(json.dumps(content))
"""
MARKER = "<!-- report of comment.yml -->"
BOT = {"login": "github-actions[bot]"}


class Service:
    """GitHub's answers to the comment's script, in files, and what it writes there."""

    def __init__(self, folder: Path):
        self.folder = folder
        program = folder / "gh"
        program.write_text(FAKE_GH.format(python=sys.executable))
        program.chmod(0o755)
        self.answer("pulls", [{"number": 7, "head": {"sha": "abc"}}])
        self.answer("actions_runs_1_artifacts", {"artifacts": [artifact(size=100)]})
        self.answer("issues_7_comments", [[]])
        self.report("report of @someone\n")

    def answer(self, name: str, content: object) -> None:
        (self.folder / name).write_text(json.dumps(content))

    def report(self, text: str) -> None:
        with zipfile.ZipFile(self.folder / "actions_artifacts_5_zip", "w") as archive:
            archive.writestr("report.md", text)

    def run(self, head_sha: str = "abc", max_bytes: int = 60000) -> tuple[str, str, str] | None:
        """The method, path and body of what was written; None when nothing was."""
        [step] = steps(load(FOLDER / "comment.yml"))
        environment = {
            **os.environ,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "STATE": str(self.folder),
            "REPOSITORY": "owner/name",
            "RUN_ID": "1",
            "RUN_URL": "https://example.org/run",
            "HEAD_SHA": head_sha,
            "HEAD_OWNER": "stranger",
            "HEAD_BRANCH": "$(touch hacked)",
            "MAX_BYTES": str(max_bytes),
        }
        result = subprocess.run(
            ["bash", "-c", step["run"]],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        written = self.folder / "written"
        return tuple(json.loads(written.read_text())) if written.exists() else None


def artifact(size: int) -> dict:
    return {"id": 5, "name": "report", "size_in_bytes": size}


@pytest.fixture
def service(tmp_path) -> Service:
    if not COMMENT_TOOLS and not ON_GITHUB:
        pytest.skip("needs bash, jq, unzip and iconv")
    return Service(tmp_path)


def test_the_first_report_is_a_new_comment(service):
    method, path, body = service.run()
    assert (method, path) == ("POST", "issues/7/comments")
    assert body.startswith(MARKER)
    assert "report of" in body


def test_the_next_report_renews_the_comment_and_no_one_elses(service):
    forged = {"id": 1, "user": {"login": "stranger"}, "body": MARKER}
    other = {"id": 2, "user": BOT, "body": "something else"}
    ours = {"id": 3, "user": BOT, "body": f"{MARKER}\nold"}
    service.answer("issues_7_comments", [[forged, other], [ours]])
    assert service.run()[:2] == ("PATCH", "issues/comments/3")


def test_a_report_calls_nobody(service):
    assert "@someone" not in service.run()[2]


def test_a_long_report_is_cut_even_within_a_character(service):
    service.report("é" * 5000)
    body = service.run(max_bytes=1001)[2]
    assert body.count("é") == 500


def test_a_report_on_another_head_is_not_posted(service):
    assert service.run(head_sha="older") is None


@pytest.mark.parametrize("artifacts", [[], [artifact(size=2_000_000)]])
def test_no_report_or_a_huge_one_is_not_posted(service, artifacts):
    service.answer("actions_runs_1_artifacts", {"artifacts": artifacts})
    assert service.run() is None


def test_the_name_of_a_branch_is_no_command(service):
    service.run()
    assert not list(service.folder.rglob("hacked"))

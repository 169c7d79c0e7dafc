"""A DVC remote that hosts share, against servers of S3 and SSH on loopback."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.common.core.cli import InputError
from stages.common.core.files import digest
from stages.common.revisions.model_files import pull
from tests.loopback import BUCKET, HOST, SSHD, Link, s3_server, ssh_server
from tests.pipelines import ROOT, Repository, stages_run
from tests.study_stub import experiments, make_repository, point
from tests.test_pages import FENCE
from tests.test_study_point import wait_for

NEEDED = {"s3": ("dvc_s3", "moto", "flask_cors"), "ssh": ("dvc_ssh",)}
MODEL_BYTES = 200_000
MODELS = ("base.pt", "pruned.pt", "model.onnx")
TRAINING = f"""
import random
from pathlib import Path

for seed, name in enumerate({MODELS}):
    Path(name).write_bytes(random.Random(seed).randbytes({MODEL_BYTES}))
"""
# Of the person who runs the tests: nothing of it may count.
OWN_SETTINGS = ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "SSH_AUTH_SOCK")


@dataclass(frozen=True)
class Remote:
    """An address, the settings for 'dvc remote modify', and the environment with credentials."""

    url: str
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def commands(self) -> list[list[str]]:
        """A command as a person types it in a clone."""
        modify = ["remote", "modify", "--local", "team"]
        return [
            ["remote", "add", "--default", "--local", "team", self.url],
            *([*modify, key, value] for key, value in self.settings.items()),
        ]

    def write(self, path: Path) -> None:
        """Leave in ``path`` what the commands leave, without starting DVC for each."""
        lines = [f"{key} = {value}" for key, value in {"url": self.url, **self.settings}.items()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "\n".join(["[core]", "remote = team", "['remote \"team\"']", *lines]) + "\n"
        )

    def use(self, monkeypatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)


@dataclass(frozen=True)
class Server:
    """The link that leads to it, the remote of one who may use it, and those of others."""

    link: Link
    remote: Remote
    refused: dict[str, tuple[Remote, str]]  # by what is wrong, with what the line must say

    def remote_of(self, test: Path) -> Remote:
        """A folder of the remote for one test."""
        return replace(self.remote, url=f"{self.remote.url}/{test.name}")


@pytest.fixture(scope="module", params=["s3", "ssh"])
def server(request, tmp_path_factory) -> Iterator[Server]:
    missing = [name for name in NEEDED[request.param] if importlib.util.find_spec(name) is None]
    if request.param == "ssh" and SSHD is None:
        missing.append("sshd (apt install openssh-server)")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: make test-cluster")
    folder = tmp_path_factory.mktemp(request.param)
    yield from (s3() if request.param == "s3" else ssh(folder))


def s3() -> Iterator[Server]:
    with s3_server() as server:
        link = Link(server.port)
        at = {"endpointurl": f"http://{HOST}:{link.port}"}
        right = Remote(f"s3://{BUCKET}/edge", at, server.writer)
        wrong = {**server.writer, "AWS_SECRET_ACCESS_KEY": "wrong"}
        refused = {
            "no credentials": (replace(right, environment={}), "Unable to locate credentials"),
            "a wrong key": (replace(right, environment=wrong), "signature|Forbidden"),
            "a key that may only read": (
                replace(right, environment=server.reader),
                "Access Denied|not authorized",
            ),
            "no such bucket": (replace(right, url="s3://nobody/edge"), "bucket does not exist"),
        }
        yield Server(link, right, refused)
        link.cut()


def ssh(folder: Path) -> Iterator[Server]:
    with ssh_server(folder) as server:
        link = Link(server.port)
        user, address = {"user": server.user}, f"ssh://{HOST}:{link.port}"
        right = Remote(f"{address}{folder}/store/edge", {**user, "keyfile": str(server.key)})
        denied = f"Permission denied for user {server.user}"
        other, absent = ({**user, "keyfile": str(key)} for key in (server.other_key, "/no/key"))
        refused = {
            "no key": (replace(right, settings=user), denied),
            "a wrong key": (replace(right, settings=other), denied),
            "no such key": (replace(right, settings=absent), "No such file or directory: '/no/key"),
            "no such folder": (replace(right, url=f"{address}/proc/edge"), "No such file"),
        }
        yield Server(link, right, refused)
        link.cut()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A home without keys, profiles or DVC settings; no wait for Amazon's own machines."""
    home = tmp_path / "home"
    home.mkdir()
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return home


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Repository:
    """A repository whose models are in its own cache and nowhere else."""
    repository = Repository(tmp_path_factory.mktemp("made") / "trained")
    repository.path.mkdir()
    repository.run("git", "init", "--quiet")
    repository.run("git", "config", "user.name", "Test")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.dvc("init", "--quiet")
    (repository.path / "train.py").write_text(TRAINING)
    outs = [word for name in MODELS for word in ("--outs", name)]
    repository.dvc("stage", "add", "--run", "--name", "train", *outs, "python train.py")
    repository.commit("trained")
    return repository


@pytest.fixture
def trained(made, tmp_path) -> Repository:
    shutil.copytree(made.path, tmp_path / "trained")
    return Repository(tmp_path / "trained")


def models(repository: Repository) -> list[str]:
    return [digest(repository.path / name) for name in MODELS]


def clone_with(remote: Remote, repository: Repository, path: Path) -> Repository:
    clone = repository.clone(path)
    remote.write(path / ".dvc" / "config.local")
    return clone


def try_remote(repository: Repository) -> str:
    """The check of a host before it trains; the line where it fails, else nothing."""
    words = [sys.executable, "-m", "stages.tools.cluster.remote"]
    tried = subprocess.run(
        words, cwd=repository.path, capture_output=True, text=True, timeout=300, check=False
    )
    assert tried.returncode in (0, 2), tried.stderr
    assert tried.stderr.count("\n") == (1 if tried.returncode else 0), tried.stderr
    return tried.stderr


def test_what_one_clone_pushes_another_pulls_and_trains_nothing(
    server, monkeypatch, trained, tmp_path
):
    remote = server.remote_of(tmp_path)
    remote.use(monkeypatch)
    for command in remote.commands():
        trained.dvc(*command)
    assert try_remote(trained) == ""
    assert f"{len(MODELS)} files pushed" in trained.dvc("push")
    other = clone_with(remote, trained, tmp_path / "other")
    assert stages_run(other.dvc("repro", "--pull")) == set()
    assert models(other) == models(trained)


def test_the_page_has_the_commands_that_are_typed_here(server):
    kind = server.remote.url.split(":")[0]
    fences = [body for _, _, body in FENCE.findall((ROOT / "CONTRIBUTING.md").read_text())]
    [fence] = [body for body in fences if f"add --default --local team {kind}://" in body]
    lines = [shlex.split(line, comments=True) for line in fence.splitlines()]
    on_the_page = [words[1:-1] for words in lines if words[0] == "dvc"]
    assert on_the_page == [words[:-1] for words in server.remote.commands()]
    exported = [word for words in lines if words[0] == "export" for word in words[1:]]
    assert {word.partition("=")[0] for word in exported} == server.remote.environment.keys()


def test_two_clones_that_push_at_once_both_land(server, monkeypatch, trained, tmp_path):
    """Each pushes a model of its own, and one that the other pushes too."""
    remote = server.remote_of(tmp_path)
    remote.use(monkeypatch)
    third = clone_with(remote, trained, tmp_path / "third")
    remote.write(trained.path / ".dvc" / "config.local")
    shutil.copytree(trained.path, tmp_path / "second")
    second, (base, pruned, onnx) = Repository(tmp_path / "second"), MODELS
    pushes = [
        threading.Thread(target=trained.dvc, args=("push", base, pruned)),
        threading.Thread(target=second.dvc, args=("push", pruned, onnx)),
    ]
    for push in pushes:
        push.start()
    for push in pushes:
        push.join()
    third.dvc("pull")
    assert models(third) == models(trained)


def test_a_server_that_goes_away_in_the_middle_costs_nothing_but_a_second_try(
    server, monkeypatch, trained, tmp_path
):
    remote = server.remote_of(tmp_path)
    remote.use(monkeypatch)
    before = models(trained)
    remote.write(trained.path / ".dvc" / "config.local")
    other = clone_with(remote, trained, tmp_path / "other")
    for repository, command in ((trained, "push"), (other, "pull")):
        server.link.bytes_left = 1.5 * MODEL_BYTES
        repository.dvc(command, succeed=False)
        assert server.link.closed.is_set()
        server.link.mend()
        repository.dvc(command)
    assert models(trained) == models(other) == before


@pytest.mark.parametrize("server", ["ssh"], indirect=True)
def test_a_server_that_falls_silent_ends_a_push_where_ssh_sends_signs_of_life(
    server, monkeypatch, trained, tmp_path, home
):
    """Else DVC waits for ever."""
    remote = server.remote_of(tmp_path)
    remote.write(trained.path / ".dvc" / "config.local")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("ServerAliveInterval 1\n")
    server.link.falls_silent, server.link.bytes_left = True, 1.5 * MODEL_BYTES
    trained.dvc("push", succeed=False)
    server.link.cut()
    server.link.mend()
    assert "files pushed" in trained.dvc("push")


@pytest.mark.parametrize("case", range(4))
def test_a_host_that_may_not_use_the_remote_says_so_in_one_line(server, trained, monkeypatch, case):
    what, (remote, reason) = list(server.refused.items())[case]
    remote.use(monkeypatch)
    remote.write(trained.path / ".dvc" / "config.local")
    line = try_remote(trained)
    assert line.startswith(f"error: the DVC remote 'team' ({remote.url}) cannot be used: "), what
    assert re.search(reason, line), what
    assert line.endswith("(CONTRIBUTING.md, The remote)\n")


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("", "there is no default DVC remote; choose one with 'dvc remote default NAME'"),
        ("[core]\nremote = team\n", "no DVC remote 'team'; add it with 'dvc remote add --global"),
        (
            "[core]\nremote = team\n['remote \"team\"']\nurl = oss://bucket/edge\n",
            "(oss://bucket/edge) cannot be used: oss is supported, but requires 'dvc-oss' to be "
            "installed; run 'python -m pip install dvc-oss'",
        ),
    ],
)
def test_a_remote_that_is_not_configured_or_not_installed_is_told_in_one_line(
    trained, config, line
):
    (trained.path / ".dvc" / "config.local").write_text(config)
    assert line in try_remote(trained)


def test_a_server_that_is_not_there_is_named_in_one_line(server, monkeypatch, trained):
    server.remote.use(monkeypatch)
    server.remote.write(trained.path / ".dvc" / "config.local")
    server.link.cut()
    line = try_remote(trained)
    server.link.mend()
    assert re.search(rf"\({server.remote.url}\) cannot be used: .*{server.link.port}", line)


def test_a_model_that_cannot_be_fetched_for_a_comparison_names_the_remote(
    server, trained, monkeypatch, tmp_path
):
    remote, reason = server.refused["a wrong key"]
    remote.use(monkeypatch)
    other = clone_with(remote, trained, tmp_path / "other")
    with Repo(str(other.path)) as repository, pytest.raises(InputError, match=reason) as error:
        pull(repository, models(trained)[0])
    assert f"and the DVC remote 'team' ({remote.url}) cannot be used" in str(error.value)


@pytest.fixture(scope="module")
def person(tmp_path_factory) -> Repository:
    """Of the stub; hosts know the remote by its name."""
    return make_repository(tmp_path_factory.mktemp("study"), amounts=[0.3, 0.6])


def test_a_host_without_credentials_trains_nothing(server, person, monkeypatch, home):
    remote, reason = next(iter(server.refused.values()))
    remote.use(monkeypatch)
    remote.write(home / ".config" / "dvc" / "config")
    words = ("--name", "refused", "--target", "evaluate", "-S", "prune.amount=0.3")
    refused = point(person, *words, "--remote", "team")
    assert refused.returncode == 2
    assert stages_run(refused.stdout) == set()
    assert refused.stderr.count("\n") == 1
    assert reason in refused.stderr


def test_a_point_whose_remote_goes_away_is_kept_and_ends_when_it_is_back(
    server, monkeypatch, person, home, tmp_path
):
    """It is trained on one host and timed on another; they share the remote, and no cache."""
    remote, link, log = server.remote_of(tmp_path), server.link, tmp_path / "log"
    remote.use(monkeypatch)
    remote.write(home / ".config" / "dvc" / "config")
    name = server.remote.url.split(":")[0]
    common = ("--remote", "team", "-S", "prune.amount=0.3", "-S", "prune.seconds=2")
    train = ("--name", f"{name}-untimed", "--target", "evaluate", "--cache", str(tmp_path / "a"))
    time = ("--name", name, "--after", f"{name}-untimed", "--timed", "--cache", str(tmp_path / "b"))

    def cut_while_training() -> None:
        wait_for(lambda: log.exists() and "start prune" in log.read_text(), seconds=120)
        link.cut()

    cutting = threading.Thread(target=cut_while_training)
    cutting.start()
    failed = point(person, *common, *train, STUB_LOG=str(log))
    cutting.join()
    link.mend()
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert f"({remote.url}) cannot be used: " in failed.stderr
    assert re.search("what is done stays in .*: the same command on this host", failed.stderr)
    trained = point(person, *common, *train)
    assert trained.returncode == 0, trained.stderr
    assert "prune" not in stages_run(trained.stdout)
    timed = point(person, *common, *time)
    assert timed.returncode == 0, timed.stderr
    assert stages_run(timed.stdout) == {"benchmark", "compare"}
    assert name in experiments(person)

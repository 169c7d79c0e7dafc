"""A repository with the names and files of the pipeline, whose stages take no time: for studies."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.pipelines import ROOT, Repository

SCRIPT = """
import csv, json, os, sys, time
from pathlib import Path
import yaml

stage = sys.argv[1]
params = yaml.safe_load(open("params.yaml"))["prune"]

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)

def log(event):
    if "STUB_LOG" in os.environ:
        with open(os.environ["STUB_LOG"], "a") as file:
            host = os.environ.get("STUB_HOST", "one")
            file.write(f"{event} {stage} {params['amount']} {host}\\n")

log("start")
if stage in ("teach", "train"):
    write(f"models/{stage}", "base")
elif stage == "prune":
    if params["amount"] == 0.66:
        sys.exit("error: amount 0.66 breaks the stub")
    if params["amount"] > 0.9:
        print("error: amount is more than 0.9", file=sys.stderr)
        sys.exit(2)
    time.sleep(params["seconds"])
    while os.path.exists(os.environ.get("STUB_HOLD", "")):
        time.sleep(0.1)
    write("models/model_pruned.pt", f"{params['amount']} of seed {params['seed']}")
    accuracy = 95 - 10 * params["amount"] ** 2 - params["seed"] * (params["amount"] > 0.4)
    report = {"validation_accuracy": {"fine_tuned": round(accuracy, 2)},
              "predicted_latency_ms": {"after": round(2 - 2 * params["amount"], 2)}}
    write("metrics/prune.json", json.dumps(report))
elif stage == "evaluate":
    accuracy = 90 - params["amount"] * (sys.argv[2] == "pruned")
    write(f"metrics/evaluate/{sys.argv[2]}.json",
          json.dumps({"accuracy": accuracy, "images": 10000}))
elif stage == "benchmark":
    time.sleep(params["seconds"] / 10)
    cpu = os.environ.get("STUB_CPU", "stub")
    block = {"cpu": cpu, "threads": 1, "opencv": "5", "load_average_at_start": 0.1}
    write("metrics/benchmark.json", json.dumps({"environment": block}))
elif stage == "compare":
    accuracy = json.loads(Path("metrics/evaluate/pruned.json").read_text())["accuracy"]
    head = ("variant,accuracy,size_bytes,params,nonzero_params,macs,latency_ms_median,"
            "ratio_to_base,onnxruntime_latency_ms_median,onnxruntime_ratio_to_base")
    rows = [f"{name},{accuracy},100,25,25,1000,2.0,0.5,1.0,0.5"
            for name in ("base", "pruned", "pruned_int8")]
    write("plots/tradeoff.csv", "\\n".join([head, *rows]) + "\\n")
log("end")
"""

# Stands for stages/tools/cluster/host.py, without torch.
HOST = """
import json, os
print(json.dumps({"host": os.environ.get("STUB_HOST", "one"), "device": "cpu", "machine": "stub",
                  "precision": os.environ.get("STUB_PRECISION", "float32"), "torch": "none"}))
"""

PACKAGES = (
    "stages", "stages/common", "stages/common/core", "stages/common/revisions", "stages/tools",
    "stages/tools/cluster",
)  # fmt: skip
FOR_REMOTES = (
    "stages/common/core/cli.py",
    "stages/common/revisions/remote.py",
    "stages/tools/cluster/remote.py",
)


def stage(name: str, deps: list[str], cached: list[str], files: list[str], keys: list[str]) -> dict:
    return {
        "cmd": f"python stub.py {name}",
        "deps": ["stub.py", *deps],
        "params": keys,
        "outs": [*cached, *({path: {"cache": False}} for path in files)],
    }


RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
KEYS = ["prune.amount", "prune.seed", "prune.seconds"]
STAGES = {
    "teach": stage("teach", [], ["models/teach"], [], ["train"]),
    "train": stage("train", ["models/teach"], ["models/train"], [], ["train"]),
    "prune": stage(
        "prune", ["models/train"], ["models/model_pruned.pt"], ["metrics/prune.json"], KEYS
    ),
    "evaluate": {
        "foreach": {"base": "models/train", "pruned": "models/model_pruned.pt"},
        "do": stage("evaluate ${key}", ["${item}"], [], ["metrics/evaluate/${key}.json"], KEYS),
    },
    "benchmark": stage(
        "benchmark", ["models/model_pruned.pt"], [], ["metrics/benchmark.json"], KEYS
    ),
    "compare": stage(
        "compare",
        ["metrics/evaluate", "metrics/benchmark.json"],
        [],
        ["plots/tradeoff.csv"],
        KEYS,
    ),
}

SEARCH = {
    "trials": 5,
    "seed": 0,
    "cost": "predicted_latency_ms",
    "space": {
        "prune": {
            "amount": {"low": 0.45, "high": 0.95, "step": 0.1},  # 0.95 is refused
            "seed": [0, 1],
            "target": ["latency"],
        },
    },
}  # fmt: skip


def params(amounts: list[float], seconds: float) -> dict:
    other = {"prune": {"seed": [0, 1]}}
    return {
        "network": {"factory": "chain"},
        "recipe": {"precision": "auto"},
        "train": {"epochs": 1},
        "prune": {
            "amount": 0.5, "seed": 0, "seconds": seconds, "device": "cpu", "epochs": 1,
            "target": "macs", "budget_ms": 0,
        },
        "studies": {
            "sweep": {"prune": {"method": ["structured"], "amount": amounts}},
            "seeds": other, "tiny": other, "precision": other, "pareto": SEARCH,
        },
        "data": {"validation_images": 2500},
    }  # fmt: skip


def make_repository(folder: Path, amounts: list[float], seconds: float = 0) -> Repository:
    """The repository of a person, whose first run is committed and pushed to ``folder``/origin."""
    path = folder / "person"
    for package in PACKAGES:
        (path / package).mkdir(parents=True)
        (path / package / "__init__.py").touch()
    for name in FOR_REMOTES:
        shutil.copy(ROOT / name, path / name)
    (path / "stages" / "tools" / "cluster" / "host.py").write_text(HOST)
    (path / "stub.py").write_text(SCRIPT)
    content = params(amounts, seconds)
    content["prune"]["method"] = "structured"
    (path / "params.yaml").write_text(yaml.safe_dump(content))
    (path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (path / ".gitignore").write_text("/models\n/build\n")
    repository = Repository(path)
    repository.run("git", "init", "--quiet", "--initial-branch", "main")
    repository.run("git", "config", "user.name", "Test")
    repository.run("git", "config", "user.email", "test@example.com")
    repository.dvc("init", "--quiet")
    repository.dvc("cache", "dir", "--local", str(folder / "cache"))
    repository.dvc("config", "core.autostage", "false")
    repository.dvc("repro", "--quiet")
    repository.commit("base")
    repository.run("git", "init", "--quiet", "--bare", str(folder / "origin"))
    repository.run("git", "remote", "add", "origin", str(folder / "origin"))
    repository.run("git", "push", "--quiet", "origin", "main")
    return repository


def head(repository: Repository) -> str:
    return repository.run("git", "rev-parse", "HEAD").strip()


def experiments(repository: Repository) -> dict[str, str]:
    """Name and message of the commit's experiments at the origin."""
    commit = head(repository)
    folder = f"refs/exps/{commit[:2]}/{commit[2:]}/"
    repository.run("git", "fetch", "--quiet", "--prune", "origin", f"+{folder}*:{folder}*")
    names = repository.run("git", "for-each-ref", "--format=%(refname:lstrip=4)", folder)
    return {
        name: repository.run("git", "log", "-1", "--format=%B", f"{folder}{name}")
        for name in names.split()
    }


def command(repository: Repository, *words: str) -> list[str]:
    """The command of one task."""
    folder = repository.path.parent
    return [
        sys.executable, str(ROOT / "stages" / "tools" / "cluster" / "point.py"), "--origin",
        str(folder / "origin"), "--commit", head(repository), "--scratch", str(folder / "scratch"),
        *words,
    ]  # fmt: skip


def point(repository: Repository, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the command of one task in a folder that is no repository."""
    return subprocess.run(
        command(repository, *words), cwd=repository.path.parent, timeout=300,
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip


@contextlib.contextmanager
def local_cluster(**environment: str) -> Iterator[Any]:
    """A Ray cluster of this machine, without hosts that run tasks; nothing is left of it."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-")  # a short path, as Ray puts sockets into it
    before = dict(os.environ)
    os.environ.update(environment, **RAY, RAY_TMPDIR=folder)
    try:
        head = {"num_cpus": 0, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def add_host(cluster: Any, name: str, resources: dict | None = None, **environment: str) -> Any:
    return cluster.add_node(
        num_cpus=1, object_store_memory=80_000_000, resources=resources or {},
        env_vars={"STUB_HOST": name, **environment},
    )  # fmt: skip


def start_study(person: Repository, cluster: Any, **environment: str) -> subprocess.Popen:
    """The command of `make study`, in the person's repository; serial where ``cluster`` is None."""
    words = [
        sys.executable, str(ROOT / "stages" / "tools" / "study.py"), "--params", "params.yaml",
        "--name", "sweep", "--csv", "build/s.csv", "--table", "build/s.md", "--picture",
        "build/s.png",
    ]  # fmt: skip
    if cluster is not None:
        scratch = str(person.path.parent / "scratch")
        words += ["--cluster", cluster.address, "--hosts", "build/hosts.csv", "--scratch", scratch]
    return subprocess.Popen(
        words, cwd=person.path, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def running(word: str) -> list[str]:
    """Processes whose command or folder has the word in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(errors="replace")
            if word in words or word in os.readlink(process / "cwd"):
                found.append(words)
        except OSError:
            continue  # it has ended
    return found

"""A repository for the tests: tiny params, and the commands that a user types in it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from stages.common.core.params import read_params

ROOT = Path(__file__).parent.parent
TINY = {
    "data": {"train_images": 400, "validation_images": 100},
    "prepare": {"sources": ["local"]},  # a test that runs prepare by mistake must fetch nothing
    "train": {
        "widths": [[16, 16], [32, 32], [32, 32]],
        "epochs": 2,
        "batch_size": 50,
        "device": "cpu",
    },
    "prune": {
        "amount": 0.5,
        "round_to": 4,
        "steps": 1,
        "epochs": 1,
        "batch_size": 50,
        "learning_rate": 0.05,
        "device": "cpu",
    },
    "teach": {
        "widths": [[16, 16], [32, 32]],
        "epochs": 1,
        "batch_size": 50,
        "views": 2,
        "networks": 2,
        "device": "cpu",
    },
    "export": {"check_images": 50},
    "quantize": {"calibration_images": 100, "max_accuracy_drop": 100},
    "tflite": {"calibration_images": 100, "check_images": 50, "min_agreement": 0},
    "npu": {"targets": ["ethos-u55-256 Ethos_U55_High_End_Embedded Shared_Sram"]},
    "benchmark": {"rounds": 10, "calls": 3, "warmup": 2, "bootstrap_samples": 100},
    "controls": {"seeds": [0, 1], "epochs": 1},
    "studies": {"seeds": {"prune": {"seed": [0, 1]}}},
}
FIRST_OUTPUT = "build/first_output"  # what the first `dvc repro` printed; git ignores it
ALL_STAGES = {
    "validate_params",
    "prepare",
    "train",
    "teach",
    "latency_profile",
    "memory_model",
    "prune",
    "export@base",
    "export@pruned",
    "quantize@base",
    "quantize@pruned",
    "evaluate@base",
    "evaluate@pruned",
    "evaluate@base_int8",
    "evaluate@pruned_int8",
    "tflite@base",
    "tflite@pruned",
    "evaluate_tflite@base",
    "evaluate_tflite@pruned",
    "npu",
    "benchmark",
    "compare",
}


class Repository:
    """A DVC repository of a test, and the commands that a user types in it."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, *command: str, succeed: bool = True) -> str:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        result = subprocess.run(
            command, cwd=self.path, env=environment, capture_output=True, text=True, timeout=600
        )
        output = result.stdout + result.stderr
        assert (result.returncode == 0) == succeed, output
        return output

    def dvc(self, *arguments: str, succeed: bool = True) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, succeed=succeed)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def json(self, name: str) -> dict:
        return json.loads((self.path / name).read_text())

    def clone(self, path: Path) -> "Repository":
        """A clone as another person gets it: the committed files, and an empty DVC cache."""
        person = ["--config", "user.name=Test", "--config", "user.email=test@example.com"]
        self.run("git", "clone", "--quiet", *person, ".", str(path))
        return Repository(path)


def stages_run(output: str) -> set[str]:
    lines = [line for line in output.splitlines() if line.startswith("Running stage '")]
    return {line.split("'")[1] for line in lines}


def copy_working_tree(target: Path) -> None:
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        # What the committed run made is left out: here everything is made anew.
        if (ROOT / name).is_file() and not re.search(r"dvc\.lock$|^\.dvc/remote/", name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def set_params(path: Path, changes: dict) -> None:
    params = read_params(path)
    for section, values in changes.items():
        params[section].update(values)
    path.write_text(yaml.safe_dump(params))

"""A folder for a computer with Linux, a Raspberry Pi or a Jetson: model, program, self-test."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from deploy.compare_outputs import margin
from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import image_shape, load_model
from stages.common.inference.runtimes.expected import sample_pictures

DEPLOY = Path("deploy")
PROGRAMS = ("classify.py", "compare_outputs.py", "requirements.txt")
SAMPLES, ANSWERS = "samples", "expected.jsonl"
KEPT = ("source", "class", "confidence", "logits")  # of an answer: milliseconds are this machine's
RUNTIME = "opencv_"  # then the engine

README = """# {name}, for a Raspberry Pi, Jetson or PC

It needs a 64-bit system with Python 3.10 or newer, numpy and OpenCV 5. `MODEL_CARD.md` says what
the model is and how good, `LICENSE` what you may do with it.

```
sha256sum --check SHA256SUMS
python3 -m venv env && env/bin/pip install -r requirements.txt
env/bin/python classify.py {file} cat.jpg
```

Cameras, videos, JSON: `env/bin/python classify.py --help`. In Python, beside your program:
`from classify import Classifier`.

Does it compute the same here? `expected.jsonl` has the answers of the machine that packed this to
{count} synthetic pictures, in OpenCV's engine {engine}; the closest decision is {margin:.2g} wide.

```
env/bin/python classify.py {file} samples --engine {engine} --json > here.jsonl
env/bin/python compare_outputs.py expected.jsonl here.jsonl
```
"""


def write_pi_bundle(model: Path, evaluated_in: str, name: str, folder: Path) -> None:
    """Programs, sample pictures with their answers, and a page, beside the model in the folder.

    ``evaluated_in``: a runtime that is right for the model, such as "opencv_new". Raises
    ``InputError`` where that is not OpenCV.
    """
    if not evaluated_in.startswith(RUNTIME):
        raise InputError(
            f"{model.name}: OpenCV is wrong for it ({evaluated_in} is right), and classify.py has "
            "no other runtime; choose another MODEL"
        )
    engine = evaluated_in.removeprefix(RUNTIME)
    for program in PROGRAMS:
        shutil.copyfile(DEPLOY / program, folder / program)
    write_samples(model, folder / SAMPLES)
    answers = answers_of(model, engine, folder)
    (folder / ANSWERS).write_text("".join(json.dumps(each) + "\n" for each in answers))
    page = README.format(
        name=name,
        file=model.name,
        engine=engine,
        count=len(answers),
        margin=min(margin(each["logits"]) for each in answers),
    )
    (folder / "README.md").write_text(page)


def write_samples(model: Path, folder: Path) -> None:
    """As PNG files, at the size that the model takes."""
    folder.mkdir()
    pictures = sample_pictures(*image_shape(load_model(model), model)[1:])
    for number, picture in enumerate(pictures):
        bgr = np.ascontiguousarray(picture[::-1].transpose(1, 2, 0))
        _, encoded = cv2.imencode(".png", bgr)
        (folder / f"sample_{number}.png").write_bytes(encoded.tobytes())


def answers_of(model: Path, engine: str, folder: Path) -> list[dict]:
    """The answers of the folder's own program to its samples."""
    command = [sys.executable, "classify.py", model.name, SAMPLES, "--engine", engine, "--json"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if found.returncode:
        reason = found.stderr.strip().splitlines()[-1]
        raise InputError(f"classify.py cannot run {model.name}: {reason}")
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    return [{key: answer[key] for key in KEPT} for answer in answers]

"""Measure how models hold on corrupted test images, and whether their confidence is right.

An evaluation, in the runtime of ``evaluate``: nothing is chosen by its result. All models see the
same corrupted images, so that what compression costs is counted image by image.

Reads   ONNX files, the first --model being the base; the JSONs of their checks (which runtimes are
        right); the test images
Writes  a JSON: of each model its accuracy, mean confidence and expected calibration error on every
        kind of images, all in percent, and its change of accuracy beside the base and, of an INT8
        model, beside its FP32 one, in points with a 95 % interval
Params  robustness.*, evaluate.*  (see RobustnessParams, EvaluateParams)
Raises  InputError when a model is missing or no runtime is right for it, when a name is given
        twice, for a check of no model
"""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.card.corrupted_images.confidence import calibration_error, confidence_of
from stages.card.corrupted_images.corruptions import corrupted, corruptions
from stages.card.params import RobustnessParams
from stages.common.core.accuracy import accuracy, decimals_of, percent_text
from stages.common.core.cli import named_path, paths_by_name, run
from stages.common.core.files import write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_test_images
from stages.common.inference.params import EvaluateParams
from stages.common.inference.runtimes.onnx_files import open_right, read_wrong
from stages.common.inference.sessions import Session, predict
from stages.common.measuring.exact_tests import discordant, paired_change
from stages.common.measuring.int8_or_fp32 import fp32_name

CLEAN = "clean"  # the kind of the images as they are


@dataclass(frozen=True)
class Answers:
    """A model's predictions (N,) of one kind of images, and its confidence (N,) in them."""

    predictions: np.ndarray
    confidence: np.ndarray


def answers_by_kind(
    sessions: dict[str, Session], images: Images, params: RobustnessParams, batch_size: int
) -> dict[str, dict[str, Answers]]:
    """By model and kind of images; prints a line for each kind."""
    found: dict[str, dict[str, Answers]] = {name: {} for name in sessions}
    for kind, corrupt in [(CLEAN, None), *corruptions(params).items()]:
        pixels = images.pixels if corrupt is None else corrupted(images.pixels, corrupt)
        for name, session in sessions.items():
            logits = predict(session, pixels, batch_size)
            found[name][kind] = Answers(logits.argmax(axis=1), confidence_of(logits))
        now = {name: answers[kind] for name, answers in found.items()}
        print(f"{kind}: {accuracies_text(now, images)}", flush=True)
    return found


def accuracies_text(answers: dict[str, Answers], images: Images) -> str:
    """ "base 94.23 %, pruned 93.05 %"."""
    return ", ".join(
        f"{name} {percent_text(accuracy(each.predictions, images.labels), len(images))}"
        for name, each in answers.items()
    )


def block_of(answers: dict[str, Answers], labels: np.ndarray, bins: int) -> dict:
    """In percent, by kind of images."""
    decimals = decimals_of(len(labels))
    errors = {
        kind: calibration_error(each.confidence, each.predictions == labels, bins)
        for kind, each in answers.items()
    }
    return {
        "accuracy": {
            kind: round(accuracy(each.predictions, labels), decimals)
            for kind, each in answers.items()
        },
        "confidence": {
            kind: round(100 * float(each.confidence.mean()), decimals)
            for kind, each in answers.items()
        },
        "calibration_error": {kind: round(error, decimals) for kind, error in errors.items()},
    }


def references(name: str, names: list[str]) -> list[str]:
    """The models to compare it with: for an INT8 one its FP32 model, then the base, the first."""
    found = dict.fromkeys([fp32_name(name, names), names[0]])
    return [each for each in found if each not in (None, name)]


def changes_of(name: str, found: dict[str, dict[str, Answers]], labels: np.ndarray) -> dict:
    """By reference and kind of images: points, and their interval."""
    return {
        reference: {
            kind: change_of(found[reference][kind], answers, labels)
            for kind, answers in found[name].items()
        }
        for reference in references(name, list(found))
    }


def change_of(before: Answers, after: Answers, labels: np.ndarray) -> dict:
    only = discordant(before.predictions, after.predictions, labels)
    points = paired_change(*only, images=len(labels))
    return {
        key: round(value, 2) + 0.0  # no -0.0
        for key, value in zip(("points", "low", "high"), points, strict=True)
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--model", required=True, action="append", type=named_path)
    parser.add_argument("--check", default=[], action="append", type=named_path)
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(RobustnessParams, args.params, section="robustness")
    evaluate = load_params(EvaluateParams, args.params, section="evaluate")
    paths = paths_by_name("--model", args.model)
    checks = paths_by_name("--check", args.check, known=paths)
    wrong = {name: read_wrong(Path(path)) for name, path in checks.items()}
    opened = {
        name: open_right(Path(path), evaluate.engine, wrong.get(name, set()))
        for name, path in paths.items()
    }
    images = load_test_images(args.data)
    sessions = {name: session for name, (_, session) in opened.items()}
    found = answers_by_kind(sessions, images, params, evaluate.batch_size)
    models = {
        name: {
            "evaluated_in": opened[name][0],
            **block_of(answers, images.labels, params.calibration_bins),
            "changes": changes_of(name, found, images.labels),
        }
        for name, answers in found.items()
    }
    about = {
        "images": len(images),
        "image_size": images.shape[1:],
        "digest": images.digest(),
        "conditions": dataclasses.asdict(params),
    }
    write_json(args.metrics, {**about, "models": models})


if __name__ == "__main__":
    run(main)

"""Compare the models of two git revisions on this machine: faster or slower, better or worse.

Reads   dvc.yaml and dvc.lock of both revisions and the ONNX files they name, from the DVC cache
        or remote; the test images (their accuracy is compared; nothing is chosen on them)
Writes  a JSON and a Markdown, where asked for; prints the Markdown
Params  compare_revisions.*  (see common/revisions/changes.py), evaluate.*, data.source
Raises  InputError for an unknown revision, a model or test images that cannot be had, models for
        images of another size or other classes, more threads than cores; the exit code is then 2
Exits   1 when HEAD exceeds a tolerance (compare_revisions.max_*), else 0

Both revisions are run here, in one process. In each of several blocks both files are loaded anew,
in an order drawn for it, and timed in interleaved rounds: where a model comes to lie in memory
changes its speed for as long as it is loaded, and two loads of one file may differ by it. A file
that is the same in both is not run, nor is an engine that either revision's check found wrong.

    python -m stages.tools.compare_revisions main               # the working tree against main
    python -m stages.tools.compare_revisions v1 my-experiment   # a DVC experiment is a revision too
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.cli import run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_test_images
from stages.common.data.params import DataParams
from stages.common.inference.onnx_graph import cost_of, load_model
from stages.common.inference.params import EvaluateParams
from stages.common.inference.sessions import predict
from stages.common.measuring.interleaved_timing import check_machine
from stages.common.measuring.machine import describe_machine
from stages.common.revisions.changes import (
    COMPARED,
    CompareRevisionsParams,
    Comparison,
    Footprint,
    exceeded,
    judge_accuracy,
)
from stages.common.revisions.changes_table import markdown, sentence
from stages.common.revisions.model_files import Revision, open_repository, read_revision
from stages.common.revisions.paired_timing import compare_latency, load
from stages.common.revisions.pairs import Pair, fetch_pairs, require_same_images, right_engines


def compare_all(
    args: argparse.Namespace, params: CompareRevisionsParams, evaluation: EvaluateParams
) -> tuple[list[Comparison], tuple[Revision, Revision]]:
    """Every variant of either revision, BASE's first."""
    with open_repository(Path()) as repository, tempfile.TemporaryDirectory() as folder:
        base, head = (read_revision(repository, name) for name in (args.base, args.head))
        pairs = fetch_pairs(repository, base, head, Path(folder))
        different = [pair for pair in pairs if pair.status == COMPARED]
        images = load_test_images(data_folder(args)) if different else None
        for pair in different:
            assert images is not None
            require_same_images(pair, base, head, images)
        return [compare(pair, images, params, evaluation) for pair in pairs], (base, head)


def data_folder(args: argparse.Namespace) -> Path:
    """--data, or what ``prepare`` fills in the working tree."""
    if args.data:
        return args.data
    return Path("data") / load_params(DataParams, args.params, section="data").source


def compare(
    pair: Pair,
    images: Images | None,
    params: CompareRevisionsParams,
    evaluation: EvaluateParams,
) -> Comparison:
    """Run a variant's two files, unless one is missing or they are the same."""
    footprints = Comparison(
        variant=pair.variant,
        status=pair.status,
        base=footprint_of(pair.base),
        head=footprint_of(pair.head),
    )
    if pair.base is None or pair.head is None or images is None or pair.status != COMPARED:
        return footprints
    engines = right_engines(pair, evaluation.engine)
    if not engines:
        return footprints
    base, head = (
        predictions_of(path, images, engines, evaluation) for path in (pair.base, pair.head)
    )
    return dataclasses.replace(
        footprints,
        accuracy=judge_accuracy(base, head, images.labels, images.classes),
        latency=compare_latency(pair.base, pair.head, images.shape, engines, params),
        engines=engines,
    )


def footprint_of(path: Path | None) -> Footprint | None:
    if path is None:
        return None
    return Footprint(size_bytes=path.stat().st_size, macs=cost_of(load_model(path)).macs)


def predictions_of(
    path: Path, images: Images, engines: dict[str, str], params: EvaluateParams
) -> np.ndarray:
    """(N,) class indices in the first of the runtimes: OpenCV, as in the evaluate stage."""
    runtime, engine = next(iter(engines.items()))
    session = load(runtime, path, engine, threads=cv2.getNumberOfCPUs())
    return predict(session, images, params.batch_size).argmax(axis=1)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", help="a git revision or DVC experiment")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="another; else the working tree")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, help="folder of the images; else data.source's")
    parser.add_argument("--json", type=Path, help="JSON to write")
    parser.add_argument("--markdown", type=Path, help="Markdown to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(CompareRevisionsParams, args.params, section="compare_revisions")
    evaluation = load_params(EvaluateParams, args.params, section="evaluate")
    load = check_machine(params.threads, "compare_revisions.threads")
    comparisons, revisions = compare_all(args, params, evaluation)
    violations = [phrase for each in comparisons for phrase in exceeded(each, params)]
    summary = sentence(comparisons, violations)
    environment = {
        **describe_machine(),
        "engine": evaluation.engine,
        "load_average_at_start": load,
    }
    report = markdown(summary, comparisons, revisions, environment, params)
    if args.json:
        content = as_json(summary, violations, comparisons, revisions, environment, params)
        write_json(args.json, content)
    if args.markdown:
        write_text(args.markdown, report)
    print(report)
    if violations:
        sys.exit(1)


def as_json(
    summary: str,
    violations: list[str],
    comparisons: list[Comparison],
    revisions: tuple[Revision, Revision],
    environment: dict,
    params: CompareRevisionsParams,
) -> dict:
    base, head = ({"name": each.name, "commit": each.commit} for each in revisions)
    return {
        "summary": summary,
        "tolerance_exceeded": bool(violations),
        "exceeded": violations,
        "base": base,
        "head": head,
        "environment": environment,
        "params": dataclasses.asdict(params),
        "variants": {each.variant: each.as_json() for each in comparisons},
    }


if __name__ == "__main__":
    run(main)

"""Compare the models of two git revisions on this machine: faster or slower, better or worse.

Reads   dvc.yaml and dvc.lock of both revisions and the ONNX files they name, from the DVC cache
        or remote; the test images (their accuracy is compared; nothing is chosen on them)
Writes  a JSON and a Markdown, where asked for; prints the Markdown
Params  verdict.*  (see VerdictParams), evaluate.*
Raises  InputError for an unknown revision, a model or test images that cannot be had, more threads
        than cores; the exit code is then 2
Exits   1 when HEAD exceeds a tolerance of verdict.max_*  (see common/revisions/changes.py), else 0

Both revisions are run here, in one process. In each of several blocks both files are loaded anew,
in an order drawn for it, and timed in interleaved rounds: where a model comes to lie in memory
changes its speed for as long as it is loaded, and two loads of one file may differ by it. A file
that is the same in both is not run.

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
from dvc.repo import Repo
from tqdm import tqdm

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.data.cifar10 import IMAGE_SHAPE, Images, load_test_images
from stages.common.inference.onnx_graph import cost_of, load_model
from stages.common.inference.sessions import OnnxRuntimeSession, OpenCVSession, Session, predict
from stages.common.measuring.interleaved_timing import (
    load_average,
    require_cores,
    time_interleaved,
    warn_if_busy,
)
from stages.common.measuring.machine import describe_machine
from stages.common.revisions.changes import (
    COMPARED,
    ONLY_IN_BASE,
    ONLY_IN_HEAD,
    RUNTIMES,
    SAME_FILE,
    Comparison,
    Footprint,
    LatencyChange,
    VerdictParams,
    exceeded,
    judge_accuracy,
    judge_latency,
)
from stages.common.revisions.changes_table import markdown, sentence
from stages.common.revisions.model_files import Revision, fetch, open_repository, read_revision
from stages.evaluate import EvaluateParams

# ---------------------------------------------------------------------------------------- files

Pair = tuple[Path | None, Path | None]  # one variant's file in BASE and HEAD; None: it has none


def fetch_pairs(repository: Repo, base: Revision, head: Revision, folder: Path) -> dict[str, Pair]:
    """The files of every variant of either revision, in ``folder``."""
    if not base.models.keys() & head.models.keys():
        raise InputError(
            f"{base.name} and {head.name} have no variant in common ({', '.join(base.models)}; "
            f"{', '.join(head.models)}); compare other revisions"
        )
    return {
        variant: tuple(
            fetch(repository, revision, variant, folder / side)
            if variant in revision.models
            else None
            for side, revision in (("base", base), ("head", head))
        )
        for variant in base.models | head.models
    }


def status_of(variant: str, base: Revision, head: Revision) -> str:
    if variant not in head.models:
        return ONLY_IN_BASE
    if variant not in base.models:
        return ONLY_IN_HEAD
    same = base.models[variant].md5 == head.models[variant].md5
    return SAME_FILE if same else COMPARED


def footprint_of(path: Path | None) -> Footprint | None:
    if path is None:
        return None
    return Footprint(size_bytes=path.stat().st_size, macs=cost_of(load_model(path)).macs)


# ------------------------------------------------------------------------------------ measurement


def predictions_of(path: Path, images: Images, params: EvaluateParams) -> np.ndarray:
    """(N,) class indices, as the evaluate stage has them."""
    session = OpenCVSession(path, engine=params.engine, threads=cv2.getNumberOfCPUs())
    return predict(session, images, params.batch_size).argmax(axis=1)


def time_blocks(files: Pair, engine: str, params: VerdictParams) -> np.ndarray:
    """(blocks, rounds, runtimes, 2) milliseconds of a call; the last axis is BASE, HEAD.

    Everything that could tell the two apart but the files is drawn anew in each block: who is
    loaded first, and who is timed first in a round.
    """
    rng = np.random.default_rng(params.seed)
    blob = rng.integers(256, size=(1, *IMAGE_SHAPE)).astype(np.float32)
    contestants = [(runtime, path) for runtime in RUNTIMES for path in files]
    samples_ms = np.empty((params.blocks, params.rounds, len(contestants)))
    for block in tqdm(range(params.blocks), desc=files[1].stem, unit="block"):
        order = rng.permutation(len(contestants))
        sessions = [load(*contestants[index], engine, params.threads) for index in order]
        samples_ms[block][:, order] = time_interleaved(
            [lambda session=session: session.logits(blob) for session in sessions],
            rounds=params.rounds,
            warmup=params.warmup,
            seed=int(rng.integers(2**31)),
            progress=None,
        )
    return samples_ms.reshape(params.blocks, params.rounds, len(RUNTIMES), 2)


def load(runtime: str, path: Path, engine: str, threads: int) -> Session:
    if runtime == "opencv":
        return OpenCVSession(path, engine=engine, threads=threads)
    return OnnxRuntimeSession(path, threads=threads)


def compare_latency(files: Pair, engine: str, params: VerdictParams) -> dict[str, LatencyChange]:
    """By runtime."""
    samples_ms = time_blocks(files, engine, params)
    return {
        runtime: judge_latency(samples_ms[:, :, index, 0], samples_ms[:, :, index, 1], params)
        for index, runtime in enumerate(RUNTIMES)
    }


def compare(
    variant: str,
    status: str,
    files: Pair,
    images: Images | None,
    params: VerdictParams,
    evaluation: EvaluateParams,
) -> Comparison:
    """Run a variant's two files, unless one is missing or they are the same."""
    base, head = map(footprint_of, files)
    if status != COMPARED:
        return Comparison(variant=variant, status=status, base=base, head=head)
    predictions = [predictions_of(path, images, evaluation) for path in files]
    return Comparison(
        variant=variant,
        status=status,
        base=base,
        head=head,
        latency=compare_latency(files, evaluation.engine, params),
        accuracy=judge_accuracy(*predictions, images.labels),
    )


# ------------------------------------------------------------------------------------------ main


def compare_all(
    args: argparse.Namespace, params: VerdictParams, evaluation: EvaluateParams
) -> tuple[list[Comparison], tuple[Revision, Revision]]:
    """Every variant of either revision, BASE's first."""
    with open_repository(Path()) as repository, tempfile.TemporaryDirectory() as folder:
        base, head = (read_revision(repository, name) for name in (args.base, args.head))
        pairs = fetch_pairs(repository, base, head, Path(folder))
        statuses = {variant: status_of(variant, base, head) for variant in pairs}
        needed = COMPARED in statuses.values()
        images = load_test_images(args.data) if needed else None
        comparisons = [
            compare(variant, statuses[variant], files, images, params, evaluation)
            for variant, files in pairs.items()
        ]
    return comparisons, (base, head)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", help="a git revision or DVC experiment")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="another; else the working tree")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--json", type=Path, help="JSON to write")
    parser.add_argument("--markdown", type=Path, help="Markdown to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(VerdictParams, args.params, section="verdict")
    evaluation = load_params(EvaluateParams, args.params, section="evaluate")
    require_cores(params.threads, "verdict.threads")
    load_at_start = load_average()
    warn_if_busy(load_at_start, params.threads)
    comparisons, revisions = compare_all(args, params, evaluation)
    violations = [phrase for each in comparisons for phrase in exceeded(each, params)]
    verdict = sentence(comparisons, violations)
    environment = {
        **describe_machine(),
        "engine": evaluation.engine,
        "load_average_at_start": load_at_start,
    }
    report = markdown(verdict, comparisons, revisions, environment, params)
    if args.json:
        content = as_json(verdict, violations, comparisons, revisions, environment, params)
        write_json(args.json, content)
    if args.markdown:
        write_text(args.markdown, report)
    print(report)
    if violations:
        sys.exit(1)


def as_json(
    verdict: str,
    violations: list[str],
    comparisons: list[Comparison],
    revisions: tuple[Revision, Revision],
    environment: dict,
    params: VerdictParams,
) -> dict:
    base, head = ({"name": each.name, "commit": each.commit} for each in revisions)
    return {
        "verdict": verdict,
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

"""The family and its peers: what each scores, weighs and takes, from the JSONs of other stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError
from stages.common.core.files import read_metrics
from stages.common.measuring.int8_or_fp32 import INT8_SUFFIX
from stages.common.reporting.results import ENVIRONMENT, ENVIRONMENT_KEYS, require_keys
from stages.common.reporting.runtimes import RUNTIMES
from stages.family.peers import PEERS

REMEDY = "'git checkout metrics/family' (or 'make family', where it never ran)"


@dataclass(frozen=True)
class Row:
    """One network. Accuracies in percent of the test images, of peers as published.

    ``origin``: the path of a model of the family, the source of a peer's accuracies. Milliseconds
    are medians by runtime, of OpenCV in its fastest engine; None where the file is wrong there.
    """

    name: str
    fp32_accuracy: float
    accuracy: float  # as INT8
    size_bytes: int  # of the INT8 file
    fp32_ms: dict[str, float | None]
    int8_ms: dict[str, float | None]
    origin: str


@dataclass(frozen=True)
class Results:
    """``family`` and ``peers`` by bytes; ``environment``: the machine as the benchmark says it.

    ``elsewhere``: the files whose accuracy is of another runtime than OpenCV, and which;
    ``seeds``: the INT8 accuracies of models that were trained with further seeds, their own first.
    """

    family: list[Row]
    peers: list[Row]
    images: int
    elsewhere: dict[str, str]
    seeds: dict[str, list[float]]
    environment: dict


def read_results(evaluate: Path, quantize: Path, benchmark: Path, models: Path) -> Results:
    """``evaluate`` and ``quantize`` are folders with a JSON a network, ``models`` is the folder of
    the family's files.

    Raises ``InputError`` for a file or a key that is missing, and for models that were evaluated on
    different numbers of images.
    """
    blocks = read_metrics(benchmark, REMEDY)
    environment = value(blocks, ENVIRONMENT, where=benchmark)
    require_keys(environment, ENVIRONMENT_KEYS, f"{benchmark}: {ENVIRONMENT}", REMEDY)
    names = [name for name in blocks if name != ENVIRONMENT and not name.endswith(INT8_SUFFIX)]
    own = [name for name in names if name not in PEERS]
    others = [name for name in names if name in PEERS]
    if not own or not others:
        raise InputError(f"{benchmark} holds no family or no peers; run {REMEDY}")
    times = {name: milliseconds(blocks, name, benchmark) for name in names}
    files = [f"{name}{suffix}" for name in own for suffix in ("", INT8_SUFFIX)]
    scores = {file: read_score(evaluate / f"{file}.json") for file in files}
    return Results(
        family=by_bytes([family_row(name, scores, models, times[name]) for name in own]),
        peers=by_bytes([peer_row(name, quantize, times[name]) for name in others]),
        images=images_of(scores, evaluate),
        elsewhere={
            file: score["evaluated_in"] for file, score in scores.items() if "evaluated_in" in score
        },
        seeds=accuracies_by_seed(own, evaluate),
        environment=environment,
    )


def accuracies_by_seed(names: list[str], evaluate: Path) -> dict[str, list[float]]:
    """By model, where ``evaluate`` has NAME_seedN_int8.json of further trainings."""
    found = {}
    for name in names:
        others = sorted(evaluate.glob(f"{name}_seed*{INT8_SUFFIX}.json"))
        paths = [evaluate / f"{name}{INT8_SUFFIX}.json", *others]
        if others:
            found[name] = [value(read_metrics(each, REMEDY), "accuracy", each) for each in paths]
    return found


def read_score(path: Path) -> dict:
    """What the stage evaluate wrote of a file."""
    score = read_metrics(path, REMEDY)
    require_keys(score, ("accuracy", "images", "size_bytes"), path, REMEDY)
    return score


def images_of(scores: dict[str, dict], evaluate: Path) -> int:
    counts = {file: score["images"] for file, score in scores.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"{evaluate}: the models were evaluated on different images ({counts}); run 'dvc repro "
            "stages/family/dvc.yaml'"
        )
    return next(iter(counts.values()))


def family_row(name: str, scores: dict[str, dict], models: Path, times: dict[str, Any]) -> Row:
    """``scores``: by file; ``times``: the two fields of milliseconds."""
    int8 = scores[f"{name}{INT8_SUFFIX}"]
    return Row(
        name=name,
        fp32_accuracy=scores[name]["accuracy"],
        accuracy=int8["accuracy"],
        size_bytes=int8["size_bytes"],
        **times,
        origin=str(models / f"{name}{INT8_SUFFIX}.onnx"),
    )


def peer_row(name: str, quantize: Path, times: dict[str, Any]) -> Row:
    peer, path = PEERS[name], quantize / f"{name}.json"
    return Row(
        name=peer.title,
        fp32_accuracy=peer.accuracy,
        accuracy=peer.accuracy if peer.int8_accuracy is None else peer.int8_accuracy,
        size_bytes=value(read_metrics(path, REMEDY), "size_bytes", where=path),
        **times,
        origin=peer.source,
    )


def milliseconds(blocks: dict, name: str, benchmark: Path) -> dict[str, Any]:
    """The two fields of ``Row``, of a network by its name in the benchmark."""
    fields = {"fp32_ms": name, "int8_ms": f"{name}{INT8_SUFFIX}"}
    return {
        field: {
            runtime: value(blocks, variant, where=benchmark)
            .get(runtime, {})
            .get("latency_ms_median")
            for runtime in RUNTIMES
        }
        for field, variant in fields.items()
    }


def by_bytes(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.size_bytes)


def value(block: dict, key: str, where: Path) -> Any:
    require_keys(block, (key,), where, REMEDY)
    return block[key]

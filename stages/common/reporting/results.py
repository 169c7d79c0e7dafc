"""The results of all variants: what each scored and costs, and its latencies."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.common.core.cli import InputError
from stages.common.core.files import read_metrics
from stages.common.measuring.int8_or_fp32 import RATIO_KEYS as FP32_RATIO_KEYS
from stages.common.reporting.runtimes import RUNTIMES

WRONG = "wrong_here"  # of the environment: the runtimes left out, by variant; missing where none is
ENVIRONMENT = "environment"  # the block of the benchmark that is no variant
COST_KEYS = ("size_bytes", "params", "nonzero_params", "macs", "peak_activation_bytes")
BALANCED = "balanced_accuracy"  # in the evaluation where the test classes are uneven
EVALUATION_KEYS = ("accuracy", "class_accuracy", "images", *COST_KEYS)
RATIO_KEYS = ("ratio_to_base", "ratio_to_base_low", "ratio_to_base_high")
LATENCY_KEYS = ("latency_ms_median", *RATIO_KEYS)
RATE_KEYS = ("gflops", "share_of_matmul")
BENCHMARK_KEYS = (
    "engine",
    "latency_ms_p5",
    "latency_ms_p95",
    *LATENCY_KEYS,
    *FP32_RATIO_KEYS,
    *RATE_KEYS,
)
ENVIRONMENT_KEYS = ("cpu", "threads", "rounds", "calls", "opencv", "onnxruntime", "matmul_gflops")


@dataclass(frozen=True)
class Result:
    """All that is known of one variant: what it scored and costs, and its two latencies."""

    variant: str
    evaluation: dict
    latency: dict[str, dict]  # by runtime; those in which it is wrong are missing


def read_results(evaluate: str | Path, benchmark: str | Path) -> tuple[list[Result], dict]:
    """All variants in the benchmark's order, base first, and the machine they were timed on.

    ``evaluate`` is a folder with a JSON a variant, ``benchmark`` a JSON with a block a variant.
    Raises ``InputError`` unless both hold the same variants, on the same images, with all keys.
    """
    files = {path.stem: path for path in sorted(Path(evaluate).glob("*.json"))}
    blocks = read_metrics(Path(benchmark), "'dvc repro'")
    environment = blocks.pop(ENVIRONMENT, {})
    require_keys(environment, ENVIRONMENT_KEYS, f"{benchmark}: {ENVIRONMENT}")
    require_same_variants(files, blocks, evaluate, benchmark)
    results = []
    for name, block in blocks.items():
        evaluation = read_metrics(files[name], "'dvc repro'")
        require_keys(evaluation, EVALUATION_KEYS, files[name])
        left_out = environment.get(WRONG, {}).get(name, [])
        require_latencies(block, left_out, where=f"{benchmark}: {name}")
        results.append(Result(variant=name, evaluation=evaluation, latency=block))
    require_same_images(results, evaluate)
    return results, environment


def require_keys(
    block: object, keys: Iterable[str], where: str | Path, remedy: str = "'dvc repro'"
) -> None:
    """Raise ``InputError`` for a key that a block of a metrics file lacks."""
    for key in keys:
        if not isinstance(block, dict) or key not in block:
            raise InputError(f"{where} lacks '{key}'; delete the file and run {remedy}")


def require_latencies(block: dict, left_out: list[str], where: str) -> None:
    """Every runtime has its figures, but one that the check of the file left out."""
    for runtime in RUNTIMES:
        if runtime in block or not any(each.startswith(runtime) for each in left_out):
            require_keys(block.get(runtime, {}), BENCHMARK_KEYS, f"{where}.{runtime}")


def require_same_variants(
    files: dict, blocks: dict, evaluate: str | Path, benchmark: str | Path
) -> None:
    for name in [*blocks, *files]:
        if name not in files:
            raise InputError(
                f"the variant '{name}' is in {benchmark} but {Path(evaluate) / name}.json is "
                "missing; run 'dvc repro evaluate'"
            )
        if name not in blocks:
            raise InputError(
                f"the variant '{name}' has {files[name]} but no block in {benchmark}; run 'dvc "
                "repro benchmark', or delete the file if that variant is gone"
            )
    if not blocks:
        raise InputError(f"{benchmark} holds no variant; run 'dvc repro benchmark'")


def require_same_images(results: list[Result], evaluate: str | Path) -> None:
    counts = {result.variant: result.evaluation["images"] for result in results}
    classes = [
        result.evaluation.get("class_images", list(result.evaluation["class_accuracy"]))
        for result in results
    ]
    if len(set(counts.values())) > 1 or any(each != classes[0] for each in classes):
        raise InputError(
            f"{evaluate}: the variants were evaluated on different images ({counts}); run 'dvc "
            "repro evaluate'"
        )


def balanced_key(result: Result) -> list[str]:
    """Where the test classes are uneven; the test images, and so this, are the same for all."""
    return [BALANCED] if BALANCED in result.evaluation else []


def latencies_of(results: list[Result]) -> dict[str, dict[str, dict]]:
    """By variant and runtime."""
    return {result.variant: result.latency for result in results}

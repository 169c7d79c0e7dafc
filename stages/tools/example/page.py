"""The generated part of an example's page: what it reached, and the conditions."""

import re
from pathlib import Path

from stages.common.core.accuracy import decimals_of, percent_text
from stages.common.core.cli import InputError
from stages.common.core.files import read_metrics
from stages.common.reporting.runtimes import RUNTIMES
from stages.tools.quick_run import as_minutes

PLACE = re.compile(
    r"(?P<begin><!-- results: begin \(make example\) -->\n).*?(?P<end><!-- results: end -->)",
    re.DOTALL,
)
NETWORKS = ("base", "pruned")
CHECKS = {"": "export", "_int8": "quantize"}  # what checked a network's files, by their suffix
TARGETS = {
    "macs": "MACs",
    "params": "params",
    "latency": "predicted milliseconds",
    "flash": "predicted bytes of flash",
    "ram": "predicted bytes of RAM",
}
AGAIN = "'make example' again"


def results(metrics: Path, commit: str, seconds: float, stages_run: int) -> str:
    """Markdown: the table of the variants, its conditions, and what else the metrics say."""
    table, *notes = read_text(metrics / "summary.md").strip().split("\n\n")
    conditions = next(note for note in notes if note.startswith("Latency:"))
    lines = [
        trained(metrics, commit),
        took(metrics, seconds, stages_run),
        pruning(metrics),
        worse(read(metrics / "summary.json"), read(metrics / "evaluate" / "base.json")["images"]),
        *(each for network in NETWORKS for each in wrong(metrics, network)),
        *(litert(metrics, network) for network in NETWORKS),
    ]
    return "\n\n".join([table, conditions, "\n".join(f"- {line}" for line in lines)])


def trained(metrics: Path, commit: str) -> str:
    training = read(metrics / "train.json")
    return (
        f"Commit {commit}, trained once (n = 1) on {training['train_images']:,} images; choices "
        f"were made on {training['validation_images']:,} validation images."
    )


def took(metrics: Path, seconds: float, stages_run: int) -> str:
    speed = read(metrics / "train_speed.json")
    return (
        f"This run took {as_minutes(seconds)} for {stages_run} stages on {speed['cores']} cores "
        f"({speed['machine']}, PyTorch {speed['torch']}); training the base took "
        f"{as_minutes(speed['seconds'])}."
    )


def pruning(metrics: Path) -> str:
    pruned, images = read(metrics / "prune.json"), read(metrics / "train.json")["validation_images"]
    base, cut, tuned = (
        percent_text(pruned["validation_accuracy"][key], images)
        for key in ("base", "before_fine_tuning", "fine_tuned")
    )
    return (
        f"Pruning removed {pruned['amount_reached']:.1%} of the {TARGETS[pruned['target']]}: "
        f"validation accuracy {base}, {cut} after the cut, {tuned} after fine-tuning."
    )


def worse(summary: dict[str, dict], images: int) -> str:
    """The variants that are less accurate than the base, and those that take longer."""
    base, *others = summary
    lost = {name: summary[base]["accuracy"] - summary[name]["accuracy"] for name in others}
    found = [
        f"{name} loses {points:.{decimals_of(images)}f} points"
        for name, points in lost.items()
        if points > 0
    ]
    found += [
        f"{name} takes {ratio:g} of the base's time in {RUNTIMES[runtime]}"
        for name in others
        for runtime, ratio in summary[name]["latency_ratio_to_base"].items()
        if ratio is not None and ratio > 1
    ]
    return f"Worse than the base: {'; '.join(found) or 'nothing'}."


def wrong(metrics: Path, network: str) -> list[str]:
    """A line for each runtime or engine that was found wrong."""
    return [
        f"Wrong here: {network}{suffix} in {runtime}, which {reason}."
        for suffix, stage in CHECKS.items()
        for runtime, reason in read(metrics / stage / f"{network}.json")
        .get("wrong_here", {})
        .items()
    ]


def litert(metrics: Path, network: str) -> str:
    found = read(metrics / "evaluate_tflite" / f"{network}.json")
    if "accuracy" not in found:
        return f"No TFLite file of {network}: {found['unsupported']}."
    return (
        f"{network}_int8 as TFLite, in LiteRT: {percent_text(found['accuracy'], found['images'])} "
        f"of the test images right, {percent_text(found['agreement_onnxruntime'], found['images'])}"
        " predicted as in ONNX Runtime."
    )


def read(path: Path) -> dict:
    return read_metrics(path, AGAIN)


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run {AGAIN}") from None


def with_results(page: str, text: str, path: Path) -> str:
    content, count = PLACE.subn(lambda marks: f"{marks['begin']}\n{text}\n\n{marks['end']}", page)
    if count != 1:
        raise InputError(
            f"{path} must have the lines '<!-- results: begin (make example) -->' and "
            "'<!-- results: end -->' once"
        )
    return content

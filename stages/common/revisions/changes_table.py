"""The comparison of two revisions as Markdown: a sentence, a table, and the conditions."""

from stages.common.core.accuracy import decimals_of
from stages.common.reporting.markdown import as_table, name_and_figures
from stages.common.reporting.runtimes import RUNTIMES
from stages.common.revisions.changes import (
    COMPARED,
    NO_CHANGE,
    SAME_FILE,
    AccuracyChange,
    CompareRevisionsParams,
    Comparison,
    LatencyChange,
)
from stages.common.revisions.model_files import Revision

WRONG_CELL = "wrong here"
HEADS = ["variant", *RUNTIMES.values(), "accuracy", "bytes", "MACs"]


def sentence(comparisons: list[Comparison], violations: list[str]) -> str:
    """The tolerances that are exceeded; if none is, the changes within them."""
    if violations:
        return f"Tolerance exceeded: {'; '.join(violations)}."
    phrases = [phrase for comparison in comparisons for phrase in changes(comparison)]
    return f"No tolerance exceeded: {'; '.join(phrases) or NO_CHANGE}."


def changes(comparison: Comparison) -> list[str]:
    """The detectable differences, in words."""
    name = comparison.variant
    phrases = [
        f"{name} is {change.outcome} in {RUNTIMES[runtime]}"
        for runtime, change in comparison.latency.items()
        if change.outcome != NO_CHANGE
    ]
    if comparison.accuracy and comparison.accuracy.outcome != NO_CHANGE:
        phrases.append(f"{name} is {comparison.accuracy.outcome} in accuracy")
    elif comparison.accuracy and comparison.accuracy.classes_moved:
        phrases.append(f"{name}'s accuracy moved in {classes_of(comparison.accuracy)}")
    if comparison.base and comparison.head:
        before, after = comparison.base.size_bytes, comparison.head.size_bytes
        if before != after:
            phrases.append(f"{name} has {after - before:+,} bytes")
    return phrases or ([] if comparison.base and comparison.head else [only(comparison)])


def only(comparison: Comparison) -> str:
    return f"{comparison.variant} is {comparison.status}"


def markdown(
    summary: str,
    comparisons: list[Comparison],
    revisions: tuple[Revision, Revision],
    environment: dict,
    params: CompareRevisionsParams,
) -> str:
    """``summary``: of ``sentence``; ``revisions``: BASE and HEAD; ``environment``: the machine."""
    base, head = (named(revision) for revision in revisions)
    measured = any(comparison.status == COMPARED for comparison in comparisons)
    rows = [HEADS, name_and_figures(HEADS), *map(row, comparisons)]
    paragraphs = [
        f"**{summary}**",
        f"HEAD ({head}) against BASE ({base}): times are multiples of BASE's, accuracy is HEAD's "
        "less BASE's in points, both with a 95 % interval.",
        as_table(rows),
        *[
            moved(each.variant, each.accuracy)
            for each in comparisons
            if each.accuracy and each.accuracy.classes_moved
        ],
        *filter(None, [other_engines(comparisons, environment["engine"])]),
        conditions(environment, params) if measured else "No file differs: nothing was run.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def named(revision: Revision) -> str:
    """The name, and the commit where the name does not say it."""
    if revision.commit is None or revision.commit.startswith(revision.name):
        return revision.name
    return f"{revision.name}, {revision.commit[:7]}"


def row(comparison: Comparison) -> list[str]:
    cells = [comparison.status] * 3
    if comparison.status == SAME_FILE:
        cells = [f"{NO_CHANGE} ({SAME_FILE})"] * 3
    if comparison.status == COMPARED:
        cells = [latency_cell(comparison.latency.get(runtime)) for runtime in RUNTIMES]
        cells += [accuracy_cell(comparison.accuracy) if comparison.accuracy else WRONG_CELL]
    base, head = comparison.base, comparison.head
    return [
        comparison.variant,
        *cells,
        count_cell(base.size_bytes if base else None, head.size_bytes if head else None),
        count_cell(base.macs if base else None, head.macs if head else None),
    ]


def latency_cell(change: LatencyChange | None) -> str:
    if change is None:
        return WRONG_CELL
    interval = f"[{change.ratio_low:.3f}, {change.ratio_high:.3f}]"
    return f"{in_short(change.outcome)}: {change.ratio:.3f} × {interval}"


def accuracy_cell(change: AccuracyChange) -> str:
    digits = decimals_of(change.images)
    interval = f"[{change.change_low:+.{digits}f}, {change.change_high:+.{digits}f}]"
    return f"{in_short(change.outcome)}: {change.change:+.{digits}f} {interval}"


def in_short(outcome: str) -> str:
    return "no change" if outcome == NO_CHANGE else outcome


def count_cell(base: int | None, head: int | None) -> str:
    if base is None or head is None:
        return f"{base or head:,}"
    return f"{head:,}" if base == head else f"{base:,} → {head:,} ({head / base:.3f} ×)"


def moved(variant: str, change: AccuracyChange) -> str:
    return f"Classes of {variant} whose accuracy moved (points): {classes_of(change)}."


def classes_of(change: AccuracyChange) -> str:
    digits = decimals_of(change.images)
    return ", ".join(
        f"{name} {points:+.{digits}f}" for name, points in change.classes_moved.items()
    )


def other_engines(comparisons: list[Comparison], wanted: str) -> str:
    """The variants that ran elsewhere than in OpenCV's wanted engine, which a check found wrong."""
    found = [
        f"{each.variant} in {each.engines.get('opencv', 'none')}"
        for each in comparisons
        if each.status == COMPARED and each.engines.get("opencv") != wanted
    ]
    return f"OpenCV's engine '{wanted}' is wrong for some: {', '.join(found)}." if found else ""


def conditions(environment: dict, params: CompareRevisionsParams) -> str:
    plural = "s" if params.threads > 1 else ""
    return (
        f"Measured on this machine in one process: {environment['cpu']}, {params.threads} "
        f"thread{plural}, OpenCV {environment['opencv']} (engine {environment['engine']}), ONNX "
        f"Runtime {environment['onnxruntime']}; batch 1, {params.blocks} blocks of "
        f"{params.rounds} interleaved rounds of {params.calls} calls, models loaded anew in each. "
        "Changes of latency below "
        f"{100 * params.latency_noise:g} % count as none. Recorded latencies of other machines "
        "play no part: their difference would be that of the machines."
    )

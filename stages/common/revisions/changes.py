"""Changes between two revisions of a model: when one is detectable, and when it is too large.

Latency: `faster` or `slower` when the whole 95 % interval of the ratio lies beyond
``compare_revisions.latency_noise`` and, over the blocks, Wilcoxon's exact test gives at most
``LATENCY_ALPHA``. The interval says how large a change is; the test keeps the same file from ever
being called changed more often than that, on however busy a machine, because the two sides of a
block are then alike but for their names.

Accuracy: `better` or `worse` when McNemar's exact test is below 5 %; which classes moved: the same
test in each class, with Holm's correction for their number.

A tolerance is exceeded when the change is detectable in that sense and its whole 95 % interval lies
beyond the tolerance. Bytes are exact: there the ratio itself counts.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stages.common.core.accuracy import CONFIDENCE, accuracy, decimals_of
from stages.common.core.params import number, whole
from stages.common.measuring.bootstrap import block_ratios, ratio_over_blocks
from stages.common.measuring.exact_tests import (
    discordant,
    holm,
    mcnemar_exact,
    paired_change,
    signed_rank_exact,
)
from stages.common.reporting.runtimes import RUNTIMES

NO_CHANGE = "no detectable change"
COMPARED, SAME_FILE = "compared", "same file"
ONLY_IN_BASE, ONLY_IN_HEAD = "only in base", "only in head"
ACCURACY_ALPHA = 1 - CONFIDENCE
LATENCY_ALPHA = 0.01  # many latencies are compared; each may be a false alarm
MIN_BLOCKS = 8  # 2 / 2**8 < LATENCY_ALPHA: with fewer, nothing could ever be detected


@dataclass(frozen=True)
class CompareRevisionsParams:
    """The measurement of two revisions, and the tolerances of HEAD."""

    threads: int = whole(at_least=1)
    blocks: int = whole(at_least=MIN_BLOCKS)
    rounds: int = whole(at_least=3)
    calls: int = whole(at_least=1)
    warmup: int = whole(at_least=0)
    bootstrap_samples: int = whole(at_least=100)
    seed: int = whole(at_least=0)
    latency_noise: float = number(at_least=0, below=1)
    max_accuracy_drop: float = number(at_least=0)
    max_latency_ratio: float = number(at_least=1)
    max_bytes_ratio: float = number(at_least=0)


@dataclass(frozen=True)
class LatencyChange:
    """HEAD's time as a multiple of BASE's; milliseconds are medians over all blocks."""

    outcome: str
    ratio: float
    ratio_low: float
    ratio_high: float
    p_value: float
    base_ms_median: float
    head_ms_median: float


@dataclass(frozen=True)
class AccuracyChange:
    """HEAD's accuracy less BASE's, in points, on the same images."""

    outcome: str
    base: float  # percent
    head: float
    change: float
    change_low: float
    change_high: float
    p_value: float
    only_base_right: int
    only_head_right: int
    images: int
    classes_moved: dict[str, float]  # points, by class


@dataclass(frozen=True)
class Footprint:
    """The size and the multiply-accumulates of a file."""

    size_bytes: int
    macs: int


@dataclass(frozen=True)
class Comparison:
    """One variant in two revisions; ``latency`` (by runtime) and ``accuracy`` only if compared.

    ``engines``: what ran, by runtime; one that a check found wrong for either file is missing.
    """

    variant: str
    status: str
    base: Footprint | None = None
    head: Footprint | None = None
    latency: dict[str, LatencyChange] = field(default_factory=dict)
    accuracy: AccuracyChange | None = None
    engines: dict[str, str] = field(default_factory=dict)

    def outcomes(self) -> dict[str, str | None]:
        """By runtime, and of accuracy; None where one revision lacks the variant or is wrong.

        A file cannot differ from itself, so that the same one in both needs no measurement.
        """
        unmeasured = NO_CHANGE if self.status == SAME_FILE else None
        changes: dict[str, LatencyChange | AccuracyChange] = {**self.latency}
        if self.accuracy:
            changes["accuracy"] = self.accuracy
        return {
            key: changes[key].outcome if key in changes else unmeasured
            for key in (*RUNTIMES, "accuracy")
        }

    def as_json(self) -> dict:
        """Identical keys for every variant."""
        values = {**dataclasses.asdict(self), "outcomes": self.outcomes()}
        latency = {runtime: values["latency"].get(runtime) for runtime in RUNTIMES}
        ratio = None
        if self.base and self.head:
            ratio = round(self.head.size_bytes / self.base.size_bytes, 4)
        return {**values, "latency": latency, "size_ratio": ratio}


def judge_latency(
    base_ms: np.ndarray, head_ms: np.ndarray, params: CompareRevisionsParams
) -> LatencyChange:
    """Both (blocks, rounds, calls) milliseconds, of the same rounds; see the module's text."""
    ratio, low, high = ratio_over_blocks(
        head_ms, base_ms, bootstrap_samples=params.bootstrap_samples, seed=params.seed
    )
    p_value = signed_rank_exact(np.log(block_ratios(head_ms, base_ms)))
    outcome = NO_CHANGE
    if p_value <= LATENCY_ALPHA and low > 1 + params.latency_noise:
        outcome = "slower"
    if p_value <= LATENCY_ALPHA and high < 1 / (1 + params.latency_noise):
        outcome = "faster"
    return LatencyChange(
        outcome=outcome,
        ratio=round(ratio, 4),
        ratio_low=round(low, 4),
        ratio_high=round(high, 4),
        p_value=significant(p_value),
        base_ms_median=round(float(np.median(base_ms)), 4),
        head_ms_median=round(float(np.median(head_ms)), 4),
    )


def judge_accuracy(
    base: np.ndarray, head: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> AccuracyChange:
    """All (N,) indices of ``classes``: the predictions of both and the labels of the same images.

    The interval of the change excludes 0 exactly when McNemar's test is below 5 %.
    """
    only_base, only_head = discordant(base, head, labels)
    p_value = mcnemar_exact(only_base, only_head)
    outcome = NO_CHANGE
    if p_value < ACCURACY_ALPHA:
        outcome = "better" if only_head > only_base else "worse"
    change, low, high = paired_change(only_base, only_head, len(labels))
    return AccuracyChange(
        outcome=outcome,
        base=round(accuracy(base, labels), 2),
        head=round(accuracy(head, labels), 2),
        change=round(change, 2),
        change_low=round(low, 2) + 0.0,  # no -0.0
        change_high=round(high, 2),
        p_value=significant(p_value),
        only_base_right=only_base,
        only_head_right=only_head,
        images=len(labels),
        classes_moved=classes_moved(base, head, labels, classes),
    )


def classes_moved(
    base: np.ndarray, head: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, float]:
    """The change in points of each class in which it is significant after Holm's correction."""
    of_class = [labels == index for index in range(len(classes))]
    counts = [discordant(base[mask], head[mask], labels[mask]) for mask in of_class]
    p_values = holm([mcnemar_exact(*count) for count in counts])
    return {
        name: round(100 * (only_head - only_base) / int(mask.sum()), 2)
        for name, mask, (only_base, only_head), p_value in zip(
            classes, of_class, counts, p_values, strict=True
        )
        if p_value < ACCURACY_ALPHA
    }


def significant(p_value: float) -> float:
    """Three significant digits."""
    return float(f"{p_value:.3g}")


def exceeded(comparison: Comparison, params: CompareRevisionsParams) -> list[str]:
    """One phrase for every tolerance that the variant exceeds; see the module's text."""
    name, found = comparison.variant, []
    change = comparison.accuracy
    if change and change.outcome == "worse" and -change.change_high > params.max_accuracy_drop:
        digits = decimals_of(change.images)
        found.append(
            f"{name} loses {-change.change:.{digits}f} points of accuracy "
            f"[{-change.change_high:.{digits}f}, {-change.change_low:.{digits}f}], allowed "
            f"{params.max_accuracy_drop:g}"
        )
    for runtime, latency in comparison.latency.items():
        if latency.outcome == "slower" and latency.ratio_low > params.max_latency_ratio:
            found.append(
                f"{name} takes {latency.ratio:.2f} × [{latency.ratio_low:.2f}, "
                f"{latency.ratio_high:.2f}] the time in {RUNTIMES[runtime]}, allowed "
                f"{params.max_latency_ratio:g}"
            )
    if comparison.base and comparison.head:
        ratio = comparison.head.size_bytes / comparison.base.size_bytes
        if ratio > params.max_bytes_ratio:
            found.append(f"{name} has {ratio:.2f} × the bytes, allowed {params.max_bytes_ratio:g}")
    return found

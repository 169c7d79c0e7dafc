"""Where a peer is better than the family, in words."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from stages.common.reporting.runtimes import RUNTIMES
from stages.family.page.results import Row


@dataclass(frozen=True)
class Cost:
    """Something of an INT8 file of which less is better; None where it was not measured."""

    title: str
    axis: str
    of: Callable[[Row], float | None]


def runtime_ms(runtime: str) -> Callable[[Row], float | None]:
    return lambda row: row.int8_ms[runtime]


BYTES = Cost("bytes", "INT8 file (KB, 1000 bytes)", lambda row: row.size_bytes)
TIMES = {
    runtime: Cost(
        f"milliseconds in {RUNTIMES[runtime]}",
        f"INT8 in {RUNTIMES[runtime]} (ms, batch 1)",
        runtime_ms(runtime),
    )
    for runtime in ("onnxruntime", "opencv")
}
COSTS = [BYTES, *TIMES.values()]


def unmatched(family: list[Row], peers: list[Row], cost: Cost) -> list[Row]:
    """The peers whose accuracy no model of the family has at as little cost."""
    return [peer for peer in peers if not any(matches(row, peer, cost) for row in family)]


def matches(row: Row, peer: Row, cost: Cost) -> bool:
    """Whether a model has at least the peer's accuracy at no more cost; true where the peer's
    cost is not known.
    """
    ours, theirs = cost.of(row), cost.of(peer)
    if theirs is None:
        return True
    return ours is not None and row.accuracy >= peer.accuracy and ours <= theirs


def nearest(row: Row, peers: list[Row]) -> Row:
    """The peer whose INT8 file is nearest in bytes, as a ratio."""
    return min(peers, key=lambda peer: abs(math.log(peer.size_bytes / row.size_bytes)))


def shortfalls(row: Row, peer: Row) -> list[str]:
    """A phrase for each thing that a model does worse than a peer of about its bytes."""
    found = []
    if row.accuracy < peer.accuracy:
        found.append(
            f"{row.name} is less accurate than {peer.name} "
            f"({row.accuracy:.2f} against {peer.accuracy:.2f} %)"
        )
    for runtime in TIMES:
        ours, theirs = row.int8_ms[runtime], peer.int8_ms[runtime]
        if ours is not None and theirs is not None and ours > theirs:
            found.append(
                f"{row.name} is slower than {peer.name} in {RUNTIMES[runtime]} "
                f"({ours:.2f} against {theirs:.2f} ms)"
            )
    return found


def verdict(family: list[Row], peers: list[Row]) -> str:
    """The sentences on what is worse than a peer, or that nothing is."""
    return f"{against_nearest(family, peers)} {against_all(family, peers)}"


def against_nearest(family: list[Row], peers: list[Row]) -> str:
    found = [text for row in family for text in shortfalls(row, nearest(row, peers))]
    if not found:
        return "No model is less accurate or slower as INT8 than the peer nearest to it in bytes."
    return f"Worse than the peer nearest in bytes: {'; '.join(found)}."


def against_all(family: list[Row], peers: list[Row]) -> str:
    beaten_by = {cost.title: unmatched(family, peers, cost) for cost in COSTS}
    lines = [
        f"of {' or '.join(peer.name for peer in rows)} at as few {title}"
        for title, rows in beaten_by.items()
        if rows
    ]
    if not lines:
        return (
            "For every peer and each panel of the picture, a model has at least its accuracy at no "
            "more cost."
        )
    return f"No model has the accuracy {', '.join(lines)}."

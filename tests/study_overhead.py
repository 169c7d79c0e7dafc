"""Measure what a cluster brings a study, and what a point costs beside its own work.

    python -m tests.study_overhead                # 6 minutes, with ray installed

The stub's pipeline sleeps instead of computing, so that two cores can show two workers. Its study
runs one point after the other in DVC's queue, then on a cluster of one and of two workers of this
machine, each time in a new repository in a temporary folder. Prints a table in Markdown.
"""

import argparse
import math
import os
import tempfile
import time
from pathlib import Path

from tests.study_stub import add_host, local_cluster, make_repository, start_study

TIMED_SHARE = 0.1  # of the stub's training


def wall_time(folder: Path, points: int, seconds: float, workers: int) -> float:
    """Seconds of a study of ``points`` trainings; without a cluster where ``workers`` is 0."""
    amounts = [round(0.1 + index / 100, 2) for index in range(points)]
    person = make_repository(folder, amounts, seconds)
    if not workers:
        return timed_study(person, None)
    with local_cluster() as cluster:
        for number in range(1, workers):
            add_host(cluster, f"trainer {number}")
        add_host(cluster, "bench", resources={"bench": 1})
        return timed_study(person, cluster)


def timed_study(person, cluster) -> float:
    begun = time.monotonic()
    process = start_study(person, cluster)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return time.monotonic() - begun


def own_work(points: int, seconds: float, workers: int) -> float:
    """Seconds that the points sleep, side by side where they may."""
    return math.ceil(points / max(1, workers)) * seconds + points * seconds * TIMED_SHARE


def main() -> None:
    args = parse_args()
    print(
        f"{args.points} points, each {args.seconds:g} s of training and "
        f"{args.seconds * TIMED_SHARE:g} s of timing; {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f} before\n"
    )
    print("| workers | the points' own seconds | wall time | overhead a point |")
    print("|---|---:|---:|---:|")
    for workers in (0, 1, 2):
        with tempfile.TemporaryDirectory() as folder:
            taken = wall_time(Path(folder), args.points, args.seconds, workers)
        own = own_work(args.points, args.seconds, workers)
        name = str(workers) if workers else "no cluster"
        over = (taken - own) / args.points
        print(f"| {name} | {own:.0f} | {taken:.0f} s | {over:.1f} s |", flush=True)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    main()

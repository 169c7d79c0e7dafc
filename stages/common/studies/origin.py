"""Experiments that hosts share through the repository's origin, and who made them."""

import json
from pathlib import Path

from stages.common.core.cli import InputError
from stages.common.studies.queue import command, head, json_at, reference, revision

UNTIMED = "-untimed"  # ends the name of an experiment whose model is trained and not yet timed
TRAINED, TIMED = "Trained-On", "Timed-On"  # trailers in the message of an experiment's commit


def origin() -> str:
    """The address that other hosts clone.

    Raises ``InputError`` where there is none, or it lacks this commit.
    """
    address = command("git", "remote", "get-url", "origin").strip()
    if not command("git", "branch", "--remotes", "--list", "origin/*", "--contains", "HEAD"):
        raise InputError(
            f"the commit {head()[:7]} is not at origin, from which every host clones it; run "
            "'git push' first"
        )
    return str(Path(address).resolve()) if Path(address).is_dir() else address


def names_at_origin() -> set[str]:
    """Names of the current commit's experiments."""
    folder = reference()
    listed = command("git", "ls-remote", "origin", f"{folder}*")
    return {line.split("\t")[1].removeprefix(folder) for line in listed.splitlines()}


def fetch_finished() -> set[str]:
    """Fetch what is timed and not here yet; the names of what is trained and not yet timed."""
    found, folder = names_at_origin(), reference()
    finished = [name for name in found if not name.endswith(UNTIMED) and revision(name) is None]
    if finished:
        refs = [f"{folder}{name}:{folder}{name}" for name in sorted(finished)]
        command("git", "fetch", "--quiet", "origin", *refs)
    return {name.removesuffix(UNTIMED) for name in found if name.endswith(UNTIMED)}


def hosts_of(name: str) -> dict[str, str]:
    """A row: what trained the experiment and what timed it; empty cells where it does not say."""
    commit = revision(name) or ""
    environment = json_at(commit, "metrics/benchmark.json")["environment"]
    trained, timed = (trailer(commit, key) for key in (TRAINED, TIMED))
    keys = ("host", "device", "machine", "precision", "torch")
    return {
        "experiment": name,
        **{f"trained_{key}": trained.get(key, "") for key in keys},
        "timed_host": timed.get("host", ""),
        "timed_cpu": environment["cpu"],
        "load_average_at_start": str(environment.get("load_average_at_start", "")),
    }


def trailer(commit: str, key: str) -> dict[str, str]:
    form = f"--format=%(trailers:key={key},valueonly)"
    return json.loads(command("git", "log", "-1", form, commit).strip() or "{}")


def require_one_bench(rows: list[dict[str, str]]) -> None:
    """Raise ``InputError`` for milliseconds of more than one machine; ``rows`` of ``hosts_of``."""
    benches: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        benches.setdefault((row["timed_host"], row["timed_cpu"]), []).append(row["experiment"])
    if len(benches) > 1:
        *_, (fewest, names) = sorted(benches.items(), key=lambda item: -len(item[1]))
        raise InputError(
            f"milliseconds of {len(benches)} machines do not belong in one table; "
            f"{', '.join(names)} ran on {' '.join(fewest).strip()}: remove what is of another "
            "machine (dvc exp remove NAME, and dvc exp remove -g origin NAME), and give the same "
            "command again"
        )


def hosts_in_words(rows: list[dict[str, str]]) -> str:
    """The paragraph under the table of a study that ran on a cluster."""
    [bench] = {row["timed_host"] for row in rows}
    loads = [float(row["load_average_at_start"]) for row in rows if row["load_average_at_start"]]
    load = f", load average at most {max(loads)} before a benchmark" if loads else ""
    counts: dict[str, int] = {}
    for row in rows:
        precision = f" in {row['trained_precision']}" if row["trained_precision"] else ""
        where = f"{row['trained_machine'] or row['trained_host'] or 'a host not recorded'}"
        counts[where + precision] = counts.get(where + precision, 0) + 1
    trained = ", ".join(f"{count} on {where}" for where, count in sorted(counts.items()))
    return f"Timed on {bench} ({rows[0]['timed_cpu']}{load}). Trained: {trained}."

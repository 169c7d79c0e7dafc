"""Run a study: one DVC experiment for each combination of params, all results in one table.

Reads   params.yaml (studies.<name>), the committed base and teacher, the experiments of this commit
Writes  a CSV with a row for each experiment and variant (as in plots/tradeoff.csv), a Markdown
        table with the command of every row, and a picture where prune.amount varies
Params  studies.*  (see StudiesParams)
Raises  InputError for an unknown study, uncommitted changes, a base that is not up to date, an
        experiment that failed

The experiments run one after the other in DVC's queue, because each is timed. Those of this commit
that are done already are taken as they are; remove one (dvc exp remove NAME) to run it anew.
"""

import argparse
import csv
import io
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_csv, write_text
from stages.common.core.params import load_params, read_params
from stages.common.measuring.seeds import MOST_SEEDS, paired_difference
from stages.common.reporting.style import save_png
from stages.common.revisions.git import require_repository
from stages.common.studies.chart import study_chart
from stages.common.studies.grid import Experiment, StudiesParams, experiments_of

RESULTS = "plots/tradeoff.csv"  # of each experiment
RESULTS_STAGE = "compare"  # makes it; the stages that it does not need are not run
NETWORK, NETWORK_INT8 = "pruned", "pruned_int8"
SOURCES = ("stages", "params.yaml", "dvc.yaml", "dvc.lock")
PREDICTED = "predicted_latency_ms"  # by the device's profile, where pruning counts milliseconds
AMOUNT, METHOD, SEED = "prune.amount", "prune.method", "prune.seed"
NO_WORKER = "0 active, 0 idle"  # in what 'dvc queue status' says
POLL_SECONDS = 60  # seldom, because experiments are timed
Row = dict[str, str]


# ------------------------------------------------------------------------------------ experiments


def command(*words: str) -> str:
    """The output of a command; ``InputError`` with its last line when it fails."""
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        raise InputError(f"'{' '.join(words)}' failed: {last}")
    return result.stdout


def dvc(*words: str) -> str:
    return command(sys.executable, "-m", "dvc", *words)


def require_committed() -> None:
    """An experiment starts from the last commit's code, params and base."""
    require_repository(Path())
    changed = command("git", "status", "--porcelain", "--", *SOURCES).split("\n")[0]
    if changed:
        raise InputError(
            f"there are uncommitted changes ({changed.strip()}); commit or restore them first, so "
            "that the study belongs to a commit"
        )
    status = dvc("status", "train", "teach").strip()
    if "up to date" not in status:
        raise InputError(
            "the base or its outputs are not up to date, and every experiment would train anew; "
            "run 'dvc repro' (or 'dvc pull') first"
        )


def require_few_seeds(study: str, experiments: list[Experiment]) -> None:
    """Raise ``InputError`` for more seeds than an interval is known for, before any is run."""
    count = len({each.changes.get(SEED) for each in experiments})
    if count > MOST_SEEDS:
        raise InputError(f"studies.{study}: {SEED} has {count} values; allowed: 1 to {MOST_SEEDS}")


def revision(name: str) -> str | None:
    """The commit of an experiment of the current commit, or None."""
    head = command("git", "rev-parse", "HEAD").strip()
    reference = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    return command("git", "for-each-ref", "--format=%(objectname)", reference).strip() or None


def run_all(experiments: list[Experiment]) -> None:
    """Queue what is not done yet and run it, one at a time."""
    missing = [each for each in experiments if revision(each.name) is None]
    print(f"{len(experiments) - len(missing)} of {len(experiments)} experiments are done already")
    if not missing:
        return
    queued = dvc("queue", "status")
    for each in missing:
        if f" {each.name} " in queued:  # left by a run that was stopped
            dvc("queue", "remove", each.name)
        dvc("exp", "run", RESULTS_STAGE, "--queue", "--name", each.name, *each.settings())
    for _ in missing:
        worked_to_the_end = follow_queue()
        if worked_to_the_end or all(revision(each.name) for each in missing):
            break
        print("DVC's queue stopped before its end; starting it again", flush=True)
    failed = [each.name for each in missing if revision(each.name) is None]
    if failed:
        raise InputError(
            f"experiments without a result: {', '.join(failed)}; 'dvc queue logs {failed[0]}' says "
            "why; mend it and give the same command again: what is done is kept"
        )


def follow_queue() -> bool:
    """Run what is queued, showing its output; False when the worker ended before the queue did.

    Celery's worker dies when it reads a task's file that is just being written (seen on a busy
    machine), and DVC's client then waits for ever.
    """
    client = subprocess.Popen([sys.executable, "-m", "dvc", "exp", "run", "--run-all"])
    polls_without_worker = 0
    while client.poll() is None:
        try:
            client.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            has_worker = NO_WORKER not in dvc("queue", "status")
            polls_without_worker = 0 if has_worker else polls_without_worker + 1
            if polls_without_worker == 2:  # once could be between two of them
                client.terminate()
                client.wait()
                return False
    return True


def results(experiment: Experiment) -> list[Row]:
    """The experiment's table, each row with what the experiment changed."""
    commit = revision(experiment.name)
    text = command("git", "show", f"{commit}:{RESULTS}")
    pruning = json.loads(command("git", "show", f"{commit}:metrics/prune.json"))
    predicted = {PREDICTED: str(pruning.get(PREDICTED, {}).get("after", ""))}
    changes = {key: str(value) for key, value in experiment.changes.items()}
    return [
        {"experiment": experiment.name, **changes, **predicted, **row}
        for row in csv.DictReader(io.StringIO(text))
    ]


# ----------------------------------------------------------------------------------------- tables


def markdown(experiments: list[Experiment], rows: list[Row]) -> str:
    """One row an experiment, FP32 and INT8 side by side; mean and deviation where seeds vary.

    Where nothing but the seed varies there is no time: one shape has one, and the runs may be of
    several machines.
    """
    varied = experiments[0].varied
    timed = varied != (SEED,)
    has_predictions = any(row.get(PREDICTED) for row in rows)
    heads = [*varied, "MACs", "params", *(["predicted FP32"] if has_predictions else [])]
    for kind in ("FP32", "INT8"):
        heads += [f"{kind} accuracy", "bytes", *(["OpenCV DNN", "ONNX Runtime"] if timed else [])]
    lines = [heads, ["---:"] * len(heads)]
    networks = select(rows, NETWORK), select(rows, NETWORK_INT8)
    for fp32, int8 in zip(*networks, strict=True):
        cells = [
            *(fp32[key] for key in varied),
            f"{int(fp32['macs']):,}",
            f"{int(fp32['params']):,}",
        ]
        if has_predictions:
            cells.append(f"{float(fp32[PREDICTED]):.2f} ms" if fp32[PREDICTED] else "")
        lines.append([*cells, *network_cells(fp32, timed), *network_cells(int8, timed)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *spread(varied, networks), commands(experiments)]) + "\n"


def select(rows: list[Row], variant: str) -> list[Row]:
    return [row for row in rows if row["variant"] == variant]


def network_cells(row: Row, timed: bool) -> list[str]:
    """Accuracy, bytes, and the latency in both runtimes with its ratio to the base's."""
    cells = [f"{float(row['accuracy']):.2f} %", f"{int(row['size_bytes']):,}"]
    for runtime in ("", "onnxruntime_") if timed else ():
        latency, ratio = (
            float(row[f"{runtime}{key}"]) for key in ("latency_ms_median", "ratio_to_base")
        )
        cells.append(f"{latency:.2f} ms ({ratio:.2f} × base)")
    return cells


def spread(varied: tuple[str, ...], networks: tuple[list[Row], list[Row]]) -> list[str]:
    """What the seeds say together, for each value of what else varies."""
    if SEED not in varied:
        return []
    sentences = []
    for kind, rows in zip(("FP32", "INT8"), networks, strict=True):
        groups: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: int(row[SEED])):
            name = " ".join([kind, *(row[key] for key in varied if key != SEED)])
            groups.setdefault(name, []).append(row)
        timed = varied != (SEED,)
        sentences += [group_in_words(*group, timed) for group in groups.items()]
        if len(groups) == 2:
            sentences.append(difference(*groups.items()))
    return [" ".join(sentences)]


def group_in_words(name: str, rows: list[Row], timed: bool) -> str:
    """Mean and sample standard deviation of the accuracy, and the time that it takes."""
    values = accuracies_of(rows)
    ratio = statistics.mean(float(row["ratio_to_base"]) for row in rows)
    return (
        f"{name}: {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} % (mean and "
        f"standard deviation, n = {len(rows)} seeds of pruning and fine-tuning, one base)"
        + (f" at {ratio:.2f} × the base's time in OpenCV DNN." if timed else ".")
    )


def difference(first: tuple[str, list[Row]], second: tuple[str, list[Row]]) -> str:
    """How much better the second is, with one seed's run of one beside the same seed's other."""
    gain = paired_difference(accuracies_of(second[1]), accuracies_of(first[1]))
    unsure = ": the seeds alone could explain it" if gain["low"] <= 0 <= gain["high"] else ""
    return (
        f"{second[0]} less {first[0]}: {gain['points']:+.2f} ± {gain['std']:.2f} points, by seed "
        f"(95 % t interval {gain['low']:+.2f} to {gain['high']:+.2f}{unsure})."
    )


def accuracies_of(rows: list[Row]) -> list[float]:
    return [float(row["accuracy"]) for row in rows]


def conditions(experiments: list[Experiment], params: dict) -> str:
    """What holds for all points: the machine, the fine-tuning, the number of runs."""
    blocks = json.loads(
        command("git", "show", f"{revision(experiments[0].name)}:metrics/benchmark.json")
    )
    machine = blocks["environment"]
    epochs = experiments[0].changes.get("prune.epochs", params["prune"]["epochs"])
    return (
        f"{machine['cpu']}, {machine['threads']} thread, OpenCV {machine['opencv']} in the faster "
        f"of its engines; {epochs} epoch{'s' if epochs > 1 else ''} of fine-tuning a point, one "
        "seed; 10,000 test images; small figures: prune.amount of a line's last point"
    )


def commands(experiments: list[Experiment]) -> str:
    """What to type for each row."""
    lines = [
        shlex.join(["dvc", "exp", "run", RESULTS_STAGE, *each.settings()]) for each in experiments
    ]
    return "\n".join(["```", *lines, "```"])


def main() -> None:
    args = parse_args()
    params = load_params(StudiesParams, args.params, section="studies")
    if not hasattr(params, args.name):
        raise InputError(f"{args.params} has no study '{args.name}'; see its section 'studies'")
    experiments = experiments_of(args.name, getattr(params, args.name))
    require_few_seeds(args.name, experiments)
    require_committed()
    run_all(experiments)
    rows = [row for experiment in experiments for row in results(experiment)]
    write_csv(args.csv, rows, header=list(rows[0]))
    table = markdown(experiments, rows)
    write_text(args.table, table)
    if AMOUNT in experiments[0].varied:
        note = conditions(experiments, read_params(args.params))
        save_png(args.picture, study_chart(rows, note=note))
    print(table)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--name", required=True, help="a key of studies in the params file")
    for name in ("csv", "table", "picture"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""Run a study: one DVC experiment for each combination of params, all results in one table.

The study 'pareto' is a search: Optuna proposes the params of each experiment, and the front of
validation accuracy against cost is measured (see common/studies/search.py).

Reads   params.yaml (studies.<name>), the committed base and teacher, the experiments of this commit
Writes  a CSV with a row for each experiment and variant (as in plots/tradeoff.csv), a Markdown
        table with the command of every row, and a picture where prune.amount varies; of a search a
        row for each trial, the table of its front, and a picture
Params  studies.*  (see StudiesParams)
Raises  InputError for an unknown study, uncommitted changes, a base that is not up to date, an
        experiment that failed

The experiments run one after the other in DVC's queue, because each is timed; with --cluster as
tasks of a Ray cluster, where one host times. Those of this commit that are done already are taken
as they are; remove one (dvc exp remove NAME) to run it anew.
"""

import argparse
import csv
import io
import os
from pathlib import Path

from stages.common.core.accuracy import decimals_of
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_csv, write_text
from stages.common.core.params import load_params, read_params
from stages.common.measuring.seeds import MOST_SEEDS
from stages.common.reporting.style import save_png
from stages.common.revisions.git import require_repository
from stages.common.studies.chart import study_chart
from stages.common.studies.cluster.rounds import run_on_cluster
from stages.common.studies.cluster.tasks import Cluster
from stages.common.studies.grid import SEARCH, SEED, Experiment, StudiesParams, experiments_of
from stages.common.studies.journal import import_optuna
from stages.common.studies.origin import hosts_in_words, hosts_of, require_one_bench
from stages.common.studies.pareto import Runner, run_search, write_front
from stages.common.studies.queue import command, dvc, head, json_at, revision, run_all, text_at
from stages.common.studies.search import parse_search, require_untimed_trials
from stages.common.studies.table import PREDICTED, Row, markdown

RESULTS = "plots/tradeoff.csv"  # of each experiment
SOURCES = ("stages", "params.yaml", "dvc.yaml", "dvc.lock")
AMOUNT = "prune.amount"
POINT = Path(__file__).parent / "cluster" / "point.py"
LOGS = Path("build/studies")


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


def require_queueable(folder: Path) -> None:
    """DVC's queue hands the folder to git as a URL, where # and ? end the path, and writes it into
    a file that takes ASCII only.
    """
    for character in str(folder):
        if character in "#?" or not character.isascii():
            raise InputError(
                f"DVC's queue cannot run in a folder with '{character}' in its path ({folder}); "
                "move it to one of plain letters"
            )


def require_few_seeds(study: str, experiments: list[Experiment]) -> None:
    """Raise ``InputError`` for more seeds than an interval is known for, before any is run."""
    count = len({each.changes.get(SEED) for each in experiments})
    if count > MOST_SEEDS:
        raise InputError(f"studies.{study}: {SEED} has {count} values; allowed: 1 to {MOST_SEEDS}")


def results(experiment: Experiment) -> list[Row]:
    """The experiment's table, each row with what the experiment changed."""
    commit = revision(experiment.name)
    text = text_at(commit, RESULTS)
    pruning = json_at(commit, "metrics/prune.json")
    predicted = {PREDICTED: str(pruning.get(PREDICTED, {}).get("after", ""))}
    changes = {key: str(value) for key, value in experiment.changes.items()}
    return [
        {"experiment": experiment.name, **changes, **predicted, **row}
        for row in csv.DictReader(io.StringIO(text))
    ]


def read_json(experiment: Experiment, path: str) -> dict:
    return json_at(revision(experiment.name), path)


def conditions(experiments: list[Experiment], params: dict, images: int) -> str:
    """The conditions of all points: the machine, the fine-tuning, the number of runs.

    ``images``: the number of test images.
    """
    machine = read_json(experiments[0], "metrics/benchmark.json")["environment"]
    epochs = experiments[0].changes.get("prune.epochs", params["prune"]["epochs"])
    return (
        f"{machine['cpu']}, {machine['threads']} thread, OpenCV {machine['opencv']} in the faster "
        f"of its engines; {epochs} epoch{'s' if epochs > 1 else ''} of fine-tuning a point, one "
        f"seed; {images:,} test images; small figures: prune.amount of a line's last point"
    )


def main() -> None:
    args = parse_args()
    params = load_params(StudiesParams, args.params, section="studies")
    if args.name == SEARCH:
        search(args, params)
        return
    studies = params.grids()
    if args.name not in studies:
        known = ", ".join([*studies, SEARCH])
        raise InputError(f"{args.params} has no study '{args.name}'; it has {known}")
    experiments = experiments_of(args.name, studies[args.name])
    require_few_seeds(args.name, experiments)
    if args.cluster:
        require_committed()
        run_on_cluster(experiments, cluster_of(args), read_params(args.params))
    else:
        require_queueable(Path.cwd())
        require_committed()
        run_all(experiments)
    write_results(args, experiments)


def search(args: argparse.Namespace, studies: StudiesParams) -> None:
    """Run what is left of the search, and write its front."""
    if args.cluster:
        raise InputError(
            f"CLUSTER is for grids, and {SEARCH} proposes each trial from those before it; leave "
            "CLUSTER out"
        )
    import_optuna()
    params = read_params(args.params)
    budget = {} if args.trials is None else {"trials": args.trials}
    space = parse_search({**studies.pareto, **budget}, args.params)
    require_untimed_trials(space, params)
    require_committed()
    journal, front = run_search(space, Runner(POINT, LOGS, commit=head()))
    table = write_front(journal, front, params, args.csv, args.table, args.picture)
    print(table)


def cluster_of(args: argparse.Namespace) -> Cluster:
    storage = {"--remote": args.remote, "--cache": args.cache, "--scratch": args.scratch}
    return Cluster(
        address=args.cluster,
        cpus=args.cpus,
        gpus=args.gpus,
        storage=tuple(word for key, value in storage.items() if value for word in (key, value)),
        program=POINT.read_text(),
        logs=LOGS,
    )


def write_results(args: argparse.Namespace, experiments: list[Experiment]) -> None:
    """The CSV, the table and the picture; of a cluster the hosts too."""
    hosts = [hosts_of(each.name) for each in experiments]
    require_one_bench(hosts)
    rows = [row for experiment in experiments for row in results(experiment)]
    write_csv(args.csv, rows, header=list(rows[0]))
    images = read_json(experiments[0], "metrics/evaluate/base.json")["images"]
    table = markdown(experiments, rows, decimals_of(images))
    if args.cluster:
        write_csv(args.hosts, hosts, header=list(hosts[0]))
        table += f"\n{hosts_in_words(hosts)}\n"
    write_text(args.table, table)
    if AMOUNT in experiments[0].varied:
        note = conditions(experiments, read_params(args.params), images)
        save_png(args.picture, study_chart(rows, note=note))
    print(table)


def positive(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number above 0")
    return float(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--name", required=True, help="a key of studies in the params file")
    for name in ("csv", "table", "picture"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--trials", type=int, help=f"in place of studies.{SEARCH}.trials")
    cluster = parser.add_argument_group("on a Ray cluster (see stages/tools/README.md)")
    cluster.add_argument("--cluster", help="auto, or the address of a running cluster")
    cluster.add_argument("--remote", help="DVC remote that hosts share: a URL, or its global name")
    cluster.add_argument("--cache", type=os.path.abspath, help="DVC cache on a disk of all hosts")
    cluster.add_argument("--scratch", type=os.path.abspath, help="folder for each host's clones")
    cluster.add_argument("--cpus", type=positive, default=1, help="cores of one training")
    cluster.add_argument("--gpus", type=float, default=0, help="GPUs of one training")
    cluster.add_argument("--hosts", type=Path, help="CSV of what trained and timed each point")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

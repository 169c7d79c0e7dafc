"""The result of a search: its trials in a CSV, the front as a table, both in a picture."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from stages.common.core.accuracy import percent_text
from stages.common.reporting.markdown import as_table
from stages.common.reporting.style import GREY, IN_HOUSE_STYLE, colour, new_figure
from stages.common.studies.origin import UNTIMED
from stages.common.studies.search import BYTES, LATENCY, Trial, front_of
from stages.common.studies.table import NETWORK, NETWORK_INT8, Row, commands

TIMES = {"latency_ms_median": "OpenCV DNN", "onnxruntime_latency_ms_median": "ONNX Runtime"}
MEASURED = ("size_bytes", "macs", *TIMES)  # columns of plots/tradeoff.csv
TEST, VALIDATION = "test_accuracy", "validation_accuracy"


@dataclass(frozen=True)
class Cost:
    """The quantity that a search weighs against accuracy, and the network that has it."""

    variant: str  # of dvc.yaml
    kind: str  # of its weights
    axis: str
    unit: float  # of the axis, times that of the trials


COSTS = {
    LATENCY: Cost(NETWORK, "FP32", "Predicted latency in OpenCV DNN (ms)", 1),
    BYTES: Cost(NETWORK_INT8, "INT8", "Size of the file (KB, 1000 bytes)", 1e-3),
}


def rows_of(trials: list[Trial], measured: dict[str, Row], cost: str) -> list[Row]:
    """A row a trial, in their order; what was measured is empty where nothing was.

    ``measured``: by the experiment's name, the row of its variant in plots/tradeoff.csv; of each
    point of the front, and of those that were in it with fewer trials.
    """
    front = front_of(trials)
    rows = []
    for trial in trials:
        name = trial.experiment.name
        found = measured.get(name, {})
        rows.append(
            {
                "trial": str(trial.number),
                "experiment": name if found else name + UNTIMED,
                **{key: str(trial.experiment.changes[key]) for key in trial.experiment.varied},
                VALIDATION: str(trial.accuracy),
                cost: f"{trial.cost:.12g}",
                "front": "yes" if trial in front else "no",
                TEST: found.get("accuracy", ""),
                **{key: found.get(key, "") for key in MEASURED},
            }
        )
    return rows


def front_rows(rows: list[Row], cost: str) -> list[Row]:
    """The cheapest first."""
    return sorted((row for row in rows if row["front"] == "yes"), key=lambda row: float(row[cost]))


def front_table(
    front: list[Trial], rows: list[Row], cost: str, images: dict[str, int], note: str
) -> str:
    """The points of the front, the cheapest first, the note, and the command of each point.

    ``images``: how many an accuracy is of, by its column.
    """
    varied = front[0].experiment.varied
    kind, is_predicted = COSTS[cost].kind, cost == LATENCY
    heads = [*varied, f"{kind} validation", *(["predicted"] if is_predicted else [])]
    heads += [f"{kind} test", "bytes", *TIMES.values()]
    lines = [heads, ["---:"] * len(heads)]
    for row in front_rows(rows, cost):
        validation, test = (percent_text(float(row[key]), images[key]) for key in images)
        predicted = [f"{float(row[cost]):.2f} ms"] if is_predicted else []
        times = [f"{float(row[key]):.2f} ms" if row[key] else "" for key in TIMES]
        size = f"{int(row['size_bytes']):,}"
        lines.append([*(row[key] for key in varied), validation, *predicted, test, size, *times])
    experiments = [trial.experiment for trial in front]
    return "\n\n".join([as_table(lines), note, commands(experiments)]) + "\n"


@IN_HOUSE_STYLE
def front_chart(rows: list[Row], cost: str, note: str) -> Figure:
    """Accuracy against the cost: all trials faint, those of the front marked."""
    figure, [axes] = new_figure("A search: what each point buys and costs", note, columns=1)
    front = front_rows(rows, cost)
    axes.plot(
        *points(rows, cost, VALIDATION), "o", color=GREY, alpha=0.35, markersize=5,
        label="trials, validation images",
    )  # fmt: skip
    axes.plot(
        *points(front, cost, VALIDATION), "o-", color=colour(0), linewidth=1,
        drawstyle="steps-post", label="front, validation images",
    )  # fmt: skip
    axes.plot(
        *points(front, cost, TEST), "D", color=colour(1), markerfacecolor="none",
        label="front, test images",
    )  # fmt: skip
    axes.set(xlabel=COSTS[cost].axis, ylabel=f"{COSTS[cost].kind} accuracy (%)")
    axes.legend(loc="lower right")
    return figure


def points(rows: list[Row], cost: str, accuracy: str) -> tuple[list[float], list[float]]:
    unit = COSTS[cost].unit
    return [float(row[cost]) * unit for row in rows], [float(row[accuracy]) for row in rows]

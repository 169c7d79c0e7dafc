"""A study's table: one row an experiment, the spread over seeds, the command of every row."""

import shlex
import statistics

from stages.common.core.accuracy import MOST_DECIMALS
from stages.common.measuring.seeds import paired_difference
from stages.common.reporting.markdown import as_table
from stages.common.studies.grid import RESULTS_STAGE, SEED, Experiment

NETWORK, NETWORK_INT8 = "pruned", "pruned_int8"
PREDICTED = "predicted_latency_ms"  # by the device's profile, where pruning counts milliseconds
Row = dict[str, str]  # of plots/tradeoff.csv, with the experiment's name and what it changed


def markdown(experiments: list[Experiment], rows: list[Row], decimals: int = MOST_DECIMALS) -> str:
    """FP32 and INT8 side by side; mean and deviation where seeds vary.

    Where nothing but the seed varies there is no time: one shape has one, and the runs may be of
    several machines. ``decimals``: of an accuracy in percent; a mean over seeds has one more, at
    most ``MOST_DECIMALS``.
    """
    varied = experiments[0].varied
    timed = varied != (SEED,)
    has_predictions = any(row.get(PREDICTED) for row in rows)
    heads = [*varied, "MACs", "params", *(["predicted"] if has_predictions else [])]
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
        lines.append(
            [*cells, *network_cells(fp32, timed, decimals), *network_cells(int8, timed, decimals)]
        )
    paragraphs = [
        as_table(lines),
        *spread(varied, networks, min(decimals + 1, MOST_DECIMALS)),
        commands(experiments),
    ]
    return "\n\n".join(paragraphs) + "\n"


def select(rows: list[Row], variant: str) -> list[Row]:
    return [row for row in rows if row["variant"] == variant]


def network_cells(row: Row, timed: bool, decimals: int) -> list[str]:
    """Accuracy, bytes, and the latency in both runtimes with its ratio to the base's."""
    cells = [f"{float(row['accuracy']):.{decimals}f} %", f"{int(row['size_bytes']):,}"]
    for runtime in ("", "onnxruntime_") if timed else ():
        latency, ratio = (
            float(row[f"{runtime}{key}"]) for key in ("latency_ms_median", "ratio_to_base")
        )
        cells.append(f"{latency:.2f} ms ({ratio:.2f} × base)")
    return cells


def spread(
    varied: tuple[str, ...], networks: tuple[list[Row], list[Row]], decimals: int
) -> list[str]:
    """Mean and deviation over the seeds, for each value of what else varies."""
    if SEED not in varied:
        return []
    sentences = []
    for kind, rows in zip(("FP32", "INT8"), networks, strict=True):
        groups: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: int(row[SEED])):
            others = [f"{key.rpartition('.')[2]} {row[key]}" for key in varied if key != SEED]
            name = ", ".join([kind, *others])
            groups.setdefault(name, []).append(row)
        timed = varied != (SEED,)
        sentences += [
            group_in_words(name, group, timed, decimals) for name, group in groups.items()
        ]
        if len(groups) == 2:
            first, second = groups.items()
            sentences.append(difference(first, second, decimals))
    return ["\n".join(f"- {sentence}" for sentence in sentences)]


def group_in_words(name: str, rows: list[Row], timed: bool, decimals: int) -> str:
    """Mean and sample standard deviation of the accuracy, and the time that it takes."""
    values = accuracies_of(rows)
    ratio = statistics.mean(float(row["ratio_to_base"]) for row in rows)
    mean, std = (f"{of(values):.{decimals}f}" for of in (statistics.mean, statistics.stdev))
    return (
        f"{name}: {mean} ± {std} % (mean and "
        f"standard deviation, n = {len(rows)} seeds of pruning and fine-tuning, one base)"
        + (f" at {ratio:.2f} × the base's time in OpenCV DNN." if timed else ".")
    )


def difference(first: tuple[str, list[Row]], second: tuple[str, list[Row]], decimals: int) -> str:
    """The gain of the second group over the first, paired by seed."""
    gain = paired_difference(accuracies_of(second[1]), accuracies_of(first[1]))
    unsure = ": the seeds alone could explain it" if gain["low"] <= 0 <= gain["high"] else ""
    points, low, high = (f"{gain[key]:+.{decimals}f}" for key in ("points", "low", "high"))
    return (
        f"{second[0]} less {first[0]}: {points} ± {gain['std']:.{decimals}f} points, by seed "
        f"(95 % t interval {low} to {high}{unsure})."
    )


def accuracies_of(rows: list[Row]) -> list[float]:
    return [float(row["accuracy"]) for row in rows]


def commands(experiments: list[Experiment]) -> str:
    """The command of each row."""
    lines = [
        shlex.join(["dvc", "exp", "run", RESULTS_STAGE, *each.settings()]) for each in experiments
    ]
    return "\n".join(["```", *lines, "```"])

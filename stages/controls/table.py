"""metrics/controls.json as Markdown: a row for each arm, the verdict, and its conditions."""

from stages.common.core.accuracy import sampling_error
from stages.common.reporting.markdown import as_table
from stages.controls.arms import PRUNED, SCRATCH


def sentence(metrics: dict) -> str:
    """The verdict, whichever way it went."""
    lead = metrics[f"{PRUNED}_minus_{SCRATCH}"]
    epochs = metrics["arms"][PRUNED]["epochs"]
    verdict = "beat" if lead["points"] > 0 else "did not beat"
    unsure = " (the seeds alone could explain it)" if lead["low"] <= 0 <= lead["high"] else ""
    return (
        f"With {epochs} {'epoch' if epochs == 1 else 'epochs'} each, pruning {verdict} simply "
        f"training the small network{unsure}: {lead['points']:+.2f} ± {lead['std']:.2f} points on "
        f"validation images (mean and standard deviation of the differences of {lead['n']} seeds; "
        f"95 % t interval {lead['low']:+.2f} to {lead['high']:+.2f})."
    )


def markdown(metrics: dict) -> str:
    """One row an arm, then the verdict and the conditions under which it holds."""
    heads = ["network", "validation accuracy", "pruned leads by [95 % interval]", "params", "MACs"]
    lines = [[*heads, "epochs", "peak rate", "training"], ["---", *["---:"] * 7]]
    lines += [row(name, arm, metrics) for name, arm in metrics["arms"].items()]
    return f"{as_table(lines)}\n\n{sentence(metrics)}\n\n{conditions(metrics)}\n"


def row(name: str, arm: dict, metrics: dict) -> list[str]:
    accuracy, lead = arm["validation_accuracy"], metrics.get(f"{PRUNED}_minus_{name}")
    return [
        name,
        f"{accuracy['mean']:.2f} ± {accuracy['std']:.2f} %",
        f"{lead['points']:+.2f} [{lead['low']:+.2f}, {lead['high']:+.2f}]" if lead else "",
        with_nonzero(arm["params"], arm["nonzero_params"]),
        with_nonzero(arm["macs"], arm["nonzero_macs"]),
        str(arm["epochs"]),
        f"{arm['learning_rate']:g}",
        f"{arm['training_flops'] / 1e12:,.1f} TFLOP",
    ]


def with_nonzero(count: int, nonzero: int) -> str:
    return f"{count:,}" if nonzero == count else f"{count:,} ({nonzero:,} non-zero)"


def conditions(metrics: dict) -> str:
    pruned = metrics["arms"][PRUNED]["validation_accuracy"]
    margin = sampling_error(pruned["mean"], metrics["validation_images"])
    return (
        f"Mean ± standard deviation of {pruned['n']} seeds, on one base, whose training cost "
        f"{metrics['base_training_flops'] / 1e12:,.1f} TFLOP: all but scratch inherit it. Channels "
        f"of pruned by {metrics['importance']}. TFLOP: training of one seed; zeros are multiplied "
        f"like any weight. {metrics['validation_images']:,} validation images (sampling error of "
        f"one accuracy: ± {margin:.2f} points, 95 %), the same for all; the test images were not "
        "read."
    )

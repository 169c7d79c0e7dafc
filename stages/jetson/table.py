"""The FP16 and symmetric INT8 files beside the FP32 and INT8 ones of the pipeline, as a table.

Reads   the folder of all metrics (evaluate/, quantize/, jetson/), the predictions on the test
        images of the pipeline's files and of these
Writes  a Markdown table: bytes, accuracy on validation and test images, how many predictions differ
        from FP32's; whether symmetric INT8 is less accurate, and what computes FP16
Params  none
Raises  InputError when a file is missing
"""

import argparse
from pathlib import Path

import numpy as np

from stages.common.core.cli import run
from stages.common.core.files import read_metrics, read_rows, write_text
from stages.common.measuring.exact_tests import mcnemar_exact
from stages.common.reporting.markdown import as_table, name_and_figures

HEADS = ["file", "bytes", "validation images", "test images", "test predictions unlike FP32's"]
FP32, FP16, INT8, SYMMETRIC = "fp32", "fp16", "int8", "int8_symmetric"
WRONG, ROUNDED = "wrong_here", "computed_in_fp16"  # keys of a check's JSON
REMEDY = "'make jetson'"


class Results:
    """Metrics and predictions of the files, by their names: pruned, pruned_fp16, ..."""

    def __init__(self, metrics: Path, predictions: Path, own_predictions: Path):
        self._metrics = metrics
        self._predictions = {False: predictions, True: own_predictions}

    def json(self, name: str) -> dict:
        return read_metrics(self._metrics / name, REMEDY)

    def test(self, name: str) -> dict:
        """Accuracy and bytes."""
        folder = "jetson/test" if is_own(name) else "evaluate"
        return self.json(f"{folder}/{name}.json")

    def predictions(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and actual classes of the test images, (N,) texts each."""
        rows = read_rows(self._predictions[is_own(name)] / f"{name}.csv", REMEDY)
        predicted, actual = (
            np.array([row[key] for row in rows]) for key in ("predicted", "actual")
        )
        return predicted, actual


def is_own(name: str) -> bool:
    """Whether this pipeline made the file, and not the main one."""
    return name.endswith((FP16, SYMMETRIC))


def page(results: Results, networks: list[str]) -> str:
    cells = [row for network in networks for row in rows_of(results, network)]
    notes = [f"- {note}" for network in networks for note in notes_of(results, network)]
    return "\n".join([as_table([HEADS, name_and_figures(HEADS), *cells]), "", *notes, ""])


def rows_of(results: Results, network: str) -> list[list[str]]:
    quantized = {
        INT8: results.json(f"quantize/{network}.json"),
        SYMMETRIC: results.json(f"jetson/{network}_{SYMMETRIC}.json"),
    }
    validation = {
        network: validation_accuracy(quantized[INT8], "fp32_accuracy"),
        **{
            f"{network}_{kind}": validation_accuracy(found, "int8_accuracy")
            for kind, found in quantized.items()
        },
    }
    expected, _ = results.predictions(network)
    rows = []
    for name in (network, *(f"{network}_{kind}" for kind in (FP16, INT8, SYMMETRIC))):
        test = results.test(name)
        changed = int((results.predictions(name)[0] != expected).sum())
        rows.append(
            [
                name,
                f"{test['size_bytes']:,}",
                validation.get(name, ""),
                f"{test['accuracy']:.2f} %",
                f"{changed:,} of {len(expected):,}",
            ]
        )
    return rows


def validation_accuracy(quantized: dict, key: str) -> str:
    """The lowest of the runtimes that are right."""
    found = [each[key] for each in quantized.values() if isinstance(each, dict) and key in each]
    return f"{min(found):.2f} %"


def notes_of(results: Results, network: str) -> list[str]:
    return [
        symmetry_note(results, network),
        precision_note(results.json(f"jetson/{network}_{FP16}.json"), network),
        *wrong_notes(results, network),
    ]


def symmetry_note(results: Results, network: str) -> str:
    usual, actual = results.predictions(f"{network}_{INT8}")
    symmetric, _ = results.predictions(f"{network}_{SYMMETRIC}")
    only_usual = int(((usual == actual) & (symmetric != actual)).sum())
    only_symmetric = int(((usual != actual) & (symmetric == actual)).sum())
    points = 100 * (only_symmetric - only_usual) / len(actual)
    return (
        f"{network}, symmetric INT8 against INT8: {points:+.2f} points on the test images; "
        f"{only_usual} are right in INT8 alone, {only_symmetric} in the symmetric file alone "
        f"(McNemar, p = {mcnemar_exact(only_usual, only_symmetric):.2g})."
    )


def precision_note(check: dict, network: str) -> str:
    runtimes = {name: each for name, each in check.items() if "computes_in" in dict_of(each)}
    largest = max(each["max_logit_difference"] for each in runtimes.values())
    flipped = max(each["flipped_predictions"] for each in runtimes.values())
    rounded = check[ROUNDED]
    places = {
        precision: [name for name, each in runtimes.items() if each["computes_in"] == precision]
        for precision in (FP16, FP32)
    }
    here = [
        f"computed in {key.upper()} by {', '.join(names)}" for key, names in places.items() if names
    ]
    return (
        f"{network}, FP16 against PyTorch's FP32: logits differ by at most {largest:g}, "
        f"{flipped} of {check['images']:,} predictions on validation images; with activations "
        f"rounded to FP16: {rounded['max_logit_difference']:g} and "
        f"{rounded['flipped_predictions']}. Here it is {'; '.join(here)}."
    )


def wrong_notes(results: Results, network: str) -> list[str]:
    """Runtimes that are wrong for a file on this machine."""
    return [
        f"{network}_{kind}: {runtime} {reason}, and is left out."
        for kind in (FP16, SYMMETRIC)
        for runtime, reason in results.json(f"jetson/{network}_{kind}.json").get(WRONG, {}).items()
    ]


def dict_of(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", type=Path, required=True, help="folder of all metrics")
    parser.add_argument("--predictions", type=Path, required=True, help="folder of the pipeline's")
    parser.add_argument("--jetson-predictions", type=Path, required=True, help="folder of these")
    parser.add_argument("--network", required=True, action="append", help="a name, such as base")
    parser.add_argument("--table", type=Path, required=True, help="Markdown to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = Results(args.metrics, args.predictions, args.jetson_predictions)
    text = page(results, args.network)
    write_text(args.table, text)
    print(f"{args.table}:\n{text}", end="")


if __name__ == "__main__":
    run(main)

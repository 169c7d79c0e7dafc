"""The robustness of all models as Markdown: accuracy, what compression costs, calibration error."""

from stages.card.pages.kinds import calibration_text, conditions_text, titles
from stages.common.core.accuracy import decimals_of, percent_text
from stages.common.reporting.markdown import as_table, name_and_figures


def markdown_page(robustness: dict) -> str:
    """``robustness``: the JSON of the stage of that name."""
    paragraphs = [
        "Accuracy:",
        percent_table(robustness, "accuracy"),
        "Points beside the model that was compressed, and their 95 % interval:",
        changes_table(robustness),
        "Expected calibration error:",
        percent_table(robustness, "calibration_error"),
        f"{conditions_text(robustness)} Interval: of the images that only one of the two got right "
        f"(McNemar's). {calibration_text(robustness)}",
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def percent_table(robustness: dict, key: str) -> str:
    kinds = titles(robustness["conditions"])
    heads = ["variant", *kinds.values()]
    rows = [
        [name, *(percent_text(block[key][kind], robustness["images"]) for kind in kinds)]
        for name, block in robustness["models"].items()
    ]
    return as_table([heads, name_and_figures(heads), *rows])


def changes_table(robustness: dict) -> str:
    kinds = titles(robustness["conditions"])
    heads = ["variant", *kinds.values()]
    rows = [
        [
            f"{name}, beside {reference}",
            *(
                change_text(block["changes"][reference][kind], robustness["images"])
                for kind in kinds
            ),
        ]
        for name, block in robustness["models"].items()
        for reference in list(block["changes"])[:1]
    ]
    return as_table([heads, name_and_figures(heads), *rows])


def change_text(change: dict, images: int) -> str:
    """ "-1.18 [-1.52, -0.84]"."""
    decimals = decimals_of(images)
    points, low, high = (
        f"{round(change[key], decimals) or 0:+.{decimals}f}" for key in ("points", "low", "high")
    )
    return f"{points} [{low}, {high}]"

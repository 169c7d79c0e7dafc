"""What each place gets: a function that fills a folder with a model, its card and programs."""

import shutil
from collections.abc import Callable
from pathlib import Path

from stages.card.pages.card import card_metadata
from stages.card.pages.card_page import card_page
from stages.common.inference.runtimes.expected import add_metadata
from stages.tools.bundle.models import Model, Pipeline
from stages.tools.bundle.pi import write_pi_bundle

CARD_FILE = "MODEL_CARD.md"


def fill_for_pi(_: Pipeline, model: Model, folder: Path) -> None:
    copy = copy_with_card(model, folder)
    (folder / CARD_FILE).write_text(card_page(model.card, files=[]))
    write_pi_bundle(copy, model.card.own["evaluated_in"], model.card.name, folder)


PLACES: dict[str, Callable[[Pipeline, Model, Path], None]] = {"pi": fill_for_pi}


def copy_with_card(model: Model, folder: Path) -> Path:
    """A copy of the ONNX file with its card in its metadata."""
    copy = folder / model.onnx.name
    shutil.copyfile(model.onnx, copy)
    add_metadata(copy, card_metadata(model.card))
    return copy

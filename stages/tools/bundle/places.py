"""The places: for each a function that fills a folder with a model, its card and programs."""

import shutil
from collections.abc import Callable
from pathlib import Path

from stages.card.pages.card import card_metadata
from stages.card.pages.card_page import card_page
from stages.common.core.accuracy import percent_text
from stages.common.core.files import digest
from stages.common.inference.runtimes.expected import add_metadata
from stages.common.mcu.bundle import write_mcu_bundle
from stages.tools.bundle.models import Model, Pipeline, TFLiteModel
from stages.tools.bundle.pi import write_pi_bundle
from stages.tools.web.bundle import write_web_bundle

CARD_FILE = "MODEL_CARD.md"
WEB_PAGE = """# A page that classifies pictures

It works on any static web server and without a network. To try it, in this folder:

```
python3 -m http.server 8000     # then http://localhost:8000
```

Each model has its card beside this page; `SHA256SUMS` is for `sha256sum --check SHA256SUMS`.
"""


def fill_for_pi(_: Pipeline, model: Model, folder: Path) -> None:
    copy = copy_with_card(model, folder)
    write_card(folder / CARD_FILE, model)
    write_pi_bundle(copy, model.card.own["evaluated_in"], model.card.name, folder)


def fill_for_mcu(pipeline: Pipeline, model: Model, folder: Path) -> None:
    tflite = pipeline.tflite(model)
    write_mcu_bundle(tflite.path, folder, tflite.arena_bytes)
    write_card(folder / CARD_FILE, model, tflite_line(tflite))


def fill_for_web(pipeline: Pipeline, model: Model, folder: Path) -> None:
    """FP32 and INT8 of the network, between which the page switches; the model is shown first."""
    copies = []
    parts = folder.with_name("copies")
    parts.mkdir()
    for each in pipeline.in_both_precisions(model):
        copies.append(copy_with_card(each, parts))
        suffix = "" if each is model else f"_{each.card.name}"
        write_card(folder / f"MODEL_CARD{suffix}.md", each)
    write_web_bundle(copies, folder)
    (folder / "README.md").write_text(WEB_PAGE)


PLACES: dict[str, Callable[[Pipeline, Model, Path], None]] = {
    "pi": fill_for_pi,
    "mcu": fill_for_mcu,
    "web": fill_for_web,
}


def copy_with_card(model: Model, folder: Path) -> Path:
    """A copy of the ONNX file with its card in its metadata."""
    copy = folder / model.onnx.name
    shutil.copyfile(model.onnx, copy)
    add_metadata(copy, card_metadata(model.card))
    return copy


def write_card(path: Path, model: Model, *files: str) -> None:
    path.write_text(card_page(model.card, list(files)))


def tflite_line(tflite: TFLiteModel) -> str:
    """For the card: the file that is packed here, and how it compares."""
    found, images = tflite.evaluation, tflite.evaluation["images"]
    return (
        f"Packed here as TFLite: `{tflite.path.name}`, {tflite.path.stat().st_size:,} bytes, "
        f"SHA-256 `{digest(tflite.path, 'sha256')}`. In LiteRT "
        f"{percent_text(found['accuracy'], images)} of the test images are right and "
        f"{percent_text(found['agreement_opencv'], images)} predicted as here."
    )

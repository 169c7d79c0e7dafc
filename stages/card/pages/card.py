"""A model card as data: what a file is, what was measured of it, and under which conditions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.card.params import CardParams
from stages.common.core.accuracy import share_interval
from stages.common.core.cli import InputError
from stages.common.core.files import digest, read_metrics
from stages.common.inference.onnx_graph import load_model, read_metadata

CARD = "card"  # key of the metadata that a bundle's copy of a file has besides
CLEAN = "clean"
CIFAR10_LICENCE = (
    "its authors state none, and ask to cite: A. Krizhevsky, Learning multiple layers of features "
    "from tiny images, 2009"
)
UNKNOWN = "not stated (card.data_licence in params.yaml)"


@dataclass(frozen=True)
class Sources:
    """The files that a card is made of: an ONNX file, and the JSONs of what was measured of it."""

    name: str
    onnx: Path
    evaluation: Path
    robustness: Path
    benchmark: Path

    @property
    def measured(self) -> tuple[Path, ...]:
        return self.evaluation, self.robustness, self.benchmark


@dataclass(frozen=True)
class Card:
    """``metadata``: that of the file, read. ``evaluation`` and ``benchmark``: the JSON blocks of
    this model; ``robustness``: the JSON of all models, this one among them.
    """

    name: str
    file: str
    size_bytes: int
    sha256: str
    metadata: dict[str, Any]
    evaluation: dict
    robustness: dict
    benchmark: dict[str, dict]  # by runtime
    environment: dict  # of the benchmark
    licences: CardParams

    @property
    def is_int8(self) -> bool:
        return "quantize" in self.metadata

    @property
    def dataset(self) -> str:
        source = self.metadata["provenance"]["data"].get("source", "cifar10")
        named = {"cifar10": "CIFAR-10", "folder": "photos in class folders"}
        return named.get(source, source.rpartition(":")[2])

    @property
    def data_licence(self) -> str:
        if self.licences.data_licence:
            return self.licences.data_licence
        return CIFAR10_LICENCE if self.dataset == "CIFAR-10" else UNKNOWN

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Clopper and Pearson's at 95 %, in percent."""
        images = self.evaluation["images"]
        low, high = share_interval(round(self.evaluation["accuracy"] * images / 100), images)
        return 100 * low, 100 * high

    @property
    def own(self) -> dict:
        """The block of the robustness."""
        return self.robustness["models"][self.name]

    @property
    def compared_with(self) -> list[str]:
        """Of an INT8 model its FP32 one, then the base."""
        return list(self.own["changes"])


def read_card(sources: Sources, licences: CardParams) -> Card:
    """Raises ``InputError`` when a file is missing or damaged, lacks the model, or speaks of
    another one: other bytes, another accuracy on the test images.
    """
    metadata = {
        key: json.loads(value) for key, value in read_metadata(load_model(sources.onnx)).items()
    }
    evaluation = read_metrics(sources.evaluation, "'dvc repro evaluate'")
    robustness = read_metrics(sources.robustness, "'make card'")
    benchmark = read_metrics(sources.benchmark, "'dvc repro benchmark'")
    require_model(sources.name, robustness["models"], sources.robustness, "'make card'")
    require_model(sources.name, benchmark, sources.benchmark, "'dvc repro benchmark'")
    card = Card(
        name=sources.name,
        file=sources.onnx.name,
        size_bytes=sources.onnx.stat().st_size,
        sha256=digest(sources.onnx, "sha256"),
        metadata=metadata,
        evaluation=evaluation,
        robustness=robustness,
        benchmark=benchmark[sources.name],
        environment=benchmark["environment"],
        licences=licences,
    )
    refuse_another_model(card, sources)
    return card


def require_model(name: str, blocks: Mapping, where: Path, remedy: str) -> None:
    if name not in blocks:
        raise InputError(f"{where} has no model '{name}'; run {remedy}")


def refuse_another_model(card: Card, sources: Sources) -> None:
    if card.evaluation["size_bytes"] != card.size_bytes:
        raise InputError(
            f"{sources.evaluation} is of a file of {card.evaluation['size_bytes']:,} bytes, "
            f"{sources.onnx} has {card.size_bytes:,}; run 'dvc repro evaluate'"
        )
    there, here = (
        (each["images"], accuracy)
        for each, accuracy in (
            (card.evaluation, card.evaluation["accuracy"]),
            (card.robustness, card.own["accuracy"][CLEAN]),
        )
    )
    if there != here:
        raise InputError(
            f"{sources.robustness} has {here[1]} % of {here[0]:,} test images right for "
            f"'{card.name}', {sources.evaluation} {there[1]} % of {there[0]:,}: they are of "
            "different models; run 'make card'"
        )


def card_metadata(card: Card) -> dict[str, str]:
    """The entry for a copy of the file: what stays true of it wherever it goes.

    Milliseconds are left out, which are another machine's, and what the file says of itself
    (classes, input, widths, params of the training). ``sha256`` is that of the file without this.
    """
    low, high = card.accuracy_interval
    content = {
        "name": card.name,
        "sha256": card.sha256,
        "licence": card.licences.licence,
        "data": {
            "name": card.dataset,
            "licence": card.data_licence,
            "test_images": card.robustness["images"],
            "test_digest": card.robustness["digest"],
        },
        "accuracy": card.evaluation["accuracy"],
        "accuracy_interval": [round(low, 2), round(high, 2)],
        "class_accuracy": card.evaluation["class_accuracy"],
        "macs": card.evaluation["macs"],
        "params": card.evaluation["params"],
        "conditions": card.robustness["conditions"],
        "accuracy_by_kind": card.own["accuracy"],
        "calibration_error": card.own["calibration_error"],
    }
    return {CARD: json.dumps(content, sort_keys=True)}

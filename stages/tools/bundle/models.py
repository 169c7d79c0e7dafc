"""The models that can be handed over: the variants of a pipeline, with their cards."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo

from stages.card.pages.card import Card, Sources, read_card
from stages.card.params import CardParams
from stages.common.core.cli import InputError
from stages.common.core.files import read_metrics
from stages.common.measuring.int8_or_fp32 import INT8_SUFFIX
from stages.common.revisions.model_files import WORKING_TREE, read_yaml, variants_of
from stages.tools.bundle.up_to_date import output_at, refuse_stale


@dataclass(frozen=True)
class Model:
    """A variant's ONNX file and its card."""

    onnx: Path
    card: Card


@dataclass(frozen=True)
class TFLiteModel:
    """An INT8 variant as TFLite, and the JSON of its evaluation; ``arena_bytes``: the memory that
    it needs on a microcontroller, where that was measured.
    """

    path: Path
    evaluation: dict
    arena_bytes: int | None


class Pipeline:
    """The models of dvc.yaml, or of stages/``folder``/dvc.yaml, whose figures are in
    metrics/``folder``.
    """

    def __init__(self, repository: Repo, folder: str, licences: CardParams):
        self._repository, self._licences = repository, licences
        self._path = Path("stages", folder, "dvc.yaml") if folder else Path("dvc.yaml")
        self._metrics = Path("metrics", folder)
        self._content = read_yaml(repository, None, self._path.as_posix(), WORKING_TREE)
        variants = variants_of(self._content, WORKING_TREE)
        self._onnx = {name: Path(path) for name, path, _ in variants}

    def model(self, name: str) -> Model:
        """Raises ``InputError`` for an unknown name, with the nearest one; for a missing file; for
        figures of another model.
        """
        if name not in self._onnx:
            near = difflib.get_close_matches(name, self._onnx, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(self._onnx)}"
            raise InputError(f"MODEL={name}: {self._path} has no such variant; {hint}")
        sources = Sources(
            name=name,
            onnx=self._onnx[name],
            evaluation=self._metrics / "evaluate" / f"{name}.json",
            robustness=self._metrics / "robustness.json",
            benchmark=self._metrics / "benchmark.json",
        )
        card = read_card(sources, self._licences)
        for measured in sources.measured:
            refuse_stale(self._repository, sources.onnx, measured)
        return Model(sources.onnx, card)

    def in_both_precisions(self, model: Model) -> list[Model]:
        """The model, and the same network in the other precision where there is that."""
        name = model.card.name
        short = name.removesuffix(INT8_SUFFIX)
        other = short if short != name else f"{name}{INT8_SUFFIX}"
        return [model, self.model(other)] if other in self._onnx else [model]

    def tflite(self, model: Model) -> TFLiteModel:
        """Raises ``InputError`` where the variant has no TFLite file; see ``model``."""
        for network, files in self._networks().items():
            if "tflite" in files and files.get("int8") == model.onnx.as_posix():
                path = Path(files["tflite"])
                evaluation = self._metrics / "evaluate_tflite" / f"{network}.json"
                found = read_metrics(evaluation, "'dvc repro evaluate_tflite'")
                refuse_stale(self._repository, path, evaluation)
                return TFLiteModel(path, found, self._arena_bytes(network, path))
        int8 = [name for name in self._onnx if name.endswith(INT8_SUFFIX)]
        raise InputError(
            f"MODEL={model.card.name} has no TFLite file; expected {' or '.join(int8)}"
        )

    def _arena_bytes(self, network: str, tflite: Path) -> int | None:
        """None where `make mcu` has not run here."""
        measured = self._metrics / "mcu" / f"{network}.json"
        if not measured.exists() or not output_at(self._repository, measured).hash_info:
            return None
        refuse_stale(self._repository, tflite, measured)
        return read_metrics(measured, "'make mcu'").get("arena_bytes")

    def _networks(self) -> dict[str, dict]:
        entries = [each for each in self._content["vars"] if isinstance(each, dict)]
        return {name: files for each in entries for name, files in each.get("networks", {}).items()}

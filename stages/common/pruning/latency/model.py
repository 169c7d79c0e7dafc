"""The latency of a network in milliseconds, predicted from its widths and a device's profile.

``deploy/profile_device.py`` measures a device and writes its profile. Its fitted part holds, for
each precision and each engine of OpenCV DNN, a constant and a table a layer, by which a network
with the widths w1, w2, ... takes

    constant_ms + layers_ms[0][24, w1] + layers_ms[1][w1, w2] + ... + layers_ms[last][w6, classes]

milliseconds in that engine. The prediction is that of the faster engine, which a deployment is
free to choose.
"""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError

FORMAT = "edge latency profile 1"
FITTED_PARTS = ("format", "device", "step", "widths", "fitted")  # needed for a prediction
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class ChainCost:
    """Milliseconds of a chain of layers in one engine.

    ``layers_ms[i][a, b]``, float64: of layer ``i`` with its a-th number of input channels and its
    b-th number of output channels. The first has one row, the last (the classes) one column.
    """

    constant_ms: float
    layers_ms: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class LatencyModel:
    """A profile's prediction for networks with at most ``widths``, in multiples of ``step``.

    ``precision``: of the network's file that ``predict`` and the search for widths speak of.
    """

    path: str
    device: str
    step: int
    widths: list[list[int]]
    engines: dict[str, dict[str, ChainCost]]  # precision -> engine -> its cost
    precision: str = "fp32"

    @property
    def costs(self) -> list[ChainCost]:
        """Those of the engines that run the precision."""
        return list(self.engines[self.precision].values())

    def predict(self, widths: list[list[int]]) -> float:
        """Milliseconds of one image in the faster engine, undisturbed by other programs.

        Raises ``InputError`` for widths that the profile does not cover.
        """
        return min(self.predict_by_engine(widths, self.precision).values())

    def predict_by_engine(self, widths: list[list[int]], precision: str) -> dict[str, float]:
        self.require_covered(widths)
        flat = [width for block in widths for width in block]
        return {
            engine: chain_latency(cost, self.positions(flat))
            for engine, cost in self.engines[precision].items()
        }

    def positions(self, widths: list[int]) -> np.ndarray:
        """The rows or columns of a table that belong to the widths: ``step`` is at 0."""
        return np.asarray(widths, dtype=np.int64) // self.step - 1

    def require_covered(self, widths: list[list[int]]) -> None:
        flat = [width for block in widths for width in block]
        if [len(block) for block in widths] != [len(block) for block in self.widths] or any(
            width > most
            for block, widest in zip(widths, self.widths, strict=True)
            for width, most in zip(block, widest, strict=True)
        ):
            raise InputError(
                f"{self.path} covers networks up to {self.widths}, not {widths}; measure the "
                "device anew with deploy/profile_device.py --widths"
            )
        if any(width % self.step for width in flat):
            raise InputError(
                f"{self.path} knows widths that are multiples of {self.step}, not {widths}; choose "
                "them so in train.widths and prune.round_to"
            )

    def require_multiple(self, round_to: int) -> None:
        """Raise ``InputError`` for a rounding that leads to widths which were not measured."""
        if round_to % self.step:
            raise InputError(
                f"prune.round_to is {round_to}; {self.path} knows widths that are multiples of "
                f"{self.step}: choose such a multiple"
            )


def chain_latency(cost: ChainCost, positions: np.ndarray) -> float:
    """Milliseconds for one position a layer, the last layer's (the classes) left out."""
    path = [0, *positions, 0]
    steps = zip(cost.layers_ms, pairwise(path), strict=True)
    return float(cost.constant_ms + sum(table[before, after] for table, (before, after) in steps))


# ------------------------------------------------------------------------------------------ files


def read_profile(path: str | Path) -> dict:
    """A profile's fitted part, checked.

    Raises ``InputError`` when the file is missing, damaged, or no profile of this project.
    """
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: the latency of this device is not known; measure it with 'python "
            f"deploy/profile_device.py {path}', or name another of deploy/profiles/ in dvc.yaml"
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); measure the device again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path} is no '{FORMAT}'; make one with 'python deploy/profile_device.py {path}'"
        )
    model_from(content, path)
    return {key: content[key] for key in FITTED_PARTS}


def load_latency_model(path: str | Path, precision: str = "fp32") -> LatencyModel:
    """The latency model that the stage latency_profile has written, or that of a whole profile.

    Raises ``InputError`` for a missing or damaged file, for one without latencies, and for a
    precision that the device does not run.
    """
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro'") from None
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); run 'dvc repro'") from None
    if isinstance(content, dict) and content.get("used") is False:
        raise InputError(f"{path} holds no latencies; run 'dvc repro latency_profile'")
    return in_precision(model_from(content, path), precision)


def in_precision(model: LatencyModel, precision: str) -> LatencyModel:
    """The same device with the files of a precision; ``InputError`` where it does not run them."""
    model = replace(model, precision=precision)
    if not model.costs:
        raise InputError(
            f"{model.path}: no engine of {model.device} runs {precision} networks: set "
            "prune.precision to fp32"
        )
    return model


def model_from(content: dict, path: str | Path) -> LatencyModel:
    """Raises ``InputError`` naming the first thing in the content that is missing or wrong."""
    try:
        model = LatencyModel(
            path=str(path),
            device=str(content["device"]),
            step=int(content["step"]),
            widths=[[int(width) for width in block] for block in content["widths"]],
            engines={
                precision: {
                    engine: ChainCost(
                        constant_ms=float(cost["constant_ms"]),
                        layers_ms=tuple(
                            np.array(table, dtype=np.float64) for table in cost["layers_ms"]
                        ),
                    )
                    for engine, cost in content["fitted"][precision].items()
                }
                for precision in PRECISIONS
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is damaged ({reason}); measure the device again") from None
    refuse_damage(model)
    return model


def refuse_damage(model: LatencyModel) -> None:
    """Every engine must have a table of the right shape for every layer, and no negative time.

    A device may run no INT8 network; one that runs no FP32 network has no profile.
    """
    if model.step < 1 or any(width % model.step for block in model.widths for width in block):
        raise InputError(f"{model.path} is damaged (widths are no multiples of the step)")
    sizes = [1, *(width // model.step for block in model.widths for width in block), 1]
    shapes = list(pairwise(sizes))
    if not model.engines["fp32"]:
        raise InputError(f"{model.path} is damaged (no engine for fp32)")
    for precision, engines in model.engines.items():
        for engine, cost in engines.items():
            found = [table.shape for table in cost.layers_ms]
            values = [np.array([cost.constant_ms]), *cost.layers_ms]
            sound = all(np.isfinite(table).all() and (table >= 0).all() for table in values)
            if found != shapes or not sound:
                raise InputError(
                    f"{model.path} is damaged ({precision}, {engine}: expected finite tables of "
                    f"the shapes {shapes}, found {found}); measure the device again"
                )

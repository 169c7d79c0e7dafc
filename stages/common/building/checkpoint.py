"""Checkpoints: files that describe their network themselves, as data without code."""

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.common.core.cli import InputError, first_line
from stages.common.core.files import write_bytes
from stages.common.network.chain import Chain
from stages.common.network.imported import ImportedNetwork, give_shapes
from stages.common.network.network import Network
from stages.common.network.params import CHAIN


@dataclass(frozen=True)
class Checkpoint:
    """A model and where it came from (params and data digest of every stage that shaped it)."""

    model: Network
    provenance: dict


def save_checkpoint(path: str | Path, model: Network, provenance: dict) -> None:
    """Write config, weights and provenance; equal content gives equal bytes."""
    content = {
        "config": model.config,
        "state_dict": {
            name: value.cpu().clone(memory_format=torch.contiguous_format)
            for name, value in model.state_dict().items()
        },
        "provenance": provenance,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(
    path: str | Path, factory: str = CHAIN, remedy: str = "run 'dvc repro'"
) -> Checkpoint:
    """Rebuild a saved model, on the CPU and in eval mode.

    ``factory`` is network.factory of params.yaml: a checkpoint of another one is refused, so that
    a file from elsewhere never chooses what code runs. Raises ``InputError`` when the file is
    missing, damaged, no checkpoint of this project, or of another factory.
    """
    try:
        content = torch.load(path, weights_only=True)
        found = content["config"].get("factory", CHAIN)
        if found == factory:
            model = rebuilt(content["config"], content["state_dict"])
            return Checkpoint(model=model.eval(), provenance=content["provenance"])
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro' (or 'dvc pull')") from None
    except (
        OSError,
        EOFError,
        RuntimeError,
        LookupError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = first_line(error)
        raise InputError(
            f"{path} is no checkpoint of this pipeline ({reason}); delete it and run 'dvc repro'"
        ) from None
    raise InputError(f"{path} holds a network of {found}, not of {factory}; {remedy}")


def load_chain(path: str | Path) -> Chain:
    """The network of a checkpoint, for what is made for the default network alone.

    Raises ``InputError`` as ``load_checkpoint`` does.
    """
    model = load_checkpoint(path, CHAIN, "what you started takes no other network").model
    assert isinstance(model, Chain)
    return model


def rebuilt(config: dict, weights: dict[str, torch.Tensor]) -> Network:
    """The network that a checkpoint describes, pruned or not."""
    model: Network
    if "factory" in config:
        model = ImportedNetwork(config)
        give_shapes(model, weights)
    else:
        model = Chain(config)
    model.load_state_dict(with_versions_of(model, weights))
    return model


def with_versions_of(model: Network, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with the versions of the model's layers, which torchvision's MNASNet asks for."""
    versioned = OrderedDict(weights)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    return versioned

"""Pretrained weights: a file, verified by its digest and loaded as data."""

import importlib.util
import pickle
from pathlib import Path

import torch
from torch import Tensor

from stages.common.core.cli import InputError
from stages.common.core.files import digest
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.network.params import NetworkParams, split_name


def load_pretrained(network: Network, params: NetworkParams) -> str:
    """Copy the weights into the network's body; return a line that says what they are.

    The output layer keeps its new weights where the file's are of another number of classes.
    Raises ``InputError`` for a file that is missing, is not the one of ``weights_sha256``, holds no
    weights, or those of another network.
    """
    if not isinstance(network, ImportedNetwork):
        raise InputError("network.weights is for other networks than the chain: set it to ''")
    path = weights_file(params)
    weights = read_weights(path)
    own = network.body.state_dict()
    output = output_names(network)
    exchanged = [
        name for name in output if name in weights and weights[name].shape != own[name].shape
    ]
    wrong = [name for name in weights if name not in own]
    wrong += [name for name in own if name not in weights and not name.endswith("tracked")]
    wrong += [
        name
        for name in own
        if name in weights and name not in exchanged and weights[name].shape != own[name].shape
    ]
    if wrong:
        raise InputError(
            f"network.weights: {path} holds weights of another network than {params.factory} "
            f"({len(wrong)} tensors differ, the first is '{wrong[0]}'); change one of them, or "
            "network.arguments"
        )
    kept = {name: value for name, value in weights.items() if name not in exchanged}
    network.body.load_state_dict(kept, strict=False)
    classes = len(own[output[0]])
    head = f"; its output layer is new, for {classes} classes" if exchanged else ""
    return f"{path.name}: {len(kept)} tensors of pretrained weights{head}"


def output_names(network: ImportedNetwork) -> list[str]:
    """The names of the output layer's weight and bias in the body."""
    layer = network.output_layer()
    [path] = [name for name, each in network.body.named_modules() if each is layer]
    return [f"{path}.{key}".lstrip(".") for key, _ in layer.named_parameters()]


def weights_file(params: NetworkParams) -> Path:
    """The verified file; raises ``InputError`` when it is missing or not the expected one."""
    path = locate(params.weights)
    if not path.is_file():
        raise InputError(f"network.weights: {path} is missing; expected a file, or package:file")
    found = digest(path, "sha256")
    if found != params.weights_sha256:
        raise InputError(
            f"network.weights: {path} has the SHA-256 {found}, network.weights_sha256 is "
            f"'{params.weights_sha256}'; get the right file, or set the key to this one's"
        )
    return path


def locate(weights: str) -> Path:
    """A path, or 'package:file' for a file inside an installed package."""
    package, name = split_name(weights)
    if not name or Path(weights).exists():
        return Path(weights)
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"network.weights is {weights}; no package '{package}' is installed: install it, or "
            "name a file"
        )
    return Path(spec.submodule_search_locations[0]) / name


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name; some files hold them under 'state_dict' or 'model'.

    Raises ``InputError`` for a file that holds anything else, such as a whole pickled module.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, LookupError, pickle.UnpicklingError):
        # PyTorch's own text recommends to run the file's code.
        raise refusal(path, "it is damaged, or holds more than tensors") from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise refusal(path, f"its content is of type {type(content).__name__}")
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise refusal(path, f"{name!r} in it is of type {type(value).__name__}")
    return {name.removeprefix("module."): value for name, value in content.items()}


def refusal(path: Path, reason: str) -> InputError:
    return InputError(
        f"network.weights: {path} holds no weights ({reason}); expected what "
        "torch.save(network.state_dict(), file) writes"
    )

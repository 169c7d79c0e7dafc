"""The bytes of a network on a microcontroller, predicted from its widths.

Flash is the INT8 TFLite file, RAM the tensor arena of TensorFlow Lite Micro. ``memory_model``
writes the file of the unpruned network and describes it here: which operators read what, and how
many bytes do not depend on widths.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from stages.common.core.cli import InputError
from stages.common.network.chain import Chain
from stages.common.network.network import Network
from stages.common.pruning.groups import shown_name
from stages.common.pruning.memory.arena import Operator, arena_bytes

FORMAT = "edge memory model 1"
Outputs = Mapping[str, int]  # output channels by layer, under the names of the ONNX file


@dataclass(frozen=True)
class Described:
    """One operator of the file. ``layer``: the network's name of it, "" without weights.

    ``kernel``: weights for each output channel and each input channel that it sees; ``groups``: of
    its input channels it sees one in so many, 0: its own alone (depthwise). ``channel_bytes``: of
    the file for each output channel besides weights: bias and scales.
    """

    kind: str
    reads: tuple[str, ...]
    writes: str
    layer: str
    kernel: int
    groups: int
    channel_bytes: int

    def bytes(self, outputs: int, inputs: int) -> int:
        """Of its weights, biases and scales in the file; 0 without weights."""
        if not self.layer:
            return 0
        seen = inputs // self.groups if self.groups else 1
        return outputs * (seen * self.kernel + self.channel_bytes)


@dataclass(frozen=True)
class MemoryModel:
    """``positions``: height times width of every activation, ``channels``: of the unpruned network;
    both by name, in the file's order. ``fixed``: bytes of the file whatever the widths.
    ``constants``: the number of its tensors that are no activations.
    """

    operators: tuple[Described, ...]
    positions: dict[str, int]
    channels: dict[str, int]
    fixed: int
    constants: int

    def bytes(self, target: str, outputs: Outputs) -> int:
        """Of ``flash`` or ``ram``."""
        return {"flash": self.flash, "ram": self.ram}[target](outputs)

    def flash(self, outputs: Outputs) -> int:
        channels = self.channels_of(outputs)
        return self.fixed + sum(
            each.bytes(channels[each.writes], channels[each.reads[0]]) for each in self.operators
        )

    def ram(self, outputs: Outputs) -> int:
        channels = self.channels_of(outputs)
        operators = [
            Operator(each.kind, each.reads, each.writes, channels[each.writes] if each.layer else 0)
            for each in self.operators
        ]
        sizes = {name: self.positions[name] * channels[name] for name in self.positions}  # int8
        return arena_bytes(operators, sizes, self.constants)

    def channels_of(self, outputs: Outputs) -> dict[str, int]:
        """The channels of every activation of a network whose layers have so many outputs."""
        first = next(iter(self.channels))
        found = {first: self.channels[first]}
        for each in self.operators:
            read = [found[name] for name in each.reads]
            if each.layer:
                found[each.writes] = outputs[each.layer]
            else:
                found[each.writes] = sum(read) if each.kind == "CONCATENATION" else max(read)
        return found

    def require_same(self, network: Network) -> None:
        """Raise ``InputError`` unless the network's layers are those that are described here."""
        outputs = outputs_of(network)
        missing = [
            each.layer for each in self.operators if each.layer and each.layer not in outputs
        ]
        if missing or self.channels_of(outputs) != self.channels:
            raise InputError(
                "prune.target flash and ram cannot follow the layers of this network to its TFLite "
                f"file ({', '.join(missing) or 'other widths'}); let prune.target be macs or params"
            )


def outputs_of(network: Network) -> dict[str, int]:
    """The output channels of every convolution and linear layer, by the names of the ONNX file."""
    return {
        name: len(layer.weight)
        for name, layer in zip(layer_names(network), weighted(network), strict=True)
    }


def weighted(network: Network) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def layer_names(network: Network) -> list[str]:
    """Of the chain those that ``folding.py`` gives, 'block1_conv1'; else the factory's."""
    if isinstance(network, Chain):
        blocks = [
            f"block{number}_conv{index}"
            for number, block in enumerate(network.layers(), 1)
            for index in range(1, len(block) + 1)
        ]
        return ["whitening", *blocks, "head"]
    return [
        shown_name(name)
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]


def load_memory_model(path: str | Path) -> MemoryModel:
    """Raises ``InputError`` when the file is missing, damaged, or describes no network."""
    try:
        content = json.loads(Path(path).read_text())
        if not content["used"]:
            raise InputError(f"{path} describes no network; run 'dvc repro memory_model'")
        if content["format"] != FORMAT:
            raise KeyError(content["format"])
        return MemoryModel(
            operators=tuple(
                Described(**{**each, "reads": tuple(each["reads"])})
                for each in content["operators"]
            ),
            positions={name: each[0] for name, each in content["activations"].items()},
            channels={name: each[1] for name, each in content["activations"].items()},
            fixed=content["fixed_bytes"],
            constants=content["constants"],
        )
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro memory_model'") from None
    except (json.JSONDecodeError, LookupError, TypeError):
        raise InputError(
            f"{path} is no memory model of this version; delete it and run 'dvc repro memory_model'"
        ) from None

"""The tensor arena that TensorFlow Lite Micro needs for a network, estimated.

An arena holds the activations, placed by TFLM's planner, and, as long as the interpreter lives,
records of tensors, operators and output channels. The records' sizes were fitted to the smallest
arenas of 30 networks in tflite-micro 0.dev20261023182759 on a 64-bit host, and meet all of them
within 8 bytes; on a 32-bit device, where a pointer has half the bytes, records are smaller. Source
of the planner: tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc
"""

from bisect import insort_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 16  # bytes, of every activation and of a channel's numbers
INTERPRETER_BYTES = 721  # allocator, planner, the tensors of input and output
TENSOR_BYTES = 24
OPERATOR_BYTES = {  # a node, and what its kernel keeps
    "ADD": 136,
    "AVERAGE_POOL_2D": 135,
    "CONCATENATION": 160,
    "CONV_2D": 172,
    "DEPTHWISE_CONV_2D": 170,
    "FULLY_CONNECTED": 178,
    "HARD_SWISH": 95,
    "LOGISTIC": 82,
    "MAX_POOL_2D": 135,
    "MEAN": 124,
    "MUL": 116,
    "PAD": 126,
    "PADV2": 126,
    "QUANTIZE": 93,
}


@dataclass(frozen=True)
class Operator:
    """``kind``: TFLite's name of it. ``reads``, ``writes``: activations, by name.

    ``channels``: outputs of its weights, each with its own scale; 0 without weights.
    """

    kind: str
    reads: tuple[str, ...]
    writes: str
    channels: int = 0


@dataclass(frozen=True)
class Buffer:
    """Bytes that are alive from one step to another, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: "Buffer") -> bool:
        return self.first <= other.last and other.first <= self.last


def arena_bytes(operators: Sequence[Operator], sizes: Mapping[str, int], constants: int) -> int:
    """``sizes``: bytes of each activation, in the order of the file's tensors; ``constants``: how
    many tensors of weights and biases there are.
    """
    return planned_bytes(buffers_of(operators, sizes)) + records_bytes(
        operators, len(sizes) + constants
    )


def buffers_of(operators: Sequence[Operator], sizes: Mapping[str, int]) -> list[Buffer]:
    """An input is alive from step 0, an output to the last one; an operator is a step, from 1."""
    made = {each.writes: step for step, each in enumerate(operators, 1)}
    read = {name: step for step, each in enumerate(operators, 1) for name in each.reads}
    return [
        Buffer(
            size=aligned(size),
            first=made.get(name, 0),
            last=read.get(name, len(operators)),
        )
        for name, size in sizes.items()
    ]


def planned_bytes(buffers: Sequence[Buffer]) -> int:
    """The largest buffers first, each in the first gap between those that are alive with it."""
    placed: list[tuple[int, Buffer]] = []  # by offset
    order = sorted(range(len(buffers)), key=lambda index: (-buffers[index].size, -index))
    for buffer in (buffers[index] for index in order):
        offset = 0
        for start, other in placed:
            if other.meets(buffer):
                if start - offset >= buffer.size:
                    break
                offset = max(offset, start + other.size)
        insort_right(placed, (offset, buffer), key=lambda each: each[0])
    return max(offset + buffer.size for offset, buffer in placed)


def records_bytes(operators: Sequence[Operator], tensors: int) -> int:
    """Bytes of the records that live as long as the interpreter: two int32 a channel among them."""
    channels = sum(2 * aligned(4 * each.channels) for each in operators)
    kinds = sum(OPERATOR_BYTES[each.kind] for each in operators)
    return INTERPRETER_BYTES + TENSOR_BYTES * tensors + kinds + channels


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT

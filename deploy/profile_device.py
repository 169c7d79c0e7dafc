"""Measure what the layers of our networks cost on this device, in OpenCV DNN: its profile.

This one file needs Python 3.10 or newer, numpy and opencv-python, and nothing else of this
repository: copy it to a device and run

    python profile_device.py raspberry-pi-5.json --device "Raspberry Pi 5"

Reads   nothing: the networks have random weights, because latency depends on shapes alone
Writes  a JSON with the device, its processor, the threads, the version of OpenCV and the date; what
        was measured (milliseconds: undisturbed, median, 95th percentile); and what was fitted to it
Exits   with 2 and one line when no engine runs our networks or the file cannot be written, before
        anything is measured; an engine that this OpenCV does not have is left out

1. Every kind of layer is timed alone, over a grid of its channels in and out, FP32 and INT8, in
   every engine of OpenCV. Between the points of the grid lines are drawn, apart for odd and even
   multiples of 8 channels out, because kernels work on blocks of them.
2. Whole networks of random widths are timed as well. A layer alone has its weights in the cache
   and its input copied, so that layers do not add up to a network; as in AOWS (Berman et al. 2020)
   the terms of the sum are therefore fitted to the networks: each layer's table gets a factor near
   1, and activations, weights and a call their own prices. How far off networks are that the fit
   has not seen (cross-validation) is part of the profile.
3. Everything is timed in rounds, each in an order of its own, beside one reference network (half
   the widest): what counts is the ratio to its time, so that a drift of the device cancels.
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path

try:
    import cv2
    import numpy as np
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"error: {error}; run: python3 -m pip install numpy opencv-python", file=sys.stderr)
    sys.exit(2)

FORMAT = "edge latency profile 1"
IMAGE = (3, 32, 32)
CLASSES = 10
STEM_WIDTH, STEM_KERNEL = 24, 2  # the whitening layer, which pruning leaves as it is
WIDEST = [[64, 64], [256, 256], [256, 256]]
STEP = 8  # all widths are multiples of this
PRECISIONS = ("fp32", "int8")
ENGINES = ("new", "classic")  # of OpenCV DNN
FOLDS = 8  # of the networks, in cross-validation
GROSS = 0.03  # relative error of a network from which it counts for less in the fit
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # how much the fit is drawn to the sum of layers
REWEIGHTED = 20  # times, until the weights hardly change
SETTLE_CALLS = 4  # calls of a turn that do not count, at least, and
SETTLE_MS = 4.0  # for how long: while caches and clock adapt
CALLS = 8  # of a turn that do
UNDISTURBED = 0.1  # quantile of calls that no other program interrupts, even where most are
NEAR = 2  # turns of the reference network, on either side, that tell the speed with its own
MOST_THREADS = 1024  # OpenCV starts them all at once
MOST_SECONDS = 7 * 24 * 3600
MOST_NETWORKS = 10_000
MOST_CHANNELS = 4096
MOST_BLOCKS = 4  # each halves the 31 pixels behind the stem
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")

# ------------------------------------------------------------------------- ONNX files, by hand
#
# Protocol buffers: a message is a row of fields, each a key (number << 3 | kind) and a value; kind
# 0 is a varint, 2 is bytes with their length before them, 5 is four bytes. Numbers of the fields:
# https://github.com/onnx/onnx/blob/v1.18.0/onnx/onnx.proto

FLOAT, UINT8, INT8, INT32 = 1, 2, 3, 6  # TensorProto.DataType
ONNX_TYPES = {"float32": FLOAT, "uint8": UINT8, "int8": INT8, "int32": INT32}
IR_VERSION, OPSET = 10, 18


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)
    return bytes(content)


def field(number: int, value: int | float | str | bytes) -> bytes:
    """An int (not negative), a float, a text or the bytes of a message, as one field."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + np.float32(value).tobytes()
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def attribute(name: str, value: int | float | str | list[int]) -> bytes:
    """AttributeProto of an int, a float, a text or a list of ints."""
    if isinstance(value, list):
        return field(1, name) + b"".join(field(8, each) for each in value) + field(20, 7)
    number, kind = {int: (3, 2), float: (2, 1), str: (4, 3)}[type(value)]
    return field(1, name) + field(number, value) + field(20, kind)


def node(operator: str, inputs: list[str], output: str, attributes: dict) -> bytes:
    """NodeProto with one output."""
    content = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, operator)
    return content + b"".join(field(5, attribute(*each)) for each in attributes.items())


def tensor(name: str, array: np.ndarray) -> bytes:
    """TensorProto of a numpy array."""
    dims = b"".join(field(1, size) for size in array.shape)
    kind = field(2, ONNX_TYPES[array.dtype.name])
    return dims + kind + field(8, name) + field(9, array.tobytes())


def value_info(name: str, shape: tuple[int, ...]) -> bytes:
    """ValueInfoProto of float32 (batch, *shape)."""
    dims = [field(2, "batch"), *(field(1, size) for size in shape)]
    shape_proto = b"".join(field(1, dim) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, shape_proto)))


def model(
    nodes: list[bytes], tensors: list[bytes], inputs: list[bytes], outputs: list[bytes]
) -> bytes:
    """ModelProto."""
    graph = b"".join(field(1, each) for each in nodes) + field(2, "main_graph")
    graph += b"".join(field(5, each) for each in tensors)
    graph += b"".join(field(11, each) for each in inputs)
    graph += b"".join(field(12, each) for each in outputs)
    return field(1, IR_VERSION) + field(7, graph) + field(8, field(1, "") + field(2, OPSET))


# ------------------------------------------------------------------------------ our networks
#
# The same operators as stages/export.py and stages/quantize.py write, with random weights:
# latency depends on shapes and not on values.


@dataclass(frozen=True)
class Layer:
    """A convolution of (channels_in, size, size) with its ReLU and max-pooling, or the head.

    ``pools`` follow one another: the last convolution of a network ends in the global one.
    """

    channels_in: int
    channels_out: int
    size: int
    kernel: int = 3
    pools: tuple[int, ...] = ()
    is_head: bool = False

    @property
    def shape_in(self) -> tuple[int, ...]:
        return (self.channels_in, self.size, self.size)

    @property
    def pad(self) -> int:
        return self.kernel // 3  # the 3x3 convolutions keep the size, the stem's 2x2 does not

    @property
    def positions(self) -> int:
        """Where the weights are applied: multiply-accumulates for each weight."""
        return 1 if self.is_head else (self.size - self.kernel + 1 + 2 * self.pad) ** 2

    @property
    def shape_out(self) -> tuple[int, ...]:
        if self.is_head:
            return (self.channels_out,)
        size = self.size - self.kernel + 1 + 2 * self.pad
        for pool in self.pools:
            size //= pool
        return (self.channels_out, size, size)


def layers_of(widths: list[list[int]]) -> list[Layer]:
    """The layers of a network: the stem, the convolutions of every block, the head."""
    layers = [Layer(IMAGE[0], STEM_WIDTH, IMAGE[1], kernel=STEM_KERNEL)]
    for block in widths:
        for index, width in enumerate(block):
            channels, size, _ = layers[-1].shape_out
            layers.append(Layer(channels, width, size, pools=(2,) if index == 0 else ()))
    last = layers.pop()
    channels, size, _ = last.shape_out
    layers.append(Layer(last.channels_in, channels, last.size, pools=(*last.pools, size)))
    return [*layers, Layer(channels, CLASSES, 1, kernel=1, is_head=True)]


NOISE = np.random.default_rng(0).integers(-64, 65, size=65_521).astype(np.int8)


class Graph:
    """Layers one after the other as an ONNX file, in FP32 or as INT8 (QDQ)."""

    def __init__(self, shape: tuple[int, ...], is_int8: bool):
        self.is_int8 = is_int8
        self.shape_in = shape
        self.nodes: list[bytes] = []
        self.tensors: list[bytes] = []
        self.last = "pixels"
        if is_int8:
            self.quantize(scale=1.0)

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(tensor(name, array))
        return name

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(node(operator, inputs, output, attributes))
        return output

    def quantize(self, scale: float) -> None:
        """A pair around every tensor of activations: uint8, one scale."""
        self.scale = (
            self.constant(np.array(scale, np.float32)),
            self.constant(np.array(0, np.uint8)),
        )
        self.requantize()

    def requantize(self) -> None:
        """The scale stays where an operator only moves values: behind pooling and flattening."""
        if self.is_int8:
            codes = self.add("QuantizeLinear", [self.last, *self.scale])
            self.last = self.add("DequantizeLinear", [codes, *self.scale])

    def weights(self, shape: tuple[int, ...]) -> str:
        """(channels_out, ...) float32; or int8 and one scale for each channel."""
        noise = np.resize(NOISE, int(np.prod(shape))).reshape(shape)
        if self.is_int8:
            return self.dequantized(noise, np.int8)
        fan_in = np.prod(shape[1:])
        return self.constant(noise.astype(np.float32) / np.float32(32 * fan_in**0.5))

    def bias(self, channels: int) -> str:
        if not self.is_int8:
            return self.constant(np.zeros(channels, np.float32))
        return self.dequantized(np.zeros(channels), np.int32)

    def dequantized(self, codes: np.ndarray, kind: type) -> str:
        channels = len(codes)
        scale = self.constant(np.full(channels, 0.01, np.float32))
        inputs = [self.constant(codes.astype(kind)), scale, self.constant(np.zeros(channels, kind))]
        return self.add("DequantizeLinear", inputs, axis=0)

    def append(self, layer: Layer) -> None:
        if layer.is_head:
            self.append_head(layer)
            return
        weight = self.weights((layer.channels_out, layer.channels_in, layer.kernel, layer.kernel))
        inputs = [self.last, weight, self.bias(layer.channels_out)]
        self.last = self.add("Conv", inputs, **window(layer.kernel, 1, layer.pad))
        if self.is_int8:
            self.quantize(scale=0.05)  # from 0 up: it is the ReLU as well
        else:
            self.last = self.add("Relu", [self.last])
        for pool in layer.pools:
            self.last = self.add("MaxPool", [self.last], **window(pool, pool, 0), ceil_mode=0)
            self.requantize()

    def append_head(self, layer: Layer) -> None:
        self.last = self.add("Flatten", [self.last], axis=1)
        self.requantize()
        weight = self.weights((layer.channels_out, layer.channels_in))
        self.last = self.add("Gemm", [self.last, weight], alpha=1.0, beta=1.0, transA=0, transB=1)

    def to_onnx(self, shape_out: tuple[int, ...]) -> bytes:
        inputs = [value_info("pixels", self.shape_in)]
        return model(self.nodes, self.tensors, inputs, [value_info(self.last, shape_out)])


def window(kernel: int, stride: int, pad: int) -> dict:
    """Attributes of a square window."""
    return {
        "auto_pad": "NOTSET",
        "dilations": [1, 1],
        "kernel_shape": [kernel, kernel],
        "pads": [pad] * 4,
        "strides": [stride, stride],
    }


def onnx_of(layers: list[Layer], is_int8: bool) -> bytes:
    """The bytes of an ONNX file with these layers."""
    graph = Graph(layers[0].shape_in, is_int8)
    for layer in layers:
        graph.append(layer)
    return graph.to_onnx(layers[-1].shape_out)


def random_widths(rng: np.random.Generator, widest: list[list[int]]) -> list[list[int]]:
    """A share of the widest for the network, and a factor for each layer; multiples of STEP."""
    share = rng.uniform(0.1, 1.0)
    return [
        [
            STEP * int(np.clip(round(most * share * rng.uniform(0.5, 1.5) / STEP), 1, most // STEP))
            for most in block
        ]
        for block in widest
    ]


# ------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Case:
    """Something to time: a layer of the grid (number, channels in, out), or a network (widths)."""

    layers: list[Layer]
    is_int8: bool
    what: list


@dataclass(frozen=True)
class Visit:
    """One turn of a case in each of its engines, and one of the reference network before them."""

    number: int  # of the case
    case: Case
    reference_ms: float  # undisturbed
    samples_ms: dict[str, np.ndarray]  # by engine


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a case in an engine, of all its turns."""

    case: Case
    engine: str
    samples_ms: np.ndarray

    def undisturbed_ms(self) -> float:
        return undisturbed(self.samples_ms)

    def summary(self) -> list[float]:
        """Undisturbed milliseconds, median, 95th percentile."""
        shares = [UNDISTURBED, 0.5, 0.95]
        return [round(float(each), 5) for each in np.quantile(self.samples_ms, shares)]


def undisturbed(samples: np.ndarray) -> float:
    """A low quantile: what interrupts calls only ever makes them longer."""
    return float(np.quantile(samples, UNDISTURBED))


def known_engines() -> dict[str, int | None]:
    """The engines of this OpenCV by the number that chooses one, None where there is but one.

    OpenCV 5.0 has two; older ones know no other than the classic one, newer ones the new one.
    """
    numbers = {name: getattr(cv2.dnn, f"ENGINE_{name.upper()}", None) for name in ENGINES}
    found: dict[str, int | None] = {
        name: each for name, each in numbers.items() if each is not None
    }
    is_old = int(cv2.__version__.split(".")[0]) < 5
    return found or {"classic" if is_old else "new": None}


def load(content: bytes, engine: str) -> cv2.dnn.Net:
    """From a file: read from memory, OpenCV 5.0 forgets which engine was asked for."""
    code = known_engines()[engine]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.onnx"
        path.write_bytes(content)
        return cv2.dnn.readNetFromONNX(str(path), *([] if code is None else [code]))


def working_engines(widest: list[list[int]]) -> dict[str, list[str]]:
    """The engines that run our networks, for each precision."""
    found: dict[str, list[str]] = {precision: [] for precision in PRECISIONS}
    for engine in set(ENGINES) - known_engines().keys():
        print(f"engine left out: OpenCV {cv2.__version__} has no '{engine}'", file=sys.stderr)
    for precision, engine in product(PRECISIONS, known_engines()):
        try:
            net = load(onnx_of(layers_of(widest), precision == "int8"), engine)
            net.setInput(np.zeros((1, *IMAGE), np.float32))
            if net.forward().shape == (1, CLASSES):
                found[precision].append(engine)
        except cv2.error as error:
            print(f"no {precision} in the engine '{engine}': {error.err}", file=sys.stderr)
    return found


def time_turn(call: Callable[[], object], calls: int) -> list[int]:
    """Nanoseconds of so many calls in a row, after those that settle it and do not count."""
    began = time.perf_counter_ns()
    dropped = 0
    while dropped < SETTLE_CALLS or time.perf_counter_ns() - began < SETTLE_MS * 1e6:
        call()
        dropped += 1
    samples_ns = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        call()
        samples_ns.append(time.perf_counter_ns() - start)
    return samples_ns


def caller(content: bytes, shape_in: tuple[int, ...], engine: str) -> Callable[[], object]:
    """A call with batch 1, input copied, of a network loaded for it."""
    net = load(content, engine)
    blob = np.random.default_rng(0).random((1, *shape_in), np.float32)

    def call() -> None:
        net.setInput(blob)
        net.forward()

    return call


def visit(number: int, case: Case, engines: list[str], reference: Callable[[], object]) -> Visit:
    reference_ms = undisturbed(np.array(time_turn(reference, CALLS))) / 1e6
    content = onnx_of(case.layers, case.is_int8)
    samples_ms = {
        engine: np.array(time_turn(caller(content, case.layers[0].shape_in, engine), CALLS)) / 1e6
        for engine in engines
    }
    return Visit(number, case, reference_ms, samples_ms)


def measure(
    cases: list[Case],
    engines: dict[str, list[str]],
    reference: Callable[[], Callable[[], object]],
    seconds: float,
    title: str,
) -> list[Visit]:
    """All visits in the order of time: each round visits every case, in an order of its own.

    At least one round, and about as many as the time allows. ``reference`` loads the reference
    network: anew in each round, because its place in memory changes its speed.
    """
    rng, visits = np.random.default_rng(0), []
    began, rounds, spent = time.perf_counter(), 0, 0.0
    while rounds == 0 or seconds - spent >= spent / rounds / 2:
        call = reference()
        for done, number in enumerate(rng.permutation(len(cases)).tolist(), 1):
            case = cases[number]
            visits.append(visit(number, case, engines[PRECISIONS[case.is_int8]], call))
            if done % max(len(cases) // 4, 1) == 0:
                print(f"{title}, round {rounds + 1}: {done / len(cases):.0%}", file=sys.stderr)
        rounds += 1
        spent = time.perf_counter() - began
    return visits


def at_one_speed(visits: list[Visit], reference_ms: float) -> list[Timing]:
    """The timings of all cases, in each engine, as if the device had kept one speed.

    A visit's milliseconds are divided by the reference network's at that time, the median of the
    nearest turns, and multiplied by ``reference_ms``: a drift of the clock or of other programs'
    share concerns both and cancels.
    """
    speeds = running_median(np.array([each.reference_ms for each in visits]))
    cases = {each.number: each.case for each in visits}
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    for each, speed in zip(visits, speeds, strict=True):
        for engine, samples_ms in each.samples_ms.items():
            found.setdefault((each.number, engine), []).append(samples_ms * reference_ms / speed)
    return [
        Timing(cases[number], engine, np.concatenate(found[number, engine]))
        for number, engine in sorted(found)
    ]


def running_median(values: np.ndarray) -> np.ndarray:
    """(n,): the median of each value and the ``NEAR`` on either side, where there are so many."""
    return np.array(
        [np.median(values[max(i - NEAR, 0) : i + NEAR + 1]) for i in range(len(values))]
    )


def halved(widest: list[list[int]]) -> list[list[int]]:
    """The widths of the reference network, multiples of STEP."""
    return [[max(width // 2 // STEP, 1) * STEP for width in block] for block in widest]


# --------------------------------------------------------------------------------------- the grid


def channels_out(most: int) -> list[int]:
    """Every step up to 80, where kernels change; then the last odd and even step of every 64."""
    ends = [*range(64, most + 1, 64), most]
    near = [end - less for end in ends for less in (STEP, 0)]
    return sorted({count for count in (*range(STEP, 81, STEP), *near) if STEP <= count <= most})


def channels_in(most: int) -> list[int]:
    """Time is almost linear in them, but for thresholds, of which 64 is one."""
    candidates = (8, 32, 56, 64, 128, 256, 512, 1024)
    return sorted({count for count in candidates if count < most} | {most})


def grids_of(widest: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """The channels in and out at which each layer after the stem is timed."""
    flat = [width for block in widest for width in block]
    inputs = [[STEM_WIDTH], *(channels_in(width) for width in flat)]
    return list(zip(inputs, [*(channels_out(width) for width in flat), [CLASSES]], strict=True))


def layer_cases(widest: list[list[int]]) -> list[Case]:
    cases = []
    kinds = layers_of(widest)[1:]
    for number, (kind, (inputs, outputs)) in enumerate(zip(kinds, grids_of(widest), strict=True)):
        for channels, width, is_int8 in product(inputs, outputs, (False, True)):
            layer = replace(kind, channels_in=channels, channels_out=width)
            cases.append(Case([layer], is_int8, [number, channels, width]))
    return cases


def filled_table(grid: tuple[list[int], list[int]], points: dict, most: int) -> np.ndarray:
    """(channels in, channels out) milliseconds at every step, from those at the grid's points.

    ``points`` holds them by (channels in, channels out); ``most`` are the channels in of the
    widest. The classes and the stem's channels are a single column or row.
    """
    inputs, outputs = grid
    measured = np.array([[points[pair] for pair in product([each], outputs)] for each in inputs])
    columns = outputs if outputs == [CLASSES] else list(range(STEP, outputs[-1] + 1, STEP))
    across = np.empty((len(inputs), len(columns)))
    for parity in (0, 1):
        known = [i for i, count in enumerate(outputs) if count // STEP % 2 == parity]
        wanted = [i for i, count in enumerate(columns) if count // STEP % 2 == parity]
        for row in range(len(inputs) if wanted else 0):
            xs, ys = [outputs[i] for i in known], measured[row, known]
            across[row, wanted] = np.interp([columns[i] for i in wanted], xs, ys)
    rows = inputs if inputs == [STEM_WIDTH] else list(range(STEP, most + 1, STEP))
    return np.column_stack([np.interp(rows, inputs, column) for column in across.T])


# ---------------------------------------------------------------------------------------- fitting


@dataclass(frozen=True)
class Terms:
    """The parts whose sum is the latency of a network, each a table (channels in, channels out).

    ``tables`` are milliseconds; ``prices`` holds, for each of the three counts (activations in,
    activations out, weights, in millions), a table a layer.
    """

    tables: list[np.ndarray]
    prices: list[list[np.ndarray]]


def terms_of(widest: list[list[int]], tables: list[np.ndarray]) -> Terms:
    prices: list[list[np.ndarray]] = [[], [], []]
    for kind, table in zip(layers_of(widest)[1:], tables, strict=True):
        rows, columns = (
            np.array([most]) if size == 1 else STEP * np.arange(1, size + 1)
            for most, size in zip((kind.channels_in, kind.channels_out), table.shape, strict=True)
        )
        ones = np.ones(table.shape)
        positions_in, positions_out = np.prod(kind.shape_in[1:]), np.prod(kind.shape_out[1:])
        prices[0].append(1e-6 * positions_in * rows[:, None] * ones)
        prices[1].append(1e-6 * positions_out * columns * ones)
        prices[2].append(1e-6 * kind.kernel**2 * rows[:, None] * columns * ones)
    return Terms(tables, prices)


def at(tables: list[np.ndarray], widths: list[list[int]]) -> np.ndarray:
    """(layers,): the entry of each layer's table for a network's widths."""
    path = [0, *(width // STEP - 1 for block in widths for width in block), 0]
    return np.array([table[pair] for table, pair in zip(tables, pairwise(path), strict=True)])


def design(terms: Terms, networks: list[list[list[int]]]) -> np.ndarray:
    """(networks, layers + 3 + 1): each layer's milliseconds, the three counts, and 1 for a call."""
    rows = []
    for widths in networks:
        counts = [at(price, widths).sum() for price in terms.prices]
        rows.append([*at(terms.tables, widths), *counts, 1.0])
    return np.array(rows)


def fit(matrix: np.ndarray, ms: np.ndarray, ridge: float) -> np.ndarray:
    """Coefficients of the least relative error, drawn by ``ridge`` to the plain sum of layers.

    Factors of layers are drawn to 1, prices to 0 (in units of what they make of a typical
    network); what a call costs is free. Errors count squared up to ``GROSS`` and as such beyond
    (Huber 1964, by reweighted least squares): a few networks that were disturbed in all their
    turns must not bend the fit.
    """
    layers = matrix.shape[1] - 4
    prior = np.array([1.0] * layers + [0.0] * 4)
    scale = np.ones(matrix.shape[1])
    scale[layers:-1] = np.median(ms) / np.maximum(np.median(matrix[:, layers:-1], axis=0), 1e-12)
    pull = np.sqrt(ridge) * np.eye(matrix.shape[1])[:-1]
    scaled = matrix * scale / ms[:, None]
    weights = np.ones(len(ms))
    for _ in range(REWEIGHTED):
        left = np.vstack([scaled * weights[:, None], pull])
        right = np.concatenate([weights, pull @ prior])
        found = np.linalg.lstsq(left, right, rcond=None)[0]
        errors = np.abs(scaled @ found - 1)
        weights = np.sqrt(GROSS / np.maximum(errors, GROSS))
    return scale * found


def errors_left_out(matrix: np.ndarray, ms: np.ndarray, ridge: float) -> np.ndarray:
    """(networks,) relative errors, each of a fit that has not seen the network."""
    fold = np.arange(len(ms)) % FOLDS
    errors = np.empty(len(ms))
    for left_out in range(FOLDS):
        seen, unseen = fold != left_out, fold == left_out
        predicted = matrix[unseen] @ fit(matrix[seen], ms[seen], ridge)
        errors[unseen] = np.abs(predicted / ms[unseen] - 1)
    return errors


@dataclass(frozen=True)
class Fit:
    """The coefficients that a ridge leads to, and the chain's cost with them.

    ``fastest_ms`` is that of the fastest network of all; ``beyond_ms`` what each layer adds.
    """

    ridge: float
    coefficients: np.ndarray
    errors: np.ndarray  # (networks,) of fits that have not seen the network
    fastest_ms: float
    beyond_ms: list[np.ndarray]


def fitted(terms: Terms, networks: list[list[list[int]]], ms: np.ndarray) -> dict:
    """The chain's cost as a constant and tables, and how it was found.

    Of several ridges the one with the least error in cross-validation, among those by which every
    network takes some time: a fit to disturbed networks may be negative for others.
    """
    matrix = design(terms, networks)
    fits = [fit_with(ridge, terms, matrix, ms) for ridge in RIDGES]
    sound = [each for each in fits if each.fastest_ms > 0] or fits[-1:]
    best = min(sound, key=lambda each: float(each.errors.mean()))
    return {
        "error_left_out": {
            "networks": len(ms),
            "median": round(float(np.median(best.errors)), 4),
            "p90": round(float(np.percentile(best.errors, 90)), 4),
        },
        "ridge": best.ridge,
        "coefficients": [round(float(each), 5) for each in best.coefficients],
        "constant_ms": round(max(best.fastest_ms, 0.0), 5),
        "layers_ms": [np.round(table, 5).tolist() for table in best.beyond_ms],
    }


def fit_with(ridge: float, terms: Terms, matrix: np.ndarray, ms: np.ndarray) -> Fit:
    found = fit(matrix, ms, ridge)
    layers = len(terms.tables)
    tables = [
        found[i] * terms.tables[i]
        + sum(found[layers + kind] * terms.prices[kind][i] for kind in range(3))
        for i in range(layers)
    ]
    least, beyond = beyond_the_fastest(tables)
    errors = errors_left_out(matrix, ms, ridge)
    return Fit(ridge, found, errors, float(found[-1]) + least, beyond)


def beyond_the_fastest(tables: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """The milliseconds of the fastest network, and tables of what each layer adds to them.

    Networks take as long as by ``tables``, which may hold negative milliseconds where a price is
    negative; those returned do not. (A table gets the least that the layers behind it may take, by
    its columns, and loses that with itself, by its rows.)
    """
    to_go = [np.zeros(tables[-1].shape[1])]
    for table in reversed(tables):
        to_go.insert(0, (table + to_go[0]).min(axis=1))
    beyond = [
        np.maximum(table + after - before[:, None], 0.0)
        for table, before, after in zip(tables, to_go, to_go[1:], strict=False)
    ]
    return float(to_go[0][0]), beyond


# ------------------------------------------------------------------------------------ the profile


def environment(threads: int) -> dict:
    """All that a latency depends on besides the device's name."""
    return {
        "cpu": cpu_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "opencv": cv2.__version__,
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


def cpu_name() -> str:
    """From Linux (x86, then Arm boards), from macOS, or the architecture."""
    names: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            names.setdefault(key.strip(), value.strip())
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return names.get("model name") or names.get("Model") or platform.machine()


def allowed_cores() -> int:
    """Cores that this process may run on; containers are often given fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Cores' worth of time that Linux's control groups allow (``docker run --cpus=1.5``: 1.5).

    The least of this process's group and of all groups around it; None without a limit. When it is
    used up, the kernel pauses the process until the next period, usually 0.1 s long.
    """
    quotas = [quota for folder in cpu_groups() if (quota := quota_of(folder)) is not None]
    return min(quotas, default=None)


def cpu_groups() -> Iterator[Path]:
    """Folders that may limit the CPU: this process's group and those around it, version 1 and 2."""
    try:
        lines = CGROUP_OF_PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", maxsplit=2)
        if controllers == "":  # version 2, alone or beside version 1
            roots = [CGROUPS, CGROUPS / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [CGROUPS / controllers, CGROUPS / "cpu"]
        else:
            continue
        # In a container the path may be one of the host: then only the root is there.
        parts = Path(group).relative_to("/").parts
        for root in roots:
            yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def quota_of(folder: Path) -> float | None:
    """The group's own limit in cores; None where it has none, or where there is no such group."""
    try:
        if (folder / "cpu.max").is_file():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError):  # no file, or "max"
        return None


def warn_if_disturbed() -> None:
    """Print a line for each: other processes, and a CPU quota that pauses this one."""
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5:
        print(
            f"warning: load average {os.getloadavg()[0]:.2f}: something else is running or ran in "
            "the last minute; a profile is only as good as the device is quiet",
            file=sys.stderr,
        )
    cores, quota = allowed_cores(), cpu_quota()
    if quota is not None and quota < cores:
        print(
            f"warning: a CPU quota of {quota:g} on {cores} cores (of this container or control "
            "group): the kernel pauses this process whenever its share is used up, and latencies "
            "may be too long",
            file=sys.stderr,
        )


def profile(device: str, widest: list[list[int]], threads: int, seconds: float, count: int) -> dict:
    """Measure and fit; ``count`` networks."""
    engines = working_engines(widest)
    if not engines["fp32"]:
        raise RuntimeError(f"OpenCV {cv2.__version__} runs our networks in no engine")
    rng = np.random.default_rng(1)
    networks = [widest, *(random_widths(rng, widest) for _ in range(count - 1))]
    whole = [
        Case(layers_of(widths), is_int8, widths)
        for widths, is_int8 in product(networks, (False, True))
    ]
    before = environment(threads)
    its_engine = engines["fp32"][0]
    content = onnx_of(layers_of(halved(widest)), is_int8=False)
    reference = partial(caller, content, IMAGE, its_engine)
    layers = measure(layer_cases(widest), engines, reference, 0.6 * seconds, title="layers")
    nets = measure(whole, engines, reference, 0.4 * seconds, title="networks")
    reference_ms = float(np.median([each.reference_ms for each in (*layers, *nets)]))
    layer_timings = at_one_speed(layers, reference_ms)
    network_timings = at_one_speed(nets, reference_ms)
    parts: dict[str, dict] = {precision: {} for precision in PRECISIONS}
    for precision in PRECISIONS:
        for engine in engines[precision]:
            parts[precision][engine] = fitted_part(
                widest,
                of_kind(layer_timings, precision, engine),
                of_kind(network_timings, precision, engine),
            )
    return {
        "format": FORMAT,
        "device": device or before["cpu"],
        "environment": before,
        "step": STEP,
        "widths": widest,
        "fitted": parts,
        "measured": {
            "reference": {
                "precision": "fp32",
                "engine": its_engine,
                "widths": halved(widest),
                "ms": round(reference_ms, 5),
            },
            "columns": ["precision", "engine", "what", "ms", "median_ms", "p95_ms", "samples"],
            "layers": [row_of(each) for each in layer_timings],
            "networks": [row_of(each) for each in network_timings],
        },
    }


def of_kind(timings: list[Timing], precision: str, engine: str) -> list[Timing]:
    kind = (precision == "int8", engine)
    return [each for each in timings if (each.case.is_int8, each.engine) == kind]


def fitted_part(widest: list[list[int]], layers: list[Timing], networks: list[Timing]) -> dict:
    points: dict[int, dict] = {}
    for each in layers:
        number, *pair = each.case.what
        points.setdefault(number, {})[tuple(pair)] = each.undisturbed_ms()
    kinds = layers_of(widest)[1:]
    tables = [
        filled_table(grid, points[number], kinds[number].channels_in)
        for number, grid in enumerate(grids_of(widest))
    ]
    ms = np.array([each.undisturbed_ms() for each in networks])
    return fitted(terms_of(widest, tables), [each.case.what for each in networks], ms)


def row_of(timing: Timing) -> list:
    """A layer is [its number after the stem, channels in, channels out], a network its widths."""
    precision = PRECISIONS[timing.case.is_int8]
    row = [precision, timing.engine, timing.case.what, *timing.summary()]
    return [*row, len(timing.samples_ms)]


def to_json(value: object, depth: int = 0) -> str:
    """One line for each key, and for each row of a table of rows."""
    inner = "  " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {to_json(each, depth + 1)}" for key, each in value.items()]
    elif isinstance(value, list) and len(value) > 3 and isinstance(value[0], list):
        parts = [json.dumps(each) for each in value]
    else:
        return json.dumps(value)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = f",\n{inner}".join(parts)
    return f"{opening}\n{inner}{lines}\n{'  ' * depth}{closing}"


def save(path: Path, content: dict) -> None:
    """Written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(to_json(content) + "\n")
    os.replace(temporary, path)


def require_writable(path: Path) -> None:
    """Raise ``OSError`` now rather than after the measurement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the JSON to write")
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argument that is a whole number in these bounds."""

    def number(text: str) -> int:
        if not (text.isdecimal() and least <= int(text[:20]) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} to {most}")
        return int(text)

    return number


def family(text: str) -> list[list[int]]:
    """'[[64, 64], [256, 256]]' -> the lists, if all widths are multiples of STEP."""
    try:
        widths = json.loads(text)
        sound = all(
            type(width) is int and width in range(STEP, MOST_CHANNELS + 1, STEP)
            for block in widths
            for width in block
        )
    except (ValueError, TypeError, RecursionError):
        sound = False
    if not sound or not widths or not all(widths) or len(widths) > MOST_BLOCKS:
        raise argparse.ArgumentTypeError(
            f"{text[:200]!r}; expected 1 to {MOST_BLOCKS} blocks of widths that are multiples of "
            f"{STEP} up to {MOST_CHANNELS}, such as {WIDEST}"
        )
    return widths


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("profile", type=Path, help="JSON to write")
    parser.add_argument("--device", default="", help="the device's name; its processor's if none")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1)
    parser.add_argument(
        "--seconds", type=whole(1, MOST_SECONDS), default=120, help="about how long to measure"
    )
    parser.add_argument(
        "--networks", type=whole(FOLDS, MOST_NETWORKS), default=48, help="whole networks to fit to"
    )
    parser.add_argument("--widths", type=family, default=WIDEST, help="of the widest network")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    require_writable(args.profile)
    cv2.setNumThreads(args.threads)
    warn_if_disturbed()
    content = profile(args.device, args.widths, args.threads, args.seconds, args.networks)
    save(args.profile, content)
    for precision, engines in content["fitted"].items():
        for engine, part in engines.items():
            error = part["error_left_out"]
            print(
                f"{args.profile}: {precision}, engine {engine}: error on networks left out of the "
                f"fit {error['median']:.1%} (median), {error['p90']:.1%} (90th percentile)"
            )


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the profile may have any name
    try:
        main()
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        sys.exit(130)

"""Classify images, videos or what a camera sees with a model of this pipeline.

Needs numpy and OpenCV 5 and nothing else of this repository: a device gets this file and a model.
The names of the classes and the size of the input are read from the model.

Reads   an .onnx file of the pipeline (FP32 or INT8); images, folders of images, videos, streams
        (rtsp://...) or a camera
Writes  a line for each picture on stdout, what concerns the whole run on stderr; with --draw
        pictures and videos with the answer drawn into them
Exits   0; 2 when something could not be read or used, after all that could be; 130 on Ctrl-C
"""

import argparse
import io
import itertools
import json
import os
import re
import signal
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

try:
    # A small file can hold a picture of many gigabytes, for which a device has no memory.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))  # read by the import
    import cv2
    import numpy as np
except ImportError as error:  # none installed, or a library of OpenCV's windows (libGL) is missing
    if __name__ != "__main__":
        raise
    print(f"error: {error}; run: python3 -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm",
    ".png", ".ppm", ".tif", ".tiff", ".webp",
}  # fmt: skip
MP4 = b"ftyp free mdat mfra moof moov sidx skip styp uuid wide".split()  # names of boxes
MATROSKA = (b"\x1aE\xdf\xa3", b"\x18S\x80g")  # header, and all that follows
STREAM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # and not C:/
ENGINES = ("new", "classic")  # of OpenCV DNN
ENGINE_CALLS = 5  # with which engine="auto" times each engine, after one to warm up
# Of each data_type in ONNX: bytes of a number, and the field that holds it if it is not raw_data.
ONNX_TYPES = {1: (4, 4), 2: (1, 5), 3: (1, 5), 6: (4, 5), 7: (8, 7), 9: (1, 5), 10: (2, 5)}
UNDERSTOOD = {"layout": "NCHW", "channels": "RGB", "type": "float32", "range": [0, 255]}
SAMPLES = 4  # pictures whose logits are a model's metadata 'expected'
WEIGHTS_DIMENSIONS = {"Conv": (4, 1), "Gemm": (2, 1)}  # of weights and bias
LEAST_INPUTS = {"Conv": 2, "Gemm": 2, "QuantizeLinear": 2, "DequantizeLinear": 2, "Constant": 0}
MOST_BYTES = 2**31 - 1  # of a model (a limit of protobuf's) or an image
MOST_PIXELS = 4096  # a side of the network's input
MOST_CAMERAS = 100  # from there on OpenCV takes the number for one of a driver
MOST_THREADS = 1024  # OpenCV starts them all at once
RECENT = 1000  # pictures whose milliseconds the summary is of: a camera runs for days
CLEAR = "\r\033[K"  # the line of a terminal
DRAWN_SIZE = 240, 2000  # pixels; what is narrower than the first is enlarged, up to that height
JPEG, PNG, GIF, BMP, PAM = b"\xff\xd8", b"\x89PNG", b"GIF", b"BM", b"P7"  # how files begin
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WEBP, AVIF = b"WEBP", b"ftyp"  # at bytes 8 and 4
EXTRA_SAMPLES = 338  # a tag of TIFF
Expected = tuple[np.ndarray, float] | None  # logits (SAMPLES, classes), allowed error in percent


class InputError(ValueError):
    """Something the user can mend; its text names what is wrong and what was expected."""


# ------------------------------------------------------------------------------------- the model


class Classifier:
    """A model in OpenCV DNN on the CPU.

    ``classes`` names the columns of what it returns, ``size`` is the (height, width) in pixels
    that it brings every image to: the centre square of the image, or with ``stretch`` all of it;
    None is what the model was trained with.
    ``engine`` is OpenCV's engine that computes: "auto" times one image in each (``engine_ms``) and
    keeps the fastest. ``left_out`` says which engines refuse the model or compute it wrongly.

    Raises ``InputError`` when the file is missing, not of this pipeline, or no engine is right.
    """

    def __init__(self, path: str | Path, engine: str = "auto", stretch: bool | None = None):
        if engine not in (*ENGINES, "auto"):
            raise ValueError(f"engine is {engine!r}; expected 'auto', 'new' or 'classic'")
        self.classes, self.size, stretched, expected = read_description(path)
        self.stretch = stretched if stretch is None else stretch
        probe = np.zeros((1, 3, *self.size), np.float32)
        names = ENGINES if engine == "auto" else (engine,)
        nets, self.left_out = load_nets(path, names, probe, expected)
        self.engine_ms = {name: time_net(net, probe) for name, net in nets.items()}
        self.engine = min(self.engine_ms, key=lambda name: self.engine_ms[name])
        self._path, self._net = path, nets[self.engine]
        self.logits(probe)

    def predict(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Confidence in each class, (N, classes) float32; a row adds up to 1.

        ``images`` is a list of images of any sizes, or one array (N, H, W, 3): uint8 as
        ``cv2.imread`` returns it, which is BGR, grey (H, W), or BGR and alpha (H, W, 4).
        Raises ``ValueError`` for other types and shapes.
        """
        return softmax(self.logits(self.blob(images)))

    def blob(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """The network's input: RGB (N, 3, *size) float32 in 0-255; see ``predict``."""
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise ValueError(f"images have shape {images.shape}; expected (N, H, W, 3) or a list")
        if len(images) == 0:
            raise ValueError("there are no images; expected at least one")
        squares = [fitted(to_bgr(image), self.size, self.stretch) for image in images]
        return cv2.dnn.blobFromImages(squares, swapRB=True)

    def logits(self, blob: np.ndarray) -> np.ndarray:
        """The network's raw outputs (N, classes) float32 for a blob.

        Raises ``InputError`` when the network does not return one finite number for each class.
        """
        try:
            outputs = forward(self._net, blob)
        except cv2.error as error:
            raise InputError(f"{self._path}: OpenCV cannot run it ({one_line(error)})") from None
        if outputs.shape != (len(blob), len(self.classes)):
            raise InputError(
                f"{self._path} names {len(self.classes)} classes but returns {outputs.shape} for "
                f"{len(blob)} images"
            )
        if not np.isfinite(outputs).all():
            raise InputError(f"{self._path} returns numbers that are not finite; is it damaged?")
        return outputs


def read_description(path: str | Path) -> tuple[tuple[str, ...], tuple[int, int], bool, Expected]:
    """The names of the classes, the (height, width) of the input, whether it was trained on
    stretched images, and what it should answer, from the model's metadata.

    Raises ``InputError`` when the file is missing or is no model that this program understands.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is missing; expected a model, e.g. model_pruned_int8.onnx")
    if Path(path).suffix == ".tflite":
        raise foreign(path, "TFLite files are for microcontrollers and NPUs")
    metadata, shape = read_metadata(path)
    classes, description = (json_of(metadata, key, path) for key in ("classes", "input"))
    if not (isinstance(classes, list) and classes and all(type(x) is str for x in classes)):
        raise foreign(path, "its metadata 'classes' is not a list of names")
    if not (isinstance(description, dict) and description.items() >= UNDERSTOOD.items()):
        raise foreign(path, f"its input is {description}, which lacks some of {UNDERSTOOD}")
    size = description.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(x) is int for x in size)):
        raise foreign(path, f"its input's 'size' is {size}, not [height, width]")
    if shape != [3, *size] or not 1 <= min(size) <= max(size) <= MOST_PIXELS:
        raise foreign(path, f"its input's 'size' is {size}, but the network takes {shape}")
    resize = description.get("resize", "crop")
    if resize not in ("crop", "stretch"):
        raise foreign(path, f"its input's 'resize' is {resize!r}, neither crop nor stretch")
    expected = read_expected(metadata, len(classes), path)
    return tuple(classes), (size[0], size[1]), resize == "stretch", expected


def read_expected(metadata: dict[str, str], classes: int, path: str | Path) -> Expected:
    """The logits that the file has for the samples and their limit; None where it has none."""
    if "expected" not in metadata:
        return None
    value: Any = json_of(metadata, "expected", path)
    try:
        logits, tolerance = np.array(value["logits"], np.float64), float(value["tolerance"])
        finite = np.isfinite(logits).all() and 0 <= tolerance < np.inf
        if logits.shape == (SAMPLES, classes) and finite:
            return logits, tolerance
    except (LookupError, TypeError, ValueError, OverflowError):
        pass
    raise foreign(path, f"its metadata 'expected' is not {SAMPLES} x {classes} logits and a limit")


def json_of(metadata: dict[str, str], key: str, path: str | Path) -> object:
    if key not in metadata:
        raise foreign(path, f"it has no metadata '{key}'")
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError):
        raise foreign(path, f"its metadata '{key}' is not JSON") from None


def foreign(path: str | Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not a model of this pipeline: {reason}; expected an .onnx file that its "
        "stages 'export' or 'quantize' wrote, copied whole"
    )


def read_metadata(path: str | Path) -> tuple[dict[str, str], list[int]]:
    """The metadata_props of an ONNX file, which OpenCV does not give, and its input's shape.

    Raises ``InputError`` when the file is no protobuf message, or its network is damaged.
    """
    model = read_bytes(path)
    try:
        [graph] = nested(model, 7)
        check_graph(graph)
        entries = nested(model, 14)
        metadata = dict(zip(texts(entries, 1), texts(entries, 2), strict=True))
        dimensions = nested(graph, 11, 2, 1, 2, 1)  # input, type, tensor_type, shape, dim
        shape = [
            value for each in dimensions for _, value, text in protobuf_fields(each) if not text
        ]
    except (ValueError, LookupError):
        raise foreign(path, "it is damaged, or no ONNX file") from None
    return metadata, shape


def check_graph(graph: bytes) -> None:
    """Raise ``ValueError`` or ``LookupError`` for damage with which OpenCV ends the process.

    Texts that are not UTF-8, constants with more or fewer numbers than their shape says, inputs
    that nothing returns, weights and biases of other dimensions than the operator's. The fields
    have the numbers of onnx.proto.
    """
    nodes, constants, inputs, outputs = (nested(graph, field) for field in (1, 5, 11, 12))
    dimensions = dict(zip(texts(constants, 8), map(dimensions_of, constants), strict=True))
    known = {"", *dimensions, *texts(inputs, 1), *texts(nodes, 2)}
    texts(nodes, 3)  # their names are in messages only
    if not known.issuperset(texts(outputs, 1)):
        raise ValueError("nothing returns the output")
    for node in nodes:
        taken, returned, [operator] = (texts([node], field) for field in (1, 2, 4))
        expected = WEIGHTS_DIMENSIONS.get(operator, ())
        least = LEAST_INPUTS.get(operator, 1)
        if not known.issuperset(taken) or len(taken) < least or "" in taken[:least]:
            raise ValueError(f"an input of {operator} is missing")
        if any(dimensions.get(name, n) != n for name, n in zip(taken[1:], expected, strict=False)):
            raise ValueError(f"weights of {operator} have other dimensions")
        if operator == "DequantizeLinear" and taken[0] in dimensions:
            dimensions |= dict.fromkeys(returned, dimensions[taken[0]])


def nested(message: bytes, *path: int) -> list[bytes]:
    """The contents of the fields with the last number, in fields with the first, and so on."""
    messages = [message]
    for wanted in path:
        messages = [
            content
            for each in messages
            for number, _, content in protobuf_fields(each)
            if number == wanted
        ]
    return messages


def texts(messages: list[bytes], number: int) -> list[str]:
    return [content.decode() for message in messages for content in nested(message, number)]


def dimensions_of(tensor: bytes) -> int:
    """How many a constant has. Raises as ``check_graph`` when its numbers do not fill them."""
    dimensions, size, found, bytes_each, numbers = 0, 1, 0.0, 1, 0
    for field, number, content in protobuf_fields(tensor):
        if field == 1:
            dimensions, size = dimensions + 1, size * number
        elif field == 2:
            bytes_each, numbers = ONNX_TYPES[number]
        elif field == 9:  # as in memory
            found += len(content) / bytes_each
        elif field == numbers:  # float32, or varints, whose last byte is below 128
            found += len(content) / 4 if field == 4 else sum(byte < 0x80 for byte in content)
    if found != size:
        raise ValueError(f"a constant has {found} numbers, not {size}")
    return dimensions


def read_bytes(path: str | Path) -> bytes:
    if Path(path).stat().st_size > MOST_BYTES:
        raise InputError(f"{path} has more than 2 GB; expected a model or an image")
    return Path(path).read_bytes()


def protobuf_fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(number, value of a whole number, content of strings and messages) of each field.

    Raises ``ValueError`` or ``IndexError`` when it is not well-formed; the encoding is described on
    https://protobuf.dev/programming-guides/encoding/.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type not in (0, 1, 2, 5) or number == 0:
            raise ValueError("not a protobuf message")
        value, length = 0, {1: 8, 5: 4}.get(wire_type, 0)
        if wire_type == 0:
            value, at = varint(message, at)
        elif wire_type == 2:
            length, at = varint(message, at)
        if at + length > len(message):
            raise ValueError("the message is cut short")
        yield number, value, message[at : at + length] if wire_type == 2 else b""
        at += length


def varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that starts at byte ``at``, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a varint has at most 10 bytes")


def load_nets(
    path: str | Path, engines: Iterable[str], probe: np.ndarray, expected: Expected
) -> tuple[dict[str, cv2.dnn.Net], list[str]]:
    """The model in each engine that computes it right, and what is wrong with the others.

    OpenCV has no classic engine after 5.0. Raises ``InputError`` when no engine is right.
    """
    if int(cv2.__version__.split(".")[0]) < 5:
        raise InputError(f"OpenCV is {cv2.__version__}; expected 5.0 or newer (pip install -U)")
    nets, refusals = {}, []
    for name in engines:
        code = getattr(cv2.dnn, f"ENGINE_{name.upper()}", None)
        if code is None:
            refusals.append(f"{name}: this OpenCV does not have it")
            continue
        try:
            net = cv2.dnn.readNetFromONNX(utf8(path), code)
            forward(net, probe)  # a model that loads may still fail to run
            if expected and not (off := percent_off(net, probe, expected[0])) <= expected[1]:
                refusals.append(f"{name}: computes logits that are {off:.2g} % off")
            else:
                nets[name] = net
        except cv2.error as error:
            refusals.append(f"{name}: refuses the model ({one_line(error)})")
    if not nets:
        reasons = "; ".join(refusals)
        raise InputError(f"{path}: no engine of OpenCV {cv2.__version__} is right ({reasons})")
    return nets, refusals


def percent_off(net: cv2.dnn.Net, probe: np.ndarray, expected: np.ndarray) -> float:
    """How far a network's logits of the samples are from the expected ones: root mean squares,
    without each picture's mean. Not finite for a wrong shape.
    """
    rows = [forward(net, sample(number, *probe.shape[2:])) for number in range(SAMPLES)]
    if any(row.shape != expected[:1].shape for row in rows):
        return np.inf
    pair = np.concatenate(rows), expected
    with np.errstate(all="ignore"):
        found, wanted = (each - each.mean(axis=1, keepdims=True) for each in pair)
        return float(100 * np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def sample(number: int, height: int, width: int) -> np.ndarray:
    """A picture (1, 3, H, W) float32 in 0-255, as the pipeline's runtimes/expected.py has it."""
    c, y, x = (axis.astype(np.int64) for axis in np.ogrid[:3, :height, :width])
    rings = 510 * 4**number * y**2 // height**2 + 510 * 4**number * x**2 // width**2
    waves = 510 * (3 - c) * y // height + 510 * (1 + c) * x // width + 90 * number
    return ((2 * abs(rings % 510 - 255) + abs(waves % 510 - 255)) // 3)[None].astype(np.float32)


def utf8(path: str | Path) -> str:
    """A name for OpenCV, which ends the process when one is not UTF-8; ``InputError`` instead."""
    try:
        return str(path).encode().decode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the name is not UTF-8; rename it for OpenCV") from None


def one_line(error: cv2.error) -> str:
    """OpenCV's text, whose lines may begin with a mark."""
    text = re.sub("^> ?", "", error.err or str(error), flags=re.MULTILINE)
    return " ".join(text.split()).lstrip(": ")


def time_net(net: cv2.dnn.Net, probe: np.ndarray) -> float:
    """Milliseconds of the fastest of a few calls: what disturbs a call only makes it longer."""
    samples = []
    for _ in range(ENGINE_CALLS):
        start = time.perf_counter()
        forward(net, probe)
        samples.append(1e3 * (time.perf_counter() - start))
    return min(samples)


def forward(net: cv2.dnn.Net, blob: np.ndarray) -> np.ndarray:
    net.setInput(blob)
    return net.forward()


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, classes) float32."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def to_bgr(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of a grey, BGR or BGRA image; what is transparent becomes white."""
    image = image[..., 0] if getattr(image, "ndim", 0) == 3 and image.shape[2] == 1 else image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ValueError(f"an image is {getattr(image, 'dtype', type(image))}; expected uint8")
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise ValueError(f"an image has shape {image.shape}; expected (H, W, 3), BGR as in OpenCV")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if image.shape[2] == 3 else on_white(image[..., :3], image[..., 3])


def on_white(colours: np.ndarray, alpha: np.ndarray, premultiplied: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 of colours (H, W, 3) and alpha (H, W), both uint8."""
    opacity = alpha[..., None].astype(np.uint16)
    shade = colours if premultiplied else (colours * opacity + 127) // 255
    return np.minimum(shade + (255 - opacity), 255).astype(np.uint8)


def fitted(image: np.ndarray, size: tuple[int, int], stretch: bool) -> np.ndarray:
    """(*size, 3): the part in the centre that has the right shape (or all), brought to size."""
    height, width = image.shape[:2]
    if not stretch:
        scale = min(height / size[0], width / size[1])
        rows, columns = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
        top, left = (height - rows) // 2, (width - columns) // 2
        image = image[top : top + rows, left : left + columns]
    if image.shape[:2] == size:
        return image
    # INTER_AREA averages what falls into a pixel; it is no good for enlarging.
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=way)


# ---------------------------------------------------------------------------------------- images


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an image file: grey, with alpha or 16 bits a channel as it may be.

    Raises ``InputError`` when OpenCV cannot decode it.
    """
    content = read_bytes(path)
    if content.startswith(PAM):
        raise InputError(f"{path} is a PAM, of which OpenCV mixes up the colours; take a PNG")
    try:
        return decoded(content)
    except cv2.error as error:
        raise InputError(f"{path}: OpenCV cannot decode it ({one_line(error)})") from None
    except ValueError as error:
        raise InputError(f"{path} {error}; expected a JPEG, PNG, WebP, TIFF, ...") from None


def decoded(content: bytes) -> np.ndarray:
    """See ``read_image``. Raises ``ValueError`` or ``cv2.error``."""
    array = np.frombuffer(content, np.uint8)
    is_whole = content and not (content.startswith(PNG) and is_cut_png(content))
    colours = cv2.imdecode(array, cv2.IMREAD_COLOR) if is_whole else None  # turned as EXIF says
    if colours is None:
        raise ValueError("is damaged or no image")
    if content.startswith(JPEG):
        return colours
    whole: np.ndarray | None = cv2.imdecode(array, cv2.IMREAD_UNCHANGED)  # to see alpha
    if whole is None or whole.dtype not in (np.uint8, np.uint16):
        raise ValueError("is damaged or has other than 8 or 16 bits a channel")
    if whole.ndim != 3 or whole.shape[2] != 4 or not declares_alpha(content):
        return colours
    surplus_bits = 0 if whole.dtype == np.uint8 else 8
    if surplus_bits and content[4:8] == AVIF:  # of 10 or 12 bits
        surplus_bits = 2 if whole.max() < 1 << 10 else 4
    straight = (whole >> surplus_bits).astype(np.uint8)
    if content.startswith(TIFF):  # in 8-bit colours, libtiff has multiplied by alpha
        return on_white(colours, straight[..., 3], premultiplied=True)
    return to_bgr(straight)


def is_cut_png(content: bytes) -> bool:
    """Whether a chunk ends behind the file: OpenCV reserves up to 4 GB for what it announces."""
    at, name = 8, b""
    while at < len(content) and name != b"IEND":
        name = content[at + 4 : at + 8]
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return at > len(content)


def declares_alpha(content: bytes) -> bool:
    """Whether a file with four channels calls the fourth alpha: else it is padding or infrared."""
    if content.startswith(BMP):
        header = int.from_bytes(content[14:18], "little")
        return header >= 56 and any(content[66:70])  # the mask of alpha
    if content.startswith(TIFF):
        return tiff_tag(content, EXTRA_SAMPLES) in (1, 2)
    return content.startswith((PNG, GIF)) or content[8:12] == WEBP or content[4:8] == AVIF


def tiff_tag(content: bytes, tag: int) -> int | None:
    """The first value of a tag of small numbers in a TIFF's first directory."""
    order: Literal["little", "big"] = "little" if content.startswith(b"II") else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(content[at : at + size], order)

    word = 8 if number(2, 2) == 43 else 4  # BigTIFF
    start, entry = number(word, word), 4 + 2 * word  # tag, type, count, value
    first = start + (8 if word == 8 else 2)
    entries = min(number(start, first - start), len(content) // entry)
    for at in range(first, first + entries * entry, entry):
        if number(at, 2) == tag:
            value = at + 4 + word
            return number(value if 2 * number(at + 4, word) <= word else number(value, word), 2)
    return None


# ------------------------------------------------------------------------- files, videos, cameras


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video or camera, and how long reading and decoding it took."""

    source: str
    pixels: np.ndarray  # (H, W, 3) uint8 BGR
    read_ms: float
    frame: int | None = None  # counted from 1; None for an image
    rate: float = 25.0  # frames/s of the video


def pictures(source: str) -> Iterator[Picture]:
    """The one picture of an image, or the frames of a video or stream.

    Raises ``InputError`` when it is none of them, cannot be read, or is cut short.
    """
    path = Path(source)
    if is_stream(source):
        yield from frames_of(source)
    elif not path.is_file():
        raise InputError(f"{source} is missing; expected an image, a folder, a video or a stream")
    elif path.suffix.lower() in IMAGE_SUFFIXES or cv2.haveImageReader(utf8(source)):
        start = time.perf_counter()
        image = read_image(path)
        yield Picture(source, image, 1e3 * (time.perf_counter() - start))
    else:
        yield from frames_of(source)
        missing = missing_bytes(path)
        if missing:
            raise InputError(f"{source} is cut short: {missing} bytes of its end are missing")


def is_stream(source: str) -> bool:
    """An address, or a device such as /dev/video0."""
    return STREAM.match(source) is not None or Path(source).is_char_device()


def missing_bytes(path: Path) -> int:
    """How much longer a video should be by its own headers: AVI, MP4, MOV, MKV and WebM.

    FFmpeg shows the frames that are there and does not tell. Their number is no measure: parts of
    a film have fewer frames than they announce, and are whole.
    """
    length, at, size = path.stat().st_size, 0, 1
    with path.open("rb") as file:
        while size and at < length:
            file.seek(at)
            size = chunk_bytes(file.read(16))
            at += size
    return max(at - length, 0)


def chunk_bytes(head: bytes) -> int:
    """Bytes of the chunk that begins so: RIFF, MP4 or Matroska; 0 where it does not say."""
    kind, name = head[:4], head[4:8]
    if kind == b"RIFF":
        size = int.from_bytes(name, "little")
        return 0 if size == 2**32 - 1 else 8 + size  # whose recording never ended
    if name in MP4:
        size = int.from_bytes(kind, "big")
        return int.from_bytes(head[8:16], "big") if size == 1 else size
    if kind in MATROSKA and head[4:5] > b"\0":
        more = 8 - head[4].bit_length()  # bytes of the size after its first
        size = int.from_bytes(head[4 : 5 + more], "big") & ((1 << 7 * (more + 1)) - 1)
        is_unknown = size + 1 == 1 << 7 * (more + 1)
        return 0 if is_unknown else 5 + more + size
    return 0


def frames_of(where: str | int) -> Iterator[Picture]:
    """The frames of a video, a stream, or a camera by its number.

    Raises ``InputError`` when there is none, and when a camera goes away: it has no end.
    """
    name = f"camera {where}" if isinstance(where, int) else utf8(where)
    frames = 0
    capture = cv2.VideoCapture(where)
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0
        rate = rate if 1 <= rate <= 1000 else Picture.rate  # some cameras do not say
        while True:
            start = time.perf_counter()
            found, pixels = capture.read()
            if not found:
                break
            frames += 1
            yield Picture(name, pixels, 1e3 * (time.perf_counter() - start), frames, rate)
    finally:
        capture.release()
    if isinstance(where, int):
        what = f"stopped after {frames} pictures" if frames else "is absent, or in use elsewhere"
        raise InputError(f"{name} {what}; expected a camera that OpenCV can open")
    if not frames:
        why = "does not answer, or with no" if STREAM.match(name) else "is neither an image nor a"
        raise InputError(f"{name} {why} video that OpenCV can read")


class Report:
    """Prints errors on stderr, a line each, and counts them."""

    def __init__(self) -> None:
        self.errors = 0

    def __call__(self, error: Exception) -> None:
        self.errors += 1
        print(f"{CLEAR if sys.stderr.isatty() else ''}error: {printable(error)}", file=sys.stderr)


def printable(text: object) -> str:
    """Text for a line: file names may hold line ends, codes of a terminal and stray bytes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)
    )


def files_of(inputs: Iterable[str], report: Report) -> list[str]:
    """The inputs, with each folder replaced by the images in it."""
    files: list[str] = []
    for source in inputs:
        try:
            if not source:
                raise InputError("an input is empty; expected an image, a folder or a video")
            is_folder = not is_stream(source) and Path(source).is_dir()
            files += images_in(Path(source), report) if is_folder else [source]
        except (InputError, OSError) as error:
            report(error)
    return files


def images_in(folder: Path, report: Report) -> list[str]:
    """The images in a folder and in those below, sorted; hidden ones (._IMG_1.jpg) are no images.

    Links are followed, and each folder is entered once. Raises ``InputError`` when there is none.
    """
    found: list[Path] = []
    others: Counter[str] = Counter()
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=report, followlinks=True):
        visible = [Path(place, name) for name in names if not name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        if os.path.realpath(place) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(place))
        found += [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
        others.update(path.suffix.lower() for path in visible)
    left_out = ", ".join(
        f"{count} {suffix or 'without a suffix'}"
        for suffix, count in others.most_common()
        if suffix not in IMAGE_SUFFIXES
    )
    if not found:
        raise InputError(
            f"{folder} holds no images, but {left_out or 'no files'}; expected names with "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    if left_out:
        print(printable(f"{folder}: left out, no images by name: {left_out}"), file=sys.stderr)
    return [str(path) for path in sorted(found)]


def all_pictures(files: list[str], report: Report) -> Iterator[Picture]:
    """The pictures of all files; one that cannot be read is reported and stops nothing."""
    counting = sys.stderr.isatty() and not sys.stdout.isatty()  # else the lines show progress
    start = time.perf_counter()
    for number, file in enumerate(files):
        if counting:
            seconds = (time.perf_counter() - start) / max(number, 1) * (len(files) - number)
            left = f", {seconds:.0f} s left" if number else ""
            print(f"{CLEAR}{number}/{len(files)}{left} ", end="", file=sys.stderr, flush=True)
        try:
            yield from pictures(file)
        except (InputError, OSError) as error:
            report(error)
    if counting:
        print(CLEAR, end="", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------- outputs


def results(model: Classifier, stream: Iterator[Picture], top: int, batch: int) -> Iterator[tuple]:
    """(picture, the object that ``--json`` prints); the network gets ``batch`` pictures a call."""
    while group := list(itertools.islice(stream, batch)):
        start = time.perf_counter()
        blob = model.blob([picture.pixels for picture in group])
        middle = time.perf_counter()
        logits = model.logits(blob)
        end = time.perf_counter()
        network_ms, own_ms = (1e3 * (end - since) / len(group) for since in (middle, start))
        for picture, row, confidences in zip(group, logits, softmax(logits), strict=True):
            best = [
                {"class": model.classes[index], "confidence": float(confidences[index])}
                for index in np.argsort(-confidences, kind="stable")[:top]
            ]
            frame = {} if picture.frame is None else {"frame": picture.frame}
            yield picture, {
                "source": picture.source, **frame, **best[0], "top": best,
                "logits": row.tolist(), "network_ms": round(network_ms, 3),
                "total_ms": round(own_ms + picture.read_ms, 3),
            }  # fmt: skip


def answer(result: dict) -> str:
    named = ", ".join(f"{best['class']} {best['confidence']:.1%}" for best in result["top"])
    return printable(named)


def print_text(_: Picture, result: dict) -> None:
    frame = f" [{result['frame']}]" if "frame" in result else ""
    times = f"{result['network_ms']:.2f} ms, {result['total_ms']:.2f} ms with reading"
    print(f"{printable(result['source'])}{frame}: {answer(result)} ({times})", flush=True)


def print_json(_: Picture, result: dict) -> None:
    print(json.dumps(result), flush=True)


def annotated(pixels: np.ndarray, text: str) -> np.ndarray:
    """The picture with the text on a dark strip, enlarged if it is small; (H, W, 3) uint8 BGR."""
    least, most = DRAWN_SIZE
    scale = max(min(-(-least // pixels.shape[1]), most // pixels.shape[0]), 1)
    canvas = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    size = min(0.95 * canvas.shape[1] / width, 1.0)
    height, below = round(size * height) + 4, round(size * below) + 4
    cv2.rectangle(canvas, (0, 0), (canvas.shape[1], height + below), (0, 0, 0), cv2.FILLED)
    white = (255, 255, 255)
    cv2.putText(canvas, text, (4, height), cv2.FONT_HERSHEY_SIMPLEX, size, white, 1, cv2.LINE_AA)
    return canvas


class Drawer:
    """Writes NAME_classified.png for an image, NAME_classified.avi for a video or camera.

    A name that this run has written already gets a number. Raises ``InputError`` when OpenCV
    cannot write a picture or video.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._names: set[str] = set()
        self._video: tuple[str, cv2.VideoWriter, Path] | None = None  # source, writer, its path

    def __call__(self, picture: Picture, result: dict) -> None:
        drawn = annotated(picture.pixels, answer(result))
        if self._video is not None and self._video[0] != picture.source:
            self.close()
        if picture.frame is None:
            path = self._path(picture.source, ".png")
            written, encoded = cv2.imencode(".png", drawn)
            if not written:
                raise InputError(f"OpenCV cannot write the picture {path}")
            part(path).write_bytes(encoded.tobytes())
            os.replace(part(path), path)
            return
        if self._video is None:
            path = self._path(picture.source, ".avi")
            codec = cv2.VideoWriter.fourcc(*"MJPG")  # in every OpenCV, with FFmpeg or without
            size = (drawn.shape[1], drawn.shape[0])
            writer = cv2.VideoWriter(utf8(part(path)), codec, picture.rate, size)
            if not writer.isOpened():
                raise InputError(f"OpenCV cannot write the video {path}")
            self._video = picture.source, writer, path
        self._video[1].write(drawn)

    def _path(self, source: str, suffix: str) -> Path:
        stem = re.sub(r'[<>:"|?*\\]', "_", Path(source).stem)[:50] + "_classified"
        numbered = (f"{stem}_{number}{suffix}" for number in itertools.count(2))
        names = itertools.chain([f"{stem}{suffix}"], numbered)
        name = next(name for name in names if name.casefold() not in self._names)
        self._names.add(name.casefold())
        return self._folder / name

    def close(self) -> None:
        """Finish the video that is being written; interrupted, it holds what was seen so far."""
        if self._video is not None:
            _, writer, path = self._video
            self._video = None
            writer.release()
            with part(path).open("rb") as file:
                is_finished = chunk_bytes(file.read(16)) > 0
            if not is_finished or missing_bytes(part(path)):  # OpenCV does not tell
                part(path).unlink()
                raise OSError(f"{path} could not be written whole; is the disk full?")
            os.replace(part(path), path)


def part(path: Path) -> Path:
    """The name of a file while it is not whole."""
    return path.with_name(f".part_{path.name}")


class Window:
    """Shows pictures until a key is pressed; raises ``KeyboardInterrupt`` on q or Escape."""

    def __init__(self) -> None:
        has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if re.search(r"GUI: +NONE", cv2.getBuildInformation()):
            raise InputError("--show needs opencv-python; this is opencv-python-headless")
        if sys.platform.startswith("linux") and not has_display:  # Qt would end the process
            raise InputError("--show needs a display, and there is none; take --draw FOLDER")

    def __call__(self, picture: Picture, result: dict) -> None:
        cv2.imshow("classify", annotated(picture.pixels, answer(result)))
        if cv2.waitKey(0 if picture.frame is None else 1) in (ord("q"), 27):
            raise KeyboardInterrupt

    def close(self) -> None:
        cv2.destroyAllWindows()


# ---------------------------------------------------------------------------------- command line


def whole(least: int, most: int) -> Callable[[str], int]:
    """An argument that is a whole number in these bounds."""

    def number(text: str) -> int:
        if not (text.isdecimal() and least <= int(text[:20]) <= most):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} to {most}")
        return int(text)

    return number


def parse_args() -> argparse.Namespace:
    many = whole(1, 10**6)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help=".onnx file of the pipeline, FP32 or INT8")
    parser.add_argument("inputs", nargs="*", help="images, folders, videos, streams (rtsp://...)")
    parser.add_argument(
        "--camera", type=whole(0, MOST_CAMERAS - 1), help="its number, e.g. 0, in their place"
    )
    parser.add_argument("--top", type=many, default=3, help="classes to name (default: 3)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, not text")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="write annotated pictures here")
    parser.add_argument("--show", action="store_true", help="in a window; q ends")
    parser.add_argument("--stretch", action="store_true", help="all of it, not the centre square")
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto")
    parser.add_argument(
        "--threads", type=whole(1, MOST_THREADS), help="of OpenCV (default: OpenCV's choice)"
    )
    parser.add_argument("--batch", type=many, default=1, help="images a call (default: 1)")
    args = parser.parse_intermixed_args()  # options may stand between the inputs
    if bool(args.inputs) == (args.camera is not None):
        parser.error("give images, folders or videos, or --camera")
    return args


def main() -> int:
    args = parse_args()
    if args.threads:
        cv2.setNumThreads(args.threads)
    report = Report()
    files = files_of(args.inputs, report)
    model = Classifier(args.model, args.engine, args.stretch or None)
    for reason in model.left_out:
        print(f"engine left out: {printable(reason)}", file=sys.stderr)
    timed = ", ".join(f"{name} {ms:.2f} ms" for name, ms in model.engine_ms.items())
    used = f"{args.model}: OpenCV's engine {model.engine} (timed: {timed})"
    print(printable(used), file=sys.stderr)
    is_live = args.camera is not None
    stream = frames_of(args.camera) if is_live else all_pictures(files, report)
    recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
    with ExitStack() as stack:
        outputs: list[Callable] = [print_json if args.json else print_text]
        if args.draw:
            outputs.append(stack.enter_context(closing(Drawer(args.draw))))
            stack.callback(print, f"what was drawn is in {args.draw}", file=sys.stderr)
        if args.show:
            outputs.append(stack.enter_context(closing(Window())))
        stack.callback(print_summary, recent)
        for picture, result in results(model, stream, args.top, 1 if is_live else args.batch):
            recent.append((result["network_ms"], result["total_ms"]))
            for output in outputs:
                output(picture, result)
    return 2 if report.errors else 0


def print_summary(recent: deque[tuple[float, float]]) -> None:
    if len(recent) > 1:
        network, total = (statistics.median(column) for column in zip(*recent, strict=True))
        print(
            f"median of the last {len(recent)} pictures: {network:.2f} ms in the network, "
            f"{total:.2f} ms with reading",
            file=sys.stderr,
        )


def run() -> int:
    # Without a terminal, Python has no such streams.
    sys.stdout, sys.stderr = (each or io.StringIO() for each in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the names and the encoding
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # errors are told by Report
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # finishes a video being drawn
    try:
        return main()
    except (InputError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        Report()(error)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())

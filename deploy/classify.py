"""Classify images, videos or what a camera sees with a model of this pipeline.

Needs numpy and OpenCV 5 and nothing else of this repository: this file and one model are all that
a device gets. What the classes are called and what the input looks like is read from the model.

Reads   an .onnx file that the pipeline wrote (FP32 or INT8); images, folders of images, videos or
        a camera
Writes  a line for each picture on stdout, what concerns the whole run on stderr; with --draw
        pictures and videos with the answer drawn into them
Exits   0; 2 when something could not be read or used, after all that could be; 130 on Ctrl-C
"""

import argparse
import itertools
import json
import os
import re
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

try:
    import cv2
    import numpy as np
except ImportError as error:  # none installed, or a library of OpenCV's windows (libGL) is missing
    if __name__ != "__main__":
        raise
    print(f"error: {error}; run: python3 -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

IMAGE_SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
    ".tiff", ".webp",
}  # fmt: skip
ENGINES = ("new", "classic")  # of OpenCV DNN
ENGINE_CALLS = 5  # with which engine="auto" times each engine, after one to warm up
METADATA_FIELD = 14  # ModelProto.metadata_props, whose entries are key = 1, value = 2: onnx.proto
UNDERSTOOD = {"layout": "NCHW", "channels": "RGB", "type": "float32", "range": [0, 255]}
RECENT = 1000  # pictures whose milliseconds the summary is of: a camera runs for days
CLEAR = "\r\033[K"  # the line of a terminal
DRAWN_WIDTH = 240  # pixels; smaller pictures are enlarged so that the text fits
JPEG_START = b"\xff\xd8"


class InputError(ValueError):
    """Something the user can mend; its text names what is wrong and what was expected."""


class Classifier:
    """A model in OpenCV DNN on the CPU.

    ``classes`` names the columns of what it returns, ``size`` is the (height, width) in pixels
    that it brings every image to: the centre square of the image, or with ``stretch`` all of it.
    ``engine`` is OpenCV's engine that computes, ``engine_ms`` what one image took in each engine
    that was tried: "auto" tries both and keeps the faster one of those that take the model.

    Raises ``InputError`` when the file is missing, not of this pipeline, or refused by OpenCV.
    """

    def __init__(self, path: str | Path, engine: str = "auto", stretch: bool = False):
        if engine not in (*ENGINES, "auto"):
            raise ValueError(f"engine is {engine!r}; expected 'auto', 'new' or 'classic'")
        self.classes, self.size = read_description(path)
        self.stretch = stretch
        probe = np.zeros((1, 3, *self.size), np.float32)
        nets = load_nets(path, ENGINES if engine == "auto" else (engine,), probe)
        self.engine_ms = {name: time_net(net, probe) for name, net in nets.items()}
        self.engine = min(self.engine_ms, key=self.engine_ms.get)
        self._net = nets[self.engine]
        outputs = self.logits(probe).shape
        if outputs != (1, len(self.classes)):
            raise InputError(f"{path} names {len(self.classes)} classes but returns {outputs}")

    def predict(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Confidence in each class, (N, classes) float32; a row adds up to 1.

        ``images`` is a list of images of any sizes, or one array (N, H, W, 3): uint8 as
        ``cv2.imread`` returns it, which is BGR, grey (H, W), or BGR and alpha (H, W, 4).
        Raises ``ValueError`` for other types and shapes.
        """
        return softmax(self.logits(self.blob(images)))

    def blob(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """What the network takes: RGB (N, 3, *size) float32 in 0-255; see ``predict``."""
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise ValueError(f"images have shape {images.shape}; expected (N, H, W, 3) or a list")
        if len(images) == 0:
            raise ValueError("there are no images; expected at least one")
        squares = [fitted(to_bgr(image), self.size, self.stretch) for image in images]
        return cv2.dnn.blobFromImages(squares, swapRB=True)

    def logits(self, blob: np.ndarray) -> np.ndarray:
        """The network's raw outputs (N, classes) float32 for a blob."""
        return forward(self._net, blob)


def read_description(path: str | Path) -> tuple[tuple[str, ...], tuple[int, int]]:
    """The names of the classes, and the (height, width) of the input, from the model's metadata.

    Raises ``InputError`` when the file is missing or is no model that this program understands.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is missing; expected a model, e.g. model_pruned_int8.onnx")
    if Path(path).suffix == ".tflite":
        raise foreign(path, "TFLite files are for microcontrollers and NPUs")
    metadata = read_metadata(path)
    classes, description = (json_of(metadata, key, path) for key in ("classes", "input"))
    if not (isinstance(classes, list) and classes):
        raise foreign(path, "its metadata 'classes' is not a list of names")
    if not (isinstance(description, dict) and description.items() >= UNDERSTOOD.items()):
        raise foreign(path, f"its input is {description}, which lacks some of {UNDERSTOOD}")
    size = description.get("size")
    if not (isinstance(size, list) and len(size) == 2 and all(type(x) is int for x in size)):
        raise foreign(path, f"its input's 'size' is {size}, not [height, width]")
    return tuple(map(str, classes)), tuple(size)


def json_of(metadata: dict[str, str], key: str, path: str | Path) -> object:
    if key not in metadata:
        raise foreign(path, f"it has no metadata '{key}'")
    try:
        return json.loads(metadata[key])
    except json.JSONDecodeError:
        raise foreign(path, f"its metadata '{key}' is not JSON") from None


def foreign(path: str | Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not a model of this pipeline: {reason}; expected an .onnx file that its "
        "stages 'export' or 'quantize' wrote, copied whole"
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata_props of an ONNX file, which OpenCV does not give.

    Raises ``InputError`` when the file's bytes are no protobuf message, or not all of one.
    """
    try:
        entries = [
            dict(protobuf_fields(value))
            for number, value in protobuf_fields(Path(path).read_bytes())
            if number == METADATA_FIELD
        ]
        return {entry[1].decode(): entry[2].decode() for entry in entries}
    except (ValueError, LookupError, TypeError, AttributeError):  # whatever foreign bytes lead to
        raise foreign(path, "it is damaged, or no ONNX file") from None


def protobuf_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of each field: https://protobuf.dev/programming-guides/encoding/.

    Raises ``ValueError`` or ``IndexError`` when the message is not well-formed.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, at = varint(message, at)
        elif wire_type in (1, 2, 5):
            length, at = varint(message, at) if wire_type == 2 else ({1: 8, 5: 4}[wire_type], at)
            value, at = message[at : at + length], at + length
        if wire_type not in (0, 1, 2, 5) or number == 0 or at > len(message):
            raise ValueError("not a protobuf message")
        yield number, value


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


def load_nets(path: str | Path, engines: Iterable[str], probe: np.ndarray) -> dict[str, object]:
    """The model in each engine that takes it; ``InputError`` when none does."""
    if not hasattr(cv2.dnn, "ENGINE_NEW"):
        raise InputError(f"OpenCV is {cv2.__version__}; expected 5.0 or newer (pip install -U)")
    nets, refusals = {}, []
    for name in engines:
        try:
            net = cv2.dnn.readNetFromONNX(str(path), getattr(cv2.dnn, f"ENGINE_{name.upper()}"))
            forward(net, probe)  # a model that loads may still fail to run
            nets[name] = net
        except cv2.error as error:
            refusals.append(f"{name}: {' '.join(error.err.split())}")
    if not nets:
        raise InputError(f"{path}: OpenCV {cv2.__version__} refuses it ({'; '.join(refusals)})")
    return nets


def time_net(net: object, probe: np.ndarray) -> float:
    """Milliseconds of the fastest of a few calls: what disturbs a call only makes it longer."""
    samples = []
    for _ in range(ENGINE_CALLS):
        start = time.perf_counter()
        forward(net, probe)
        samples.append(1e3 * (time.perf_counter() - start))
    return min(samples)


def forward(net: object, blob: np.ndarray) -> np.ndarray:
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
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.float32) / 255
    return np.rint(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


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
    return cv2.resize(
        image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video or camera, and how long reading and decoding it took."""

    source: str
    pixels: np.ndarray  # (H, W, 3) uint8 BGR
    read_ms: float
    frame: int | None = None  # counted from 1; None for an image
    rate: float = 25.0  # frames/s of the video


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an image file, grey, with alpha or 16 bits a channel as it may be.

    Raises ``InputError`` when OpenCV cannot decode it.
    """
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)  # 8 bits, turned as EXIF says
        if image is not None and content[:2].tobytes() != JPEG_START:
            whole = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)  # the only way to get alpha
            if whole.ndim == 3 and whole.shape[2] == 4:
                image = to_bgr((whole >> 8).astype(np.uint8) if whole.itemsize == 2 else whole)
    except cv2.error as error:
        raise InputError(f"{path}: OpenCV cannot decode it ({error.err})") from None
    if image is None:
        raise InputError(f"{path} is damaged or no image; expected a JPEG, PNG, WebP, TIFF, ...")
    return image


def pictures(path: Path) -> Iterator[Picture]:
    """The one picture of an image, or the frames of a video.

    Raises ``InputError`` when the file is neither, or no frame of it can be read.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; expected an image, a folder or a video")
    if path.suffix.lower() in IMAGE_SUFFIXES or cv2.haveImageReader(str(path)):
        start = time.perf_counter()
        image = read_image(path)
        yield Picture(str(path), image, 1e3 * (time.perf_counter() - start))
        return
    frames = 0
    for picture in frames_of(cv2.VideoCapture(str(path)), str(path)):
        frames = picture.frame
        yield picture
    if not frames:
        raise InputError(f"{path} is neither an image nor a video that OpenCV can read")


def camera_pictures(number: int) -> Iterator[Picture]:
    """What a camera sees, without end; ``InputError`` when it is absent or goes away."""
    frames = 0
    for picture in frames_of(cv2.VideoCapture(number), f"camera {number}"):
        frames = picture.frame
        yield picture
    what = f"stopped after {frames} pictures" if frames else "is absent, or in use elsewhere"
    raise InputError(f"camera {number} {what}; expected a camera that OpenCV can open")


def frames_of(capture: cv2.VideoCapture, source: str) -> Iterator[Picture]:
    rate = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0
    rate = rate if 1 <= rate <= 1000 else Picture.rate  # some cameras do not say
    try:
        for frame in itertools.count(1):
            start = time.perf_counter()
            found, pixels = capture.read()
            if not found:
                return
            yield Picture(source, pixels, 1e3 * (time.perf_counter() - start), frame, rate)
    finally:
        capture.release()


def files_in(path: Path) -> list[Path]:
    """The images in a folder and in those below, sorted; a file stands for itself."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"{path} holds no images; expected names with {', '.join(IMAGE_SUFFIXES)}")
    return found


def all_pictures(paths: list[Path], errors: list[Exception]) -> Iterator[Picture]:
    """The pictures of all files; one that cannot be read is reported and stops nothing."""
    counting = sys.stderr.isatty() and not sys.stdout.isatty()  # else the lines show progress
    start = time.perf_counter()
    for number, path in enumerate(paths):
        if counting:
            seconds = (time.perf_counter() - start) / max(number, 1) * (len(paths) - number)
            left = f", {seconds:.0f} s left" if number else ""
            print(f"{CLEAR}{number}/{len(paths)}{left} ", end="", file=sys.stderr, flush=True)
        try:
            yield from pictures(path)
        except (InputError, OSError) as error:
            errors.append(error)
            print(f"{CLEAR if counting else ''}error: {error}", file=sys.stderr)
    if counting:
        print(CLEAR, end="", file=sys.stderr, flush=True)


def results(model: Classifier, stream: Iterator[Picture], top: int, batch: int) -> Iterator[tuple]:
    """(picture, what ``--json`` prints of it); the network gets ``batch`` pictures a call."""
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
    return ", ".join(f"{best['class']} {best['confidence']:.1%}" for best in result["top"])


def print_text(_: Picture, result: dict) -> None:
    frame = f" [{result['frame']}]" if "frame" in result else ""
    times = f"{result['network_ms']:.2f} ms, {result['total_ms']:.2f} ms with reading"
    print(f"{result['source']}{frame}: {answer(result)} ({times})", flush=True)


def print_json(_: Picture, result: dict) -> None:
    print(json.dumps(result), flush=True)


def annotated(pixels: np.ndarray, text: str) -> np.ndarray:
    """The picture with the text on a dark strip, enlarged if it is small; (H, W, 3) uint8 BGR."""
    scale = -(-DRAWN_WIDTH // pixels.shape[1])  # rounded up
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
    cannot write a video.
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
            part(path).write_bytes(cv2.imencode(".png", drawn)[1])
            os.replace(part(path), path)
            return
        if self._video is None:
            path = self._path(picture.source, ".avi")
            codec = cv2.VideoWriter_fourcc(*"MJPG")  # in every OpenCV, with FFmpeg or without
            writer = cv2.VideoWriter(str(part(path)), codec, picture.rate, drawn.shape[1::-1])
            if not writer.isOpened():
                raise InputError(f"OpenCV cannot write the video {path}")
            self._video = picture.source, writer, path
        self._video[1].write(drawn)

    def _path(self, source: str, suffix: str) -> Path:
        stem = f"{Path(source).stem}_classified"
        numbered = (f"{stem}_{number}{suffix}" for number in itertools.count(2))
        names = itertools.chain([f"{stem}{suffix}"], numbered)
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        return self._folder / name

    def close(self) -> None:
        """Finish the video that is being written; interrupted, it holds what was seen so far."""
        if self._video is not None:
            _, writer, path = self._video
            writer.release()
            os.replace(part(path), path)
            self._video = None


def part(path: Path) -> Path:
    """The name of a file while it is not whole."""
    return path.with_name(f".part_{path.name}")


class Window:
    """Shows pictures until a key is pressed; raises ``KeyboardInterrupt`` on q or Escape."""

    def __init__(self):
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


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help=".onnx file of the pipeline, FP32 or INT8")
    parser.add_argument("inputs", nargs="*", type=Path, help="images, folders, videos")
    parser.add_argument("--camera", type=int, help="number of a camera, e.g. 0, in their place")
    parser.add_argument("--top", type=positive, default=3, help="classes to name (default: 3)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, not text")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="write annotated pictures here")
    parser.add_argument("--show", action="store_true", help="in a window; q ends")
    parser.add_argument("--stretch", action="store_true", help="all of it, not the centre square")
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto")
    parser.add_argument("--threads", type=positive, help="of OpenCV (default: OpenCV's choice)")
    parser.add_argument("--batch", type=positive, default=1, help="images a call (default: 1)")
    args = parser.parse_args()
    if bool(args.inputs) == (args.camera is not None):
        parser.error("give images, folders or videos, or --camera")
    return args


def main() -> int:
    args = parse_args()
    if args.threads:
        cv2.setNumThreads(args.threads)
    paths = [file for path in args.inputs for file in files_in(path)]
    model = Classifier(args.model, args.engine, args.stretch)
    timed = ", ".join(f"{name} {ms:.2f} ms" for name, ms in model.engine_ms.items())
    print(f"{args.model}: OpenCV's engine {model.engine} (timed: {timed})", file=sys.stderr)
    errors: list[Exception] = []
    live = args.camera is not None
    stream = camera_pictures(args.camera) if live else all_pictures(paths, errors)
    recent = deque(maxlen=RECENT)
    with ExitStack() as stack:
        outputs: list[Callable] = [print_json if args.json else print_text]
        if args.draw:
            outputs.append(stack.enter_context(closing(Drawer(args.draw))))
            stack.callback(print, f"what was drawn is in {args.draw}", file=sys.stderr)
        if args.show:
            outputs.append(stack.enter_context(closing(Window())))
        stack.callback(print_summary, recent)
        for picture, result in results(model, stream, args.top, 1 if live else args.batch):
            recent.append((result["network_ms"], result["total_ms"]))
            for output in outputs:
                output(picture, result)
    return 2 if errors else 0


def print_summary(recent: deque) -> None:
    if len(recent) > 1:
        network, total = (statistics.median(column) for column in zip(*recent, strict=True))
        print(
            f"median of the last {len(recent)} pictures: {network:.2f} ms in the network, "
            f"{total:.2f} ms with reading",
            file=sys.stderr,
        )


def run() -> int:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are told below
    try:
        return main()
    except (InputError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())

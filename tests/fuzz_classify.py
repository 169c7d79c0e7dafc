"""Feed damaged files to deploy/classify.py until something other than its own error comes out.

    python -m pip install atheris                   # Python 3.11 to 3.13, Linux or macOS
    python -m tests.fuzz_classify images -max_total_time=600
    python -m tests.fuzz_classify models -max_total_time=600

Options are libFuzzer's. Every input that ends in a traceback or a crash is kept as ``crash-...`` in
the current folder; name the file in place of the options to see it again. Models are damaged field
by field, so that the lengths around a field stay right and OpenCV gets to see it.
"""

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["deploy.classify"]):
    from deploy import classify  # before OpenCV, whose limits it sets

import cv2
import numpy as np

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz_"))
ALPHA_TAG = b"\x52\x01\x03\x00\x01\x00\x00\x00"  # ExtraSamples in a TIFF's directory
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1)


def classify_image(content: bytes) -> None:
    """Read, shrink and annotate it, as ``--draw`` does."""
    path = FOLDER / "image.png"
    path.write_bytes(content)
    try:
        [picture] = classify.pictures(str(path))
    except classify.InputError:
        return
    small = classify.fitted(classify.to_bgr(picture.pixels), (32, 32), stretch=len(content) % 2 > 0)
    assert small.shape == (32, 32, 3)
    classify.annotated(picture.pixels, "cat 90.0%, dog 10.0%")


def load_model(content: bytes) -> None:
    """Load it and run it on one image and on two."""
    path = FOLDER / "model.onnx"
    path.write_bytes(content)
    try:
        model = classify.Classifier(path)
        for count in (1, 2):
            assert model.predict(np.zeros((count, 40, 30, 3), np.uint8)).shape[0] == count
    except classify.InputError:
        return


def image_seeds() -> list[bytes]:
    """One file of each format, and TIFFs and BMPs with four channels."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4)).astype(np.uint8)
    seeds = []
    for suffix in sorted(classify.IMAGE_SUFFIXES - {".dib", ".jfif", ".jpe", ".pbm", ".pgm"}):
        for shape in (pixels, pixels[..., :3], pixels[..., 0], pixels.astype(np.uint16) * 257):
            try:
                written, content = cv2.imencode(suffix, shape)
            except cv2.error:
                continue
            if written:
                seeds.append(content.tobytes())
    return seeds


def model_seeds() -> list[bytes]:
    from stages.common.inference.params import QuantizeParams
    from tests.depthwise import write_depthwise_int8
    from tests.networks import PARAMS, fp32_model, int8_model

    params = QuantizeParams(**PARAMS["quantize"])
    depthwise = write_depthwise_int8(FOLDER / "depthwise.onnx", params)
    models = [fp32_model(), int8_model()]
    return [*(model.SerializeToString() for model in models), depthwise.read_bytes()]


def damaged(message: bytes, rng: random.Random, depth: int = 0) -> bytes:
    """A protobuf message with one field changed, removed or doubled, somewhere inside."""
    try:
        fields = list(split(message))
    except (ValueError, IndexError):
        fields = []
    if not fields:
        return damaged_bytes(message, rng)
    index = rng.randrange(len(fields))
    key, content = fields[index]
    choice = rng.random()
    if key & 7 == 2 and content and (choice < 0.75 or depth < 2):
        fields[index] = key, damaged(content, rng, depth + 1)
    elif choice < 0.85 and key & 7 == 0:
        fields[index] = (
            key,
            varint(rng.choice([*NUMBERS, rng.getrandbits(64)])),
        )
    elif choice < 0.93:
        del fields[index]
    else:
        fields.insert(index, rng.choice(fields))
    return joined(fields)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    if rng.random() < 0.2:
        return content[:at]
    return content[:at] + rng.randbytes(rng.randrange(1, 5)) + content[at + rng.randrange(4) :]


def split(message: bytes) -> list[tuple[int, bytes]]:
    """(key, content without its length) of each field; ``ValueError`` if it is no message."""
    fields, at = [], 0
    while at < len(message):
        key, at = classify.varint(message, at)
        if key >> 3 == 0 or key & 7 not in (0, 1, 2, 5):
            raise ValueError("not a protobuf message")
        if key & 7 == 2:
            length, at = classify.varint(message, at)
        else:
            length = {1: 8, 5: 4}.get(key & 7) or classify.varint(message, at)[1] - at
        if at + length > len(message):
            raise ValueError("not a protobuf message")
        fields.append((key, message[at : at + length]))
        at += length
    return fields


def joined(fields: list[tuple[int, bytes]]) -> bytes:
    return b"".join(
        varint(key) + (varint(len(content)) if key & 7 == 2 else b"") + content
        for key, content in fields
    )


def varint(value: int) -> bytes:
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])


def mutate_model(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    if not data or rng.random() < 0.05:
        return rng.choice(SEEDS)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        data = damaged(data, rng)
    return data[:max_size]


if __name__ == "__main__":
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)
    kind, options = sys.argv[1], sys.argv[2:]
    SEEDS = {"images": image_seeds, "models": model_seeds}[kind]()
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(seed)
    words = [sys.argv[0], "-timeout=30", "-rss_limit_mb=4096"]
    if not any(Path(option).is_file() for option in options):
        words += [str(corpus), f"-max_len={2 * max(map(len, SEEDS))}"]
    if kind == "models":
        atheris.Setup([*words, *options], load_model, custom_mutator=mutate_model)
    else:
        atheris.Setup([*words, *options], classify_image)
    atheris.Fuzz()

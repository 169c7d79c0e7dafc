"""Run an INT8 TFLite file in TensorFlow Lite Micro's interpreter: is it right, what does it need?

The interpreter is that of the package tflite-micro: the code of a microcontroller with its
reference kernels, compiled for this machine. Its integers are the microcontroller's; its arena is a
little larger than a 32-bit one's; nothing is timed.

Reads   an INT8 TFLite file, the test images (the first mcu.images)
Writes  a JSON: accuracy, agreement with LiteRT's kernels, flash, the smallest arena that works,
        operators; "unsupported" and why where the network has no TFLite file
        a folder of C++ sources for a device, see ``write_mcu_bundle``
Params  mcu.images  (see MCUParams)
Raises  InputError when tflite-micro is missing or refuses the file
"""

import argparse
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from stages.common.core.accuracy import accuracy, decimals_of
from stages.common.core.cli import run
from stages.common.core.files import write_json
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_test_images
from stages.common.inference.runtimes.litert import KERNELS, LiteRTSession
from stages.common.inference.sessions import BATCH_SIZE, predict
from stages.common.inference.tflite.file import UNSUPPORTED, load_tflite, why_none
from stages.common.mcu.bundle import output_quantization, write_mcu_bundle
from stages.common.mcu.interpreter import (
    TFLiteMicroSession,
    require_tflite_micro,
    smallest_arena,
)
from stages.common.mcu.params import MCUParams
from stages.common.mcu.structure import Structure, structure_of


def agreement(found: np.ndarray, others: np.ndarray, scale: float) -> dict:
    """Of two runtimes' logits (N, classes): equal predictions in percent, and the largest
    difference of the int8 logits, whose step is ``scale``.
    """
    predictions = [each.argmax(axis=1) for each in (found, others)]
    return {
        "agreement": round(accuracy(*predictions), decimals_of(len(found))),
        "max_int8_difference": int(np.rint(np.abs(found - others) / scale).max()),
    }


def results(path: Path, images: Images, arena_bytes: int, scale: float) -> dict:
    """Accuracy in percent, and the agreement with each kind of LiteRT's kernels."""
    found = predict(TFLiteMicroSession(path, arena_bytes), images, BATCH_SIZE)
    litert = {
        kernels: predict(LiteRTSession(path, cv2.getNumberOfCPUs(), kernels), images, BATCH_SIZE)
        for kernels in KERNELS
    }
    return {
        "accuracy": round(accuracy(found.argmax(axis=1), images.labels), decimals_of(len(images))),
        "litert": {kernels: agreement(found, each, scale) for kernels, each in litert.items()},
        "images": len(images),
    }


def needs(path: Path, structure: Structure, arena_bytes: int) -> dict:
    """Bytes, and how often each operator occurs."""
    return {
        "flash_bytes": path.stat().st_size,
        "arena_bytes": arena_bytes,
        "estimated_arena_bytes": structure.estimated_arena(),
        "operators": dict(sorted(Counter(each.kind for each in structure.operators).items())),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--tflite", type=Path, required=True, help="INT8 model")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of C++ to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(MCUParams, args.params, section="mcu")
    if reason := why_none(args.tflite):
        write_json(args.metrics, {UNSUPPORTED: reason})
        print(f"{args.tflite}: not there: {reason}")
        return
    require_tflite_micro()
    images = load_test_images(args.data)[: params.images]
    model = load_tflite(args.tflite)
    structure = structure_of(model)
    arena_bytes = smallest_arena(args.tflite)
    scale = output_quantization(model, args.tflite).scale
    metrics = {
        **results(args.tflite, images, arena_bytes, scale),
        **needs(args.tflite, structure, arena_bytes),
        "tflite_micro": version("tflite-micro"),
    }
    write_mcu_bundle(args.tflite, args.bundle, arena_bytes)
    write_json(args.metrics, metrics)
    print(
        f"{args.bundle}: {metrics['flash_bytes']:,} bytes of flash, an arena of {arena_bytes:,} "
        f"bytes; {metrics['accuracy']:g} % of {len(images):,} test images right"
    )


if __name__ == "__main__":
    run(main)

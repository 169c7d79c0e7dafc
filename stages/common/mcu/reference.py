"""LiteRT's reference kernels, which TensorFlow Lite Micro has too: its integers, or one off."""

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from stages.common.inference.runtimes.litert import to_integers
from stages.common.inference.tflite.file import read_metadata


def reference_logits(path: Path, pixels: np.ndarray) -> np.ndarray:
    """RGB pixels (N, H, W, 3) in 0-255 -> int8 logits (N, classes), of an INT8 TFLite file."""
    interpreter = Interpreter(
        str(path), num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    source, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    mean = np.float32(read_metadata(path).get("input", {}).get("subtract", 0))
    found = []
    for image in to_integers(pixels.astype(np.float32) - mean, source):
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(output["index"]).reshape(-1))
    return np.stack(found)

"""ONNX files in OpenVINO on the CPU."""

from pathlib import Path

import numpy as np
import openvino

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import image_shape, load_model
from stages.common.inference.runtimes.one_image import one_by_one
from stages.common.inference.sessions import blank_image, one_line, require_file

SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it: logits 2 % off
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # else it binds the calling thread, which others use as well
}


class OpenVINOSession:
    """A model in OpenVINO, compiled for one image a call: a batch is one image after the other.

    FP32 layers compute in FP32. Raises ``InputError`` when the file is missing or OpenVINO refuses
    the model.
    """

    def __init__(self, path: str | Path, threads: int):
        require_file(path)
        self.shape = image_shape(load_model(path), path)
        settings = {**SETTINGS, "INFERENCE_NUM_THREADS": threads}
        try:
            core = openvino.Core()
            model = core.read_model(path)
            model.reshape([1, *self.shape])
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
            self.logits(blank_image(self.shape))
        except RuntimeError as error:
            raise InputError(
                f"{path}: OpenVINO {openvino.get_version()} refuses this model "
                f"({one_line(str(error))}); delete the file and run 'dvc repro'"
            ) from None

    def logits(self, blob: np.ndarray) -> np.ndarray:
        return one_by_one(self._logits_of_one, blob)

    def _logits_of_one(self, image: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) -> (1, classes); the image is read where it lies, the logits are a copy."""
        return self._request.infer({0: image}, share_inputs=True)[0]

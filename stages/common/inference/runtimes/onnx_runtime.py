"""ONNX files in ONNX Runtime on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import image_shape, load_model
from stages.common.inference.sessions import blank_image, one_line, require_file

REFUSALS = (  # they share no base class but Exception
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NotImplemented,
    errors.RuntimeException,
)


class OnnxRuntimeSession:
    """A model in ONNX Runtime, one operator at a time.

    ``optimized``: False computes every operator of the file by itself, as ONNX defines it: the
    integers between them are those of the file, and every sum is one of float32.

    Raises ``InputError`` when the file is missing or ONNX Runtime refuses the model.
    """

    def __init__(self, path: str | Path, threads: int, optimized: bool = True):
        require_file(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # fatal only: what is wrong is in the exception
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            self._input = self._session.get_inputs()[0].name
            self.shape = image_shape(load_model(path), path)
            self.logits(blank_image(self.shape))
        except REFUSALS as error:
            raise InputError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} refuses this model "
                f"({one_line(str(error))}); delete the file and run 'dvc repro'"
            ) from None

    def logits(self, blob: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: blob})[0]

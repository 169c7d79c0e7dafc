"""FP32 ONNX files in ncnn on the CPU, converted by pnnx.

ncnn takes no QDQ file: its INT8 has calibration tables of its own.
"""

import importlib.util
import subprocess
import tempfile
from pathlib import Path

import ncnn
import numpy as np

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import image_shape, load_model
from stages.common.inference.runtimes.one_image import one_by_one
from stages.common.inference.sessions import blank_image, one_line, require_file

REDUCED_PRECISIONS = (  # two are on unless switched off: logits are then 0.01 % off, or 2 %
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
)


class NcnnSession:
    """A model in ncnn, which takes one image a call: a batch is one image after the other.

    All layers compute in FP32. Raises ``InputError`` when the file is missing, or when pnnx or ncnn
    refuses the model.
    """

    def __init__(self, path: str | Path, threads: int):
        require_file(path)
        self.shape = image_shape(load_model(path), path)
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        for option in REDUCED_PRECISIONS:
            setattr(self._net.opt, option, False)
        with tempfile.TemporaryDirectory() as folder:
            param, weights = converted(Path(path), self.shape, Path(folder))
            if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
                raise InputError(f"{path}: ncnn {ncnn.__version__} lacks an operator of this model")
        inputs, outputs = self._net.input_names(), self._net.output_names()
        if len(inputs) != 1 or len(outputs) != 1:
            raise InputError(
                f"{path}: in ncnn this model has {len(inputs)} inputs and {len(outputs)} outputs; "
                "expected one of each"
            )
        self._path, self._input, self._output = path, inputs[0], outputs[0]
        self.logits(blank_image(self.shape))

    def logits(self, blob: np.ndarray) -> np.ndarray:
        return one_by_one(self._logits_of_one, blob)

    def _logits_of_one(self, image: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) -> (1, classes)."""
        extractor = self._net.create_extractor()
        # A copy: ncnn crashes where a first operator that works in place gets memory of others.
        extractor.input(self._input, ncnn.Mat(image[0]).clone())
        code, logits = extractor.extract(self._output)
        if code != 0:
            raise InputError(f"{self._path}: ncnn {ncnn.__version__} cannot compute this model")
        return np.array(logits)[None]


def converted(path: Path, shape: tuple[int, int, int], folder: Path) -> tuple[Path, Path]:
    """The two files that ncnn reads, its graph and its weights (FP32), in ``folder``.

    Raises ``InputError`` when pnnx fails.
    """
    copy = folder / "model.onnx"  # pnnx writes a dozen files beside what it reads
    copy.write_bytes(path.read_bytes())
    size = ",".join(str(side) for side in (1, *shape))
    command = [str(pnnx_program()), copy.name, f"inputshape=[{size}]f32", "fp16=0"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    files = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if result.returncode or not all(file.is_file() for file in files):
        last = one_line((result.stderr.strip().splitlines() or [""])[-1])
        raise InputError(f"{path}: pnnx cannot convert this model for ncnn ({last})")
    return files


def pnnx_program() -> Path:
    """The program in the package, which is not imported: it would load torch."""
    spec = importlib.util.find_spec("pnnx")
    assert spec is not None, "pnnx is not installed"
    assert spec.origin is not None
    return Path(spec.origin).with_name("pnnx")

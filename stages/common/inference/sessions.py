"""The seam between model files and the runtimes that run them.

A session is a loaded model: a blob in, logits out. Each runtime is a file of its own in
``runtimes/``. A blob holds RGB pixels, (N, 3, H, W) float32 in 0-255, as
``cv2.dnn.blobFromImages(images, scalefactor=1, swapRB=True)`` makes it of BGR images of the size
that the model takes. N may change from call to call. The model itself holds the normalization.
"""

import math
from pathlib import Path
from typing import Protocol

import numpy as np

from stages.common.core.cli import InputError
from stages.common.data.dataset import Images

BATCH_SIZE = 250  # where a stage compares runtimes: it bounds memory and shapes no result
MOST_PIXELS = 2**20  # of a call, for the same reason: 20 images of 224x224


class Session(Protocol):
    """A loaded model; ``shape``: channels, height and width of the images that it takes."""

    shape: tuple[int, int, int]

    def logits(self, blob: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32 -> (N, classes) float32."""


class OpenSession(Protocol):
    """Loads a file in one runtime and runs it once: a model that loads may still fail to run.

    Raises ``InputError`` when the file is missing or the runtime refuses the model.
    """

    def __call__(self, path: Path, threads: int) -> Session: ...


def predict(session: Session, images: Images | np.ndarray, batch_size: int) -> np.ndarray:
    """Logits (N, classes) float32 of images, or of their pixels (N, 3, H, W) uint8.

    The prediction is the ``argmax`` of a row. A call gets ``batch_size`` images, or fewer large
    ones: as many as have ``MOST_PIXELS``.
    """
    pixels = images.pixels if isinstance(images, Images) else images
    batch_size = max(1, min(batch_size, MOST_PIXELS // math.prod(pixels.shape[2:])))
    starts = range(0, len(pixels), batch_size)
    return np.concatenate(
        [session.logits(to_blob(pixels[start : start + batch_size])) for start in starts]
    )


def to_blob(pixels: np.ndarray) -> np.ndarray:
    """RGB pixels (N, 3, H, W) uint8 -> the float32 in 0-255 that every model here takes."""
    return pixels.astype(np.float32)


def blank_image(shape: tuple[int, int, int]) -> np.ndarray:
    """A blob of one black image."""
    return np.zeros((1, *shape), np.float32)


def random_image(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """A blob of one image of noise; latency does not depend on what it shows."""
    return np.random.default_rng(seed).integers(256, size=(1, *shape)).astype(np.float32)


def require_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise InputError(f"{path} is missing; run 'dvc repro' (or 'dvc pull')")


def one_line(text: str) -> str:
    return " ".join(text.split())

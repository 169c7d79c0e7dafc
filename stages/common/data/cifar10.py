"""CIFAR-10's facts, and its official binary layout on disk.

Source of the layout: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from pathlib import Path

import numpy as np

from stages.common.core.cli import InputError

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
CLASSES_FILE = "batches.meta.txt"
IMAGE_SHAPE = (3, 32, 32)
RECORD_BYTES = 1 + 3 * 32 * 32  # the label, then the red, green and blue planes
# Mean and standard deviation of the training pixels in 0-255 (cifar10-airbench, times 255).
PIXEL_MEAN = (125.31, 122.95, 113.87)
PIXEL_STD = (62.99, 62.09, 66.70)


def read_records(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3, 32, 32) uint8 and labels (N,) int64 of one file in the official layout."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'dvc repro prepare'") from None
    if len(content) == 0 or len(content) % RECORD_BYTES:
        raise InputError(
            f"{path} has {len(content)} bytes; expected a multiple of {RECORD_BYTES}; delete it "
            "and run 'dvc repro prepare'"
        )
    records = content.reshape(-1, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise InputError(f"{path} has the label {labels.max()}; expected 0 to 9; delete the file")
    return records[:, 1:].reshape(-1, *IMAGE_SHAPE), labels

"""Whether there are as many images as the stages are to take."""

from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError
from stages.common.data.params import OFFICIAL_TRAINING_IMAGES, batch_sizes, refuse_large_batches

COUNTS = {  # what takes images of CIFAR-10, and the key that says how many there are
    "export.check_images": "validation_images",
    "quantize.calibration_images": "train_images",
    "tflite.calibration_images": "train_images",
    "tflite.check_images": "validation_images",
    "accelerator.images": "validation_images",
    "hls.calibration_images": "train_images",
}


def check_counts(params: dict[str, Any], path: str | Path) -> None:
    """No stage may want more images than there are for it; ``params`` by section.

    How many another source than CIFAR-10 has, ``prepare`` finds out: it refuses batches that are
    larger, and the other counts are upper limits there.
    """
    data = params["data"]
    batches = {key: value_of(key, params) for key in batch_sizes(params["teach"].factory)}
    refuse_large_batches(batches, data.train_images, "data.train_images")
    if data.source != "cifar10":
        return
    most = OFFICIAL_TRAINING_IMAGES - data.validation_images
    limits = [("data.train_images", most, "50,000 less data.validation_images")]
    limits += [(key, getattr(data, name), f"data.{name}") for key, name in COUNTS.items()]
    for key, limit, why in limits:
        if (wanted := value_of(key, params)) > limit:
            raise InputError(f"{path}: {key} is {wanted}; allowed: at most {limit}, which is {why}")


def value_of(key: str, params: dict[str, Any]) -> int:
    section, name = key.split(".")
    return getattr(params[section], name)

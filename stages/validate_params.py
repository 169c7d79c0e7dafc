"""Refuse wrong params before any work starts: the first stage of every run.

Reads   params.yaml, all of it
Writes  a JSON of the accepted keys and what each may be: the same for all accepted params, so no
        stage after this one runs again because of it
Params  all
Raises  InputError naming the first key that is unknown, missing or out of range, or the first two
        that contradict each other
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from stages.common.core.cli import InputError, run
from stages.common.core.files import write_json
from stages.common.core.params import parse_section, read_params, reject_unknown_keys
from stages.common.data.params import (
    OFFICIAL_TRAINING_IMAGES,
    DataParams,
    batch_sizes,
    refuse_data_contradictions,
    refuse_image_size,
    refuse_large_batches,
)
from stages.common.inference.params import (
    EvaluateParams,
    ExportParams,
    QuantizeParams,
    TFLiteParams,
)
from stages.common.measuring.params import BenchmarkParams
from stages.common.network.params import CHAIN, NONE, NetworkParams, refuse_keys_of_others
from stages.common.npu.vela import NPUParams
from stages.common.pruning.params import (
    PruneParams,
    refuse_chain_only,
    refuse_contradictions,
    refuse_other_shapes,
)
from stages.common.revisions.changes import CompareRevisionsParams
from stages.common.sources.params import PrepareParams
from stages.common.studies.grid import StudiesParams, experiments_of
from stages.common.training.params import (
    RecipeParams,
    TeachParams,
    TrainParams,
    refuse_large_augmentation,
    refuse_missing_teacher,
)
from stages.controls.params import ControlsParams
from stages.hardware.energy_model.params import EnergyParams
from stages.hardware.hls_design.params import HLSParams
from stages.hardware.mac.params import MacAreaParams
from stages.hardware.nngen_engine.params import AcceleratorParams
from stages.hardware.overview.params import HardwareParams

SECTIONS = {
    "data": DataParams,
    "prepare": PrepareParams,
    "network": NetworkParams,
    "recipe": RecipeParams,
    "train": TrainParams,
    "teach": TeachParams,
    "prune": PruneParams,
    "export": ExportParams,
    "quantize": QuantizeParams,
    "tflite": TFLiteParams,
    "npu": NPUParams,
    "evaluate": EvaluateParams,
    "benchmark": BenchmarkParams,
    "controls": ControlsParams,
    "energy": EnergyParams,
    "mac_area": MacAreaParams,
    "hls": HLSParams,
    "accelerator": AcceleratorParams,
    "hardware": HardwareParams,
    "compare_revisions": CompareRevisionsParams,
    "studies": StudiesParams,
}

IMAGE_SIZE = [32, 32]  # of the profiles in deploy/profiles
COUNTS = {  # what takes images of CIFAR-10, and the key that says how many there are
    "export.check_images": "validation_images",
    "quantize.calibration_images": "train_images",
    "tflite.calibration_images": "train_images",
    "tflite.check_images": "validation_images",
    "accelerator.images": "validation_images",
    "hls.calibration_images": "train_images",
}


def check(content: dict, path: str | Path) -> None:
    """Raise ``InputError`` for the first thing in a read params file that is not allowed."""
    reject_unknown_keys(content, known=list(SECTIONS), prefix="", path=path)
    params: dict[str, Any] = {
        section: parse_section(cls, content, section=section, path=path)
        for section, cls in SECTIONS.items()
    }
    refuse_data_contradictions(params["data"])
    check_networks(params)
    refuse_large_augmentation(params["recipe"], params["data"].image_size)
    check_counts(params, path)
    refuse_contradictions(params["prune"])
    if params["network"].imported:
        refuse_chain_only(params["prune"], params["network"].factory)
    else:
        refuse_other_shapes(params["prune"], params["train"].widths)
        refuse_unprofiled(params["prune"], params["data"].image_size)
    check_studies(params["studies"], content, path)


def check_networks(params: dict[str, Any]) -> None:
    """The networks of base and teacher must be there, and take the images; ``params`` by section.

    One that a factory makes is built and run once, which takes torch: seconds.
    """
    network, teach, size = params["network"], params["teach"], params["data"].image_size
    factories = {"train": network.factory, "teach": teach.factory}
    blocks = {
        f"{section}.widths": len(params[section].widths)
        for section, factory in factories.items()
        if factory == CHAIN
    }
    if blocks:
        refuse_image_size(size, blocks)
    refuse_missing_teacher(teach, params["train"])
    if network.imported or teach.factory not in (CHAIN, NONE):
        from stages.common.building import check as networks

        networks.refuse_network(network, size)
        if teach.factory not in (CHAIN, NONE):
            networks.refuse_network_of(teach.factory, teach.arguments, size)
    else:
        refuse_keys_of_others(network)


def refuse_unprofiled(prune: PruneParams, size: list[int]) -> None:
    """The layers in deploy/profiles were timed on the shapes that images of 32x32 pixels give."""
    if prune.needs_latency() and size != IMAGE_SIZE:
        raise InputError(
            f"prune counts milliseconds of a profile for images of {IMAGE_SIZE}, but "
            f"data.image_size is {size}; let prune.target count macs or params, without budget_ms"
        )


def check_studies(studies: StudiesParams, content: dict, path: str | Path) -> None:
    """Every value that a study tries must be allowed where it is tried."""
    for study, sections in dataclasses.asdict(studies).items():
        reject_unknown_keys(sections, known=list(SECTIONS), prefix=f"studies.{study}.", path=path)
        for experiment in experiments_of(study, sections):
            for key, value in experiment.changes.items():
                section, name = key.split(".")
                changed = {section: {**content[section], name: value}}
                where = f"{path}: studies.{study}"
                parse_section(SECTIONS[section], changed, section=section, path=where)


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


def accepted() -> dict:
    """The allowed values of every key, in words."""
    return {
        section: {field.name: field.metadata["rule"].allowed for field in dataclasses.fields(cls)}
        for section, cls in SECTIONS.items()
    }


def main() -> None:
    args = parse_args()
    check(read_params(args.params), path=args.params)
    write_json(args.accepted, accepted())
    print(f"{args.params}: all values are allowed")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "accepted"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

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

from stages.card.params import CardParams, RobustnessParams
from stages.common.consistency.image_counts import check_counts
from stages.common.consistency.networks import check_networks, check_pruning
from stages.common.consistency.studies import check_studies
from stages.common.consistency.unread_keys import notes_on_unread_keys, refuse_unread_keys
from stages.common.core.cli import run
from stages.common.core.files import write_json
from stages.common.core.params import parse_section, read_params, reject_unknown_keys
from stages.common.data.params import DataParams, refuse_data_contradictions
from stages.common.inference.params import (
    EvaluateParams,
    ExportParams,
    QuantizeParams,
    TFLiteParams,
    refuse_second_files,
)
from stages.common.mcu.params import MCUParams
from stages.common.measuring.params import BenchmarkParams
from stages.common.network.params import NetworkParams
from stages.common.npu.vela import NPUParams
from stages.common.pruning.params import PruneParams, refuse_contradictions
from stages.common.revisions.changes import CompareRevisionsParams
from stages.common.sources.params import PrepareParams
from stages.common.studies.grid import StudiesParams
from stages.common.training.params import (
    RecipeParams,
    TeachParams,
    TrainParams,
    refuse_large_augmentation,
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
    "mcu": MCUParams,
    "evaluate": EvaluateParams,
    "benchmark": BenchmarkParams,
    "robustness": RobustnessParams,
    "card": CardParams,
    "controls": ControlsParams,
    "energy": EnergyParams,
    "mac_area": MacAreaParams,
    "hls": HLSParams,
    "accelerator": AcceleratorParams,
    "hardware": HardwareParams,
    "compare_revisions": CompareRevisionsParams,
    "studies": StudiesParams,
}


def check(content: dict, path: str | Path) -> list[str]:
    """Lines on what nothing reads, of a read params file.

    Raises ``InputError`` for the first thing in it that is not allowed.
    """
    reject_unknown_keys(content, known=list(SECTIONS), prefix="", path=path)
    params: dict[str, Any] = {
        section: parse_section(cls, content, section=section, path=path)
        for section, cls in SECTIONS.items()
    }
    refuse_data_contradictions(params["data"])
    refuse_unread_keys(params)
    check_networks(params)
    refuse_large_augmentation(params["recipe"], params["data"].image_size)
    check_counts(params, path)
    refuse_second_files(params["export"], params["quantize"])
    refuse_contradictions(params["prune"])
    check_pruning(params)
    check_studies(params["studies"], content, SECTIONS, path)
    return notes_on_unread_keys(params)


def accepted() -> dict:
    """The allowed values of every key, in words."""
    return {
        section: {field.name: field.metadata["rule"].allowed for field in dataclasses.fields(cls)}
        for section, cls in SECTIONS.items()
    }


def main() -> None:
    args = parse_args()
    notes = check(read_params(args.params), path=args.params)
    write_json(args.accepted, accepted())
    print(f"{args.params}: all values are allowed", *notes, sep="\n  ")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "accepted"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

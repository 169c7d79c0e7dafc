"""Say in one line of JSON with what this host would train: its device and its precision.

Reads   params.yaml
Params  recipe.precision, prune.device; -S changes them as in 'dvc exp run'
Raises  InputError for a device that is not there
"""

import argparse
import json
import socket
from pathlib import Path

import torch

from stages.common.core.cli import run
from stages.common.core.params import read_params
from stages.common.measuring.machine import cpu_model
from stages.common.training.context import pick_device, pick_precision, precision_name


def main() -> None:
    args = parse_args()
    params = read_params(args.params)
    changed = dict(setting.split("=", maxsplit=1) for setting in args.set)
    device = pick_device(changed.get("prune.device", params["prune"]["device"]))
    name = changed.get("recipe.precision", params["recipe"]["precision"])
    is_cuda = device.type == "cuda"
    described = {
        "host": socket.gethostname(),
        "device": device.type,
        "machine": torch.cuda.get_device_name() if is_cuda else cpu_model(),
        "precision": precision_name(pick_precision(name, device)),
        "torch": torch.__version__,
    }
    print(json.dumps(described))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

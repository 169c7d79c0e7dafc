"""Write a peer's checkpoint with random weights: its shape, to be exported and timed.

Reads   the training images
Writes  a checkpoint (config, weights, provenance)
Params  data.*, network.factory and normalization, train.seed
Raises  InputError for wrong params, missing images

The statistics of BatchNorm are those of some training images, so that activations have the size
that they have in a trained network, and INT8 its usual ranges.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from stages.common.building.build import build_network
from stages.common.building.checkpoint import save_checkpoint
from stages.common.core.cli import run
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_training_images
from stages.common.data.params import DataParams
from stages.common.network.network import Network
from stages.common.network.params import NetworkParams
from stages.common.training.params import TrainParams
from stages.family.peers import PEERS

STATISTICS_IMAGES = 256


@torch.no_grad()
def set_statistics(model: Network, images: Images) -> None:
    """Give BatchNorm the statistics of the images, in place; the model is then in eval mode."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # these images alone
    model.train()(torch.from_numpy(images.pixels).float())
    model.eval()


def main() -> None:
    args = parse_args()
    source = load_params(NetworkParams, args.params, section="network")
    train = load_params(TrainParams, args.params, section="train")
    data = load_params(DataParams, args.params, section="data")
    images, _ = load_training_images(args.data, data)
    model = build_network(
        source.factory, {"name": args.peer}, train.widths, images, train.seed, source.normalization
    )
    set_statistics(model, images[:STATISTICS_IMAGES])
    provenance = {"data_digest": images.digest(), "seed": train.seed, "trained": False}
    save_checkpoint(args.checkpoint, model, provenance)
    print(f"{args.checkpoint}: the shape of {PEERS[args.peer].title}, with random weights")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--peer", required=True, choices=list(PEERS))
    parser.add_argument("--checkpoint", type=Path, required=True, help="file to write")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""The network, what it costs, and its checkpoint."""

import pytest
import torch

from stages.common.building.checkpoint import load_checkpoint, save_checkpoint
from stages.common.core.cli import InputError
from stages.common.network.chain import Chain, rebuild, widths_of
from stages.common.network.size import size_of

CONFIG = {"widths": [[8, 8], [16, 24]], "classes": 10}


@pytest.fixture
def network() -> Chain:
    torch.manual_seed(0)
    return Chain(CONFIG).eval()


def test_size_counts_by_hand(network):
    """24x3x2x2 at 31x31, 8x24x9 at 31x31, 8x8x9 at 15x15, 16x8x9 at 15x15, 24x16x9 at 7x7, head."""
    weights = [24 * 12, 8 * 24 * 9, 8 * 8 * 9, 16 * 8 * 9, 24 * 16 * 9, 24 * 10]
    positions = [31 * 31, 31 * 31, 15 * 15, 15 * 15, 7 * 7, 1]
    torch.nn.init.ones_(network.whitening.weight)
    for parameter in network.parameters():
        torch.nn.init.ones_(parameter)
    size = size_of(network)
    assert size.params == sum(weights) + 24 + 8 + 8 + 16 + 24
    assert size.macs == sum(w * p for w, p in zip(weights, positions, strict=True))
    assert size.nonzero_params == size.params
    assert size.nonzero_macs == size.macs


def test_zeros_count_as_parameters_but_not_as_nonzero_ones(network):
    before = size_of(network)
    torch.nn.init.ones_(network.head.weight)
    full = size_of(network)
    network.head.weight.data[:3] = 0
    after = size_of(network)
    assert after.params == before.params
    assert full.nonzero_params - after.nonzero_params == 3 * 24
    assert full.nonzero_macs - after.nonzero_macs == 3 * 24


def test_a_checkpoint_rebuilds_the_same_outputs(network, tmp_path):
    pixels = torch.rand(4, 3, 32, 32) * 255
    save_checkpoint(tmp_path / "a.pt", network, provenance={"seed": 1})
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.provenance == {"seed": 1}
    assert torch.equal(loaded.model(pixels), network(pixels))


def test_equal_checkpoints_are_equal_bytes(network, tmp_path):
    save_checkpoint(tmp_path / "a.pt", network, provenance={})
    save_checkpoint(tmp_path / "b.pt", load_checkpoint(tmp_path / "a.pt").model, {})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_rebuild_takes_the_widths_from_the_layers(network):
    first = network.blocks[0].convolutions[1]
    first.weight.data, first.out_channels = first.weight.data[:4], 4
    norm = network.blocks[0].norms[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).data = getattr(norm, name).data[:4]
    reader = network.blocks[1].convolutions[0]
    reader.weight.data = reader.weight.data[:, :4]
    copy = rebuild(network)
    assert widths_of(copy) == copy.config["widths"] == [[8, 4], [16, 24]]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.pt is no checkpoint of this pipeline"):
        load_checkpoint(path)


def test_a_checkpoint_cut_short_is_refused_by_name(network, tmp_path):
    path = tmp_path / "cut.pt"
    save_checkpoint(path, network, provenance={})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut\.pt is no checkpoint"):
        load_checkpoint(path)


def test_a_missing_checkpoint_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"none\.pt is missing; run 'dvc repro'"):
        load_checkpoint(tmp_path / "none.pt")

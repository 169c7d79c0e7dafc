"""The peer beside ours is the peer."""

import numpy as np

from stages import peers
from stages.common.graph import cost_of, load_model
from stages.common.runtime import OpenCVSession
from tests.networks import call


def test_the_peer_has_the_published_size_and_runs_where_ours_runs(tmp_path, monkeypatch):
    path = tmp_path / "resnet8.onnx"
    call(peers, monkeypatch, onnx=path)
    cost = cost_of(load_model(path))
    assert cost.params == 78_666 - 4 * 240  # less the 240 BatchNorm channels' four numbers
    assert 12.4e6 < cost.macs < 12.6e6  # MLPerf Tiny: 12.5 M
    session = OpenCVSession(path, engine="new", threads=1)
    assert session.logits(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)

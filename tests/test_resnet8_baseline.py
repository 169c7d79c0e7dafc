"""The ResNet-8 that is timed beside ours has the published size."""

import numpy as np

from stages.common.inference.onnx_graph import cost_of, load_model
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.tools import resnet8_baseline


def test_resnet8_has_the_published_size_and_runs_in_opencv(tmp_path):
    path = tmp_path / "resnet8.onnx"
    path.write_bytes(resnet8_baseline.resnet8_onnx().SerializeToString())
    cost = cost_of(load_model(path))
    assert cost.params == 78_666 - 4 * 240  # less the 240 BatchNorm channels' four numbers
    assert 12.4e6 < cost.macs < 12.6e6  # MLPerf Tiny: 12.5 M
    session = OpenCVSession(path, engine="new", threads=1)
    assert session.logits(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)


def test_the_table_shows_the_fastest_engine_of_each_runtime():
    rows = [
        {
            "variant": "tiny",
            "runtime": "opencv",
            "engine": engine,
            "fastest": fastest,
            "latency_ms_median": median,
            "latency_ms_p5": "0.1",
            "latency_ms_p95": "0.9",
        }
        for engine, fastest, median in (("classic", "false", "0.5"), ("new", "true", "0.25"))
    ]
    environment = {"cpu": "C", "threads": 1, "opencv": "5", "onnxruntime": "1"}
    environment |= {"rounds": 40, "calls": 10}
    table = resnet8_baseline.latency_table(rows, environment)
    assert "| tiny | opencv new | 0.250 ms | 0.100 to 0.900 |" in table
    assert "classic" not in table

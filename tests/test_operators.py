"""stages.common.inference.export: any network becomes operators that every runtime knows."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from stages.common.inference.export.onnx_export import to_onnx
from stages.common.inference.runtimes.onnx_files import onnx_runtimes
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, engine_code
from tests.own_networks import Gated, Residual

SHAPE = (3, 20, 24)
ENGINES = [engine for engine in NAMED_ENGINES if engine_code(engine) is not None]


class Normalized(nn.Module):
    """As an imported network is: one mean for the three colours, a deviation for each."""

    def __init__(self, body: nn.Module, mean: tuple[float, float, float] = (118, 118, 118)):
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor((60.0, 50.0, 70.0)).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.body((pixels - self.mean) / self.std)


class Dense(nn.Module):
    """BatchNorm before its convolution, as in DenseNet."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], dim=1)


class Mean(nn.Module):
    def __init__(self, keepdim: bool):
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=self.keepdim)


class Parallel(nn.Module):
    """Two convolutions read the normalized pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) * self.two(x)


def stem(padding: int = 1, stride: int = 2) -> list[nn.Module]:
    return [
        nn.Conv2d(3, 8, 3, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
    ]


def head(channels: int = 8, pool: nn.Module | None = None) -> list[nn.Module]:
    return [pool or nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(channels, 5)]


def network(*layers: nn.Module, **arguments) -> nn.Module:
    """In eval mode, with statistics that are far from their defaults."""
    model = Normalized(nn.Sequential(*layers), **arguments)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias)
    return model.eval()


def made(name: str) -> nn.Module:
    """One of NETWORKS, the same each time."""
    torch.manual_seed(0)
    return NETWORKS[name]()


def pixels(count: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *SHAPE), generator=generator).float()


def exported(model: nn.Module) -> ModelProto:
    return to_onnx(model, SHAPE, opset=18, metadata={})


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


NETWORKS = {
    "residual": lambda: network(
        *stem(),
        Residual(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)),
        nn.ReLU(),
        *head(),
    ),
    "depthwise": lambda: network(
        *stem(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 1),
        *head(),
    ),
    "gate: hard sigmoid": lambda: network(*stem(), Gated(8, nn.Hardsigmoid()), *head()),
    "gate: sigmoid": lambda: network(*stem(), Gated(8, nn.Sigmoid()), *head()),
    "hard swish": lambda: network(*stem(), nn.Hardswish(), *head()),
    "dense": lambda: network(*stem(), Dense(8), Dense(12), *head(16)),
    "gelu": lambda: network(*stem(), nn.GELU(), *head()),
    "gelu tanh": lambda: network(*stem(), nn.GELU(approximate="tanh"), *head()),
    "grows in pooling": lambda: network(
        *stem(), *head(8 * 13 * 14, nn.AdaptiveAvgPool2d((13, 14)))
    ),
    "pools in windows": lambda: network(*stem(), *head(8 * 5 * 4, nn.AdaptiveAvgPool2d((5, 4)))),
    "mean": lambda: network(*stem(), Mean(keepdim=False), nn.Linear(8, 5)),
    "mean with its axes": lambda: network(*stem(), *head(pool=Mean(keepdim=True))),
    "convolution as head": lambda: network(
        *stem(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()
    ),
    "unpadded": lambda: network(*stem(padding=0), *head()),
    "colours of their own": lambda: network(*stem(), *head(), mean=(100.0, 110.0, 120.0)),
    "two that read the pixels": lambda: network(Parallel(), *head()),
    "grouped first layer": lambda: network(nn.Conv2d(3, 6, 3, padding=1, groups=3), *head(6)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_runtime_computes_what_pytorch_does_in_batches_of_any_size(tmp_path: Path, name):
    model = made(name)
    path = tmp_path / "model.onnx"
    path.write_bytes(exported(model).SerializeToString())
    with torch.inference_mode():
        expected = model(pixels()).numpy()

    for key, load in onnx_runtimes(ENGINES).items():
        session = load(path, threads=1)
        found = [session.logits(batch.numpy()) for batch in pixels().split([1, 4, 2])]
        difference = np.abs(np.concatenate(found) - expected).max()
        assert difference < 2e-5 * max(1, np.abs(expected).max()), key


def test_batch_norm_dropout_and_deviation_are_gone_and_one_scalar_is_subtracted():
    model = exported(made("residual"))

    assert operators(model) == [
        *("Sub", "Conv", "Clip"),
        *("Conv", "Add", "Relu"),
        *("GlobalAveragePool", "Flatten", "Gemm"),
    ]
    mean = model.graph.node[0].input[1]
    assert constants(model)[mean].shape == ()
    assert constants(model)[mean] == 118


def test_the_mean_goes_into_the_bias_where_nothing_is_padded():
    assert operators(exported(made("unpadded")))[0] == "Conv"
    assert operators(exported(made("two that read the pixels")))[:2] == ["Conv", "Conv"]


def test_a_mean_by_colour_stays_as_it_is_where_the_first_layer_is_padded():
    model = exported(made("colours of their own"))

    assert constants(model)[model.graph.node[0].input[1]].ravel().tolist() == [100, 110, 120]


def test_batch_norm_that_follows_no_convolution_stays():
    assert operators(exported(made("dense"))).count("BatchNormalization") == 2


@pytest.mark.parametrize(
    ("name", "wanted", "unwanted"),
    [
        ("gate: hard sigmoid", {"Clip": 2}, "HardSigmoid"),
        ("hard swish", {"HardSwish": 1}, "HardSigmoid"),
        ("mean", {"GlobalAveragePool": 1, "Flatten": 1}, "ReduceMean"),
        ("mean with its axes", {"GlobalAveragePool": 1, "Flatten": 1}, "ReduceMean"),
        ("grows in pooling", {"MatMul": 2, "Flatten": 1}, "Gather"),
        ("pools in windows", {"AveragePool": 1, "Flatten": 1}, "MatMul"),
        ("convolution as head", {"Conv": 2, "Flatten": 1}, "Reshape"),
    ],
)
def test_operators_that_not_every_runtime_knows_are_replaced(name, wanted, unwanted):
    found = Counter(operators(exported(made(name))))

    assert {operator: found[operator] for operator in wanted} == wanted
    assert unwanted not in found


def test_weights_that_two_layers_share_are_each_folded_for_themselves():
    torch.manual_seed(0)
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = network(shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(3 * 20 * 24, 5))
    with torch.inference_mode():
        expected = model(pixels()).numpy()

    proto = exported(model)

    found = onnx.reference.ReferenceEvaluator(proto).run(None, {"pixels": pixels().numpy()})[0]
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("name", ["residual", "gate: hard sigmoid", "grows in pooling"])
def test_equal_networks_give_equal_bytes_without_paths_or_source(name):
    first, second = (exported(made(name)).SerializeToString(deterministic=True) for _ in range(2))

    assert first == second
    for text in (b".py", b"/home", b"forward", b"pkg.torch", b"+cu", b"+cpu"):
        assert text not in first, text

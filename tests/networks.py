"""A small network that tests make themselves (random filters, fitted last layer), and a recipe."""

import copy
import json
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from onnx import ModelProto
from torch import nn

from stages import export, prune
from stages.common.building.checkpoint import Checkpoint, save_checkpoint
from stages.common.data.dataset import Images
from stages.common.inference.export.onnx_export import onnx_of
from stages.common.inference.int8.quantizer import quantized
from stages.common.inference.layer_graph.graph import quantization_between, with_output
from stages.common.inference.layer_graph.reader import read_graph
from stages.common.inference.params import QuantizeParams
from stages.common.inference.tflite.writer import tflite_bytes
from stages.common.network.chain import BatchNorm, Chain
from stages.common.training.checkpoints import EpochStore
from stages.common.training.context import RunContext
from stages.common.training.params import RecipeParams, TeachParams
from tests.conftest import DATA, make_images

RECIPE = RecipeParams(
    momentum=0.6,
    sgd_momentum=0.85,
    bias_rate=220.0,
    head_rate=0.04,
    weight_decay=0.008,
    label_smoothing=0.2,
    translate=2,
    cutout=0,
    crop_scale=1.0,
    colour=0.0,
    precision="float32",
    optimizer="muon",
    schedule="linear",
    body_rate=1.0,
    frozen_norms=False,
)
TEACH = TeachParams(
    factory="chain",
    arguments={},
    seed=7,
    widths=[[16, 16], [32, 32]],
    epochs=2,
    batch_size=50,
    learning_rate=0.1,
    warmup=0.0,
    whitening_bias_epochs=1,
    device="cpu",
    views=2,
    networks=2,
)
CONFIG = {"widths": [[8, 8], [16, 16], [16, 32]], "classes": 10}
PROVENANCE = {
    "data": {"train_images": 400, "validation_images": 100},
    "data_digest": "ab" * 32,
    "train": {"seed": 0, "epochs": 1},
}
NETWORK = {
    "factory": "chain",
    "arguments": {},
    "code": "examples/networks",
    "weights": "",
    "weights_sha256": "",
    "normalization": "data",
    "keep_whole": [],
}
PARAMS = {
    "data": DATA,
    "network": NETWORK,
    "export": {
        "precision": "fp32",
        "opset": 18,
        "check_images": 50,
        "logit_tolerance": 0.001,
    },
    "quantize": {
        "calibration_images": 100,
        "calibration_method": "minmax",
        "activation_type": "uint8",
        "symmetric": False,
        "reduce_range": True,
        "max_accuracy_drop": 10.0,
        "logit_tolerance": 10,
        "exclude": [],
        "repair": "none",
        "aware_epochs": 0,
        "aware_batch_size": 50,
        "aware_learning_rate": 0.001,
        "aware_distillation": 0.9,
        "aware_seed": 0,
        "aware_device": "cpu",
    },
    "tflite": {"calibration_images": 100, "check_images": 50, "min_agreement": 90},
    "npu": {"targets": ["ethos-u55-256 Ethos_U55_High_End_Embedded Shared_Sram"]},
    "evaluate": {"engine": "new", "batch_size": 64},
}


def run_context(
    images: Images, store: EpochStore | Path, validation: Images | None = None
) -> RunContext:
    """RECIPE on the CPU; a path is the folder of a new store."""
    store = store if isinstance(store, EpochStore) else EpochStore(store)
    return RunContext(images, validation or images, RECIPE, torch.device("cpu"), store)


def random_network() -> Chain:
    return copy.deepcopy(cached_network())


@cache
def cached_network() -> Chain:
    """Every weight and statistic that export folds is far from its default."""
    torch.manual_seed(0)
    model = Chain(CONFIG)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, BatchNorm):
            nn.init.normal_(layer.bias, std=0.3)
    nn.init.normal_(model.whitening.bias)
    images = make_images(500, seed=100)
    pixels = torch.from_numpy(images.pixels).float()
    with torch.no_grad():
        for _ in range(3):
            model.train()(pixels)
        fit_head(model.eval(), pixels, torch.from_numpy(images.labels))
    return model


def fit_head(model: Chain, pixels: torch.Tensor, labels: torch.Tensor) -> None:
    """Least squares from the features to logits of 5 for the right class and -5 for the others."""
    inputs = []
    hook = model.head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model(pixels)
    hook.remove()
    targets = 10.0 * nn.functional.one_hot(labels, 10) - 5.0
    model.head.weight.copy_(torch.linalg.lstsq(inputs[0], targets).solution.T)


@cache
def fp32_bytes() -> bytes:
    checkpoint = Checkpoint(model=random_network(), provenance=PROVENANCE)
    images = make_images(1)
    metadata = export.metadata_of(checkpoint, images)
    model = onnx_of(checkpoint.model, opset=18, metadata=metadata)
    return model.SerializeToString(deterministic=True)


@cache
def int8_bytes() -> bytes:
    params = QuantizeParams(**PARAMS["quantize"])
    model = quantized(fp32_model(), make_images(100), params)
    return model.SerializeToString(deterministic=True)


@cache
def int8_tflite() -> bytes:
    """The INT8 network as TFLite; its logits lie between -8 and 8."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(int8_bytes())
        file.flush()
        return tflite_bytes(with_output(read_graph(file.name), quantization_between(-8.0, 8.0)))


def fp32_model() -> ModelProto:
    return ModelProto.FromString(fp32_bytes())


def int8_model() -> ModelProto:
    return ModelProto.FromString(int8_bytes())


def write_models(folder: Path) -> tuple[Path, Path]:
    """The network as fp32.onnx and int8.onnx."""
    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    fp32.write_bytes(fp32_bytes())
    int8.write_bytes(int8_bytes())
    return fp32, int8


def write_checkpoint(path: Path) -> Path:
    save_checkpoint(path, random_network(), PROVENANCE)
    return path


def write_params(path: Path, **changes: dict) -> Path:
    """PARAMS with the changed keys of some sections, and with sections added."""
    names = PARAMS.keys() | changes.keys()
    sections = {name: {**PARAMS.get(name, {}), **changes.get(name, {})} for name in names}
    path.write_text(yaml.safe_dump(sections))
    return path


def call(stage, monkeypatch: pytest.MonkeyPatch, **arguments: Path) -> None:
    """Run a stage's main with ``--name value`` for every argument."""
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", [stage.__name__, *words])
    stage.main()


def call_prune(monkeypatch: pytest.MonkeyPatch, data: Path, folder: Path) -> dict:
    """Run the stage on base.pt, teacher.npz and params.yaml in the folder, which then has
    pruned.pt; its metrics.
    """
    files = {
        "params": "params.yaml",
        "resume": "resume",
        "base": "base.pt",
        "teacher": "teacher.npz",
        "latency": "latency.json",
        "memory": "memory.json",
        "pruned": "pruned.pt",
        "curve": "curve.csv",
        "metrics": "prune.json",
    }
    paths = {name: folder / file for name, file in files.items()}
    call(prune, monkeypatch, data=data, **paths)
    return json.loads(paths["metrics"].read_text())

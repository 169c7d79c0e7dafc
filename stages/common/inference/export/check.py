"""Does an ONNX file compute what its network computes in PyTorch, in each runtime?

And what the file holds for the same check on a device.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from stages.common.data.dataset import Images
from stages.common.inference.export.fp16 import in_fp32, with_rounded_activations
from stages.common.inference.int8.sensitivity import logits_of
from stages.common.inference.onnx_graph import load_model
from stages.common.inference.params import FP16, FP32
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.expected import expected_metadata, sample_pictures
from stages.common.inference.runtimes.onnx_files import logits_by_runtime
from stages.common.inference.runtimes.opencv import NAMED_ENGINES, installed_engines
from stages.common.inference.sessions import BATCH_SIZE
from stages.common.network.chain import Chain
from stages.common.network.network import Network

# A float32 sum is exact to a share of its terms: of larger logits, a share is allowed.
LARGE_LOGIT = 10
# Percent of the logits. Sums of float32 in two orders differ by less, activations in FP16 by more:
# each is rounded by up to 0.05 %.
FP32_ERROR = 0.001


def compare_runtimes(
    path: Path, model: Network, images: Images, tolerance: float
) -> tuple[dict[str, dict], dict[str, str]]:
    """Each runtime's difference from the network in PyTorch, before any folding; those that are
    wrong or refuse the file, each with that in words.
    """
    expected = pytorch_logits(model, images.pixels)
    logits, refused = logits_by_runtime(path, images, installed_engines(NAMED_ENGINES))
    results = {runtime: differences(found, expected) for runtime, found in logits.items()}
    return results, {**refused, **wrong_runtimes(results, allowed(tolerance, expected))}


def precisions(path: Path, images: Images) -> dict[str, str]:
    """The precision, FP16 or FP32, in which each runtime that takes an FP16 file computes it here.

    It is FP32 where the logits are those of a file that holds the same weights in FP32: such a
    runtime only stores FP16.
    """
    engines = installed_engines(NAMED_ENGINES)
    found, _ = logits_by_runtime(path, images, engines)
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "fp32.onnx"
        stored.write_bytes(in_fp32(load_model(path)).SerializeToString())
        expected, _ = logits_by_runtime(stored, images, engines)
    return {
        name: FP32 if logit_error(found[name], expected[name]) <= FP32_ERROR else FP16
        for name in found
    }


def rounding_error(path: Path, model: Network, images: Images) -> dict:
    """The differences from the network in PyTorch of what computes an FP16 file in FP16."""
    found = logits_of(with_rounded_activations(load_model(path)), images)
    return differences(found, pytorch_logits(model, images.pixels))


def pytorch_logits(model: Network, pixels: np.ndarray) -> np.ndarray:
    """(N, classes) float32 of pixels (N, 3, H, W) uint8."""
    with torch.inference_mode():
        batches = torch.from_numpy(pixels).split(BATCH_SIZE)
        return torch.cat([model(batch.float()) for batch in batches]).numpy()


def answers(model: Network, tolerance: float) -> dict[str, str]:
    """The metadata "expected" of the FP32 file of a network: PyTorch's logits, and ``tolerance`` as
    ``compare_runtimes`` applies it, in percent. The chain's file, which every engine computes
    right, has none.
    """
    if isinstance(model, Chain):
        return {}
    logits = pytorch_logits(model, sample_pictures(*model.input_shape[1:]))
    deviation = (logits - logits.mean(axis=1, keepdims=True)).std()
    with np.errstate(divide="ignore"):
        percent = 100 * allowed(tolerance, logits) / deviation
    return expected_metadata(logits, float(percent))


def differences(found: np.ndarray, expected: np.ndarray) -> dict:
    """Largest absolute difference of a logit (two digits), and how many predictions differ."""
    return {
        "max_logit_difference": float(f"{np.abs(found - expected).max():.1e}"),
        "flipped_predictions": int((found.argmax(1) != expected.argmax(1)).sum()),
    }


def allowed(tolerance: float, expected: np.ndarray) -> float:
    """The tolerance where no logit is above LARGE_LOGIT, and in proportion to the largest above."""
    return tolerance * max(1.0, float(np.abs(expected).max()) / LARGE_LOGIT)


def wrong_runtimes(results: dict[str, dict], largest: float) -> dict[str, str]:
    """The runtimes that differ by more than ``largest``, each with its difference in words."""
    return {
        name: f"differs from PyTorch by {result['max_logit_difference']:g} in a logit"
        for name, result in results.items()
        if not result["max_logit_difference"] <= largest  # also when it is no number
    }

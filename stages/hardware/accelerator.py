"""Generate a Verilog accelerator of an INT8 network and simulate it: cycles of one inference.

NNgen generates it and Verilator simulates it together with its memory. Figures are reported only
where, on every simulated image, its logits equal those of the integer network
(nngen_engine/integer_network.py) bit for bit. That network's accuracy is measured on all test
images, beside ONNX Runtime's. A control runs the same hardware with most weights set to 0.

Reads   an INT8 ONNX file, validation images (simulated), the test images (accuracy)
Writes  a JSON of cycles, hardware and accuracy; the accelerator's Verilog
Params  data.*, accelerator.*  (see DataParams, AcceleratorParams)
Raises  InputError when NNgen or Verilator is missing, for a network that no such accelerator can
        be made of, and when the simulation takes more than accelerator.max_cycles
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from stages.common.core.accuracy import accuracy
from stages.common.core.cli import run
from stages.common.core.files import write_json, write_text
from stages.common.core.params import load_params
from stages.common.data.dataset import Images, load_test_images, load_training_images
from stages.common.data.params import DataParams
from stages.common.inference.layer_graph.chain import Chain, read_chain
from stages.common.inference.layer_graph.graph import require_int8
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import BATCH_SIZE, predict
from stages.hardware.external.verilator import refuse_without_verilator
from stages.hardware.nngen_engine.engine import Accelerator, refuse_without_nngen
from stages.hardware.nngen_engine.integer_network import (
    IntegerNetwork,
    integer_logits,
    integer_network,
)
from stages.hardware.nngen_engine.params import AcceleratorParams
from stages.hardware.nngen_engine.simulation import Run, Simulator
from stages.hardware.nngen_engine.zero_weights import with_weights, with_zeros


def checked_run(simulator: Simulator, network: IntegerNetwork, pixels: np.ndarray) -> Run:
    """Simulate one image, (3, H, W) uint8; an assertion fails where the logits are wrong."""
    found = simulator.run(network, pixels)
    expected = integer_logits(network, pixels[None])[0]
    assert np.array_equal(found.logits, expected), (
        f"the accelerator's logits are {found.logits.tolist()}, not {expected.tolist()}"
    )
    return found


def simulated(chain: Chain, images: Images, params: AcceleratorParams, verilog: Path) -> dict:
    """The figures of the simulation; the accelerator is written to the file ``verilog``."""
    network = integer_network(chain)
    zeros = with_weights(network, integer_network(with_zeros(chain, params.zero_percent)))
    with TemporaryDirectory() as folder:
        simulator = Simulator(Accelerator(network, params), Path(folder))
        runs = [checked_run(simulator, network, pixels) for pixels in images.pixels]
        control = checked_run(simulator, zeros, images.pixels[0])
    assert len({run.cycles for run in runs}) == 1, "the cycles depend on the image"
    write_text(verilog, simulator.verilog)
    first, resources = runs[0], simulator.resources
    at_once = resources.multipliers["8x8"]
    return {
        "par_ich": params.par_ich,
        "par_och": params.par_och,
        "axi_bits": params.axi_bits,
        "cycles": first.cycles,
        "cycles_with_zeros": control.cycles,
        "zero_percent": params.zero_percent,
        "macs": network.macs,
        "macs_per_cycle": round(network.macs / first.cycles, 2),
        "busy_percent": round(100 * network.macs / first.cycles / at_once, 1),
        "read_bytes": first.read_bytes,
        "written_bytes": first.written_bytes,
        "multipliers": resources.multipliers,
        "ram_bits": resources.ram_bits,
        "simulated_images": len(runs),
    }


def evaluated(chain: Chain, path: Path, images: Images) -> dict:
    """Accuracy of the integer network, and its agreement (same prediction) with ONNX Runtime."""
    network = integer_network(chain)
    batches = [
        integer_logits(network, images.pixels[start : start + BATCH_SIZE])
        for start in range(0, len(images), BATCH_SIZE)
    ]
    predictions = np.concatenate(batches).argmax(axis=1)
    session = OnnxRuntimeSession(path, threads=os.cpu_count() or 1)
    expected = predict(session, images, BATCH_SIZE).argmax(axis=1)
    return {
        "accuracy": round(accuracy(predictions, images.labels), 2),
        "onnxruntime_accuracy": round(accuracy(expected, images.labels), 2),
        "agreement_onnxruntime": round(accuracy(predictions, expected), 2),
        "images": len(images),
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--onnx", type=Path, required=True, help="INT8 model")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON to write")
    parser.add_argument("--verilog", type=Path, required=True, help="Verilog to write")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(AcceleratorParams, args.params, section="accelerator")
    data_params = load_params(DataParams, args.params, section="data")
    refuse_without_nngen()
    refuse_without_verilator()
    chain = read_chain(args.onnx)
    require_int8(chain, args.onnx)
    _, validation = load_training_images(args.data, data_params)
    metrics = simulated(chain, validation[: params.images], params, args.verilog)
    metrics |= evaluated(chain, args.onnx, load_test_images(args.data))
    write_json(args.metrics, metrics)
    print(
        f"{args.onnx}: {metrics['cycles']:,} cycles, logits as expected on "
        f"{metrics['simulated_images']} images; {metrics['accuracy']:.2f} % of "
        f"{metrics['images']} test images right"
    )


if __name__ == "__main__":
    run(main)

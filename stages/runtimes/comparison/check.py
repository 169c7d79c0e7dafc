"""Is a runtime right for a model, and does it keep to one thread? Only then is it timed.

Right is what the file says, one operator after the other, on the pictures that a device is checked
with (inference/runtimes/expected.py). An FP32 file allows FP32_TOLERANCE percent, which tells FP32
from what a runtime may choose instead: measured on an AMD EPYC with the committed models, logits
were at most 0.0002 % off in FP32, 0.004 to 0.009 % with the half precision that ncnn has unless
told otherwise, and 1.7 to 2.5 % in bfloat16, which OpenVINO chooses where the processor has it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stages.common.core.cli import InputError
from stages.common.inference.onnx_graph import load_model, read_metadata
from stages.common.inference.runtimes.agreement import logit_error
from stages.common.inference.runtimes.expected import EXPECTED, sample_pictures
from stages.common.inference.runtimes.onnx_runtime import OnnxRuntimeSession
from stages.common.inference.sessions import Session, predict, to_blob
from stages.runtimes.comparison.catalogue import RUNTIMES, Model, Runtime, timed_call, within_limits

FP32_TOLERANCE = 0.002  # percent
CHECKED_SECONDS = 0.1  # of CPU time, in which the threads are watched
OTHER_THREADS = 0.05  # of the CPU time that may pass in other threads than the one that calls


class NotTimed(InputError):
    """A runtime does not take part with a model: ``word`` for the table, ``detail`` for a line."""

    def __init__(self, word: str, detail: str):
        super().__init__(detail)
        self.word = word
        self.detail = detail


@dataclass(frozen=True)
class Reference:
    """Pictures (N, 3, H, W) uint8, the logits (N, classes) that the file says they have, those that
    ONNX Runtime finds as it is timed, and by how many percent a runtime may be off.
    """

    pictures: np.ndarray
    expected: np.ndarray
    timed: np.ndarray
    tolerance: float


def reference_of(model: Model, threads: int, int8_tolerance: float) -> Reference:
    """``int8_tolerance``: of an INT8 file that does not say how far a runtime may be off.

    Raises ``InputError`` when ONNX Runtime refuses the model.
    """
    session = OnnxRuntimeSession(model.onnx, threads)
    pictures = sample_pictures(*session.shape[1:])
    by_definition = OnnxRuntimeSession(model.onnx, threads, optimized=False)
    tolerance = FP32_TOLERANCE
    if model.variant.is_int8:
        answers = read_metadata(load_model(model.onnx)).get(EXPECTED)
        tolerance = json.loads(answers)["tolerance"] if answers else int8_tolerance
    return Reference(
        pictures=pictures,
        expected=predict(by_definition, pictures, batch_size=1),
        timed=predict(session, pictures, batch_size=1),
        tolerance=tolerance,
    )


def right_sessions(
    model: Model, names: list[str], threads: int, int8_tolerance: float
) -> tuple[dict[str, Session], dict]:
    """By runtime, and the model's block of the JSON, still without latencies. A line names each
    runtime that is left out.
    """
    reference = reference_of(model, threads, int8_tolerance)
    sessions, found, left_out = {}, {}, {}
    for name in names:
        try:
            sessions[name], found[name] = admitted(RUNTIMES[name], model, reference, threads)
        except NotTimed as fault:
            left_out[name] = {"word": fault.word, "detail": fault.detail}
            print(f"{model.variant.name} is not timed in {RUNTIMES[name].title}: {fault.detail}")
    precision = "int8" if model.variant.is_int8 else "fp32"
    block = {"precision": precision, "macs": model.variant.macs, "runtimes": found}
    return sessions, {**block, "left_out": left_out}


def admitted(
    runtime: Runtime, model: Model, reference: Reference, threads: int
) -> tuple[Session, dict[str, float | bool]]:
    """A session that may be timed; how far its logits are off in percent, and whether they are
    those of ONNX Runtime bit for bit.

    Raises ``NotTimed`` where it refuses the model, is wrong, or uses more threads.
    """
    if model.variant.is_int8 and not runtime.takes_qdq:
        raise NotTimed("no QDQ", "takes no QDQ file: its INT8 has calibration tables of its own")
    try:
        session = runtime.open(model, threads)
    except InputError as error:
        raise NotTimed("refused", str(error)) from None
    logits = predict(session, reference.pictures, batch_size=1)
    percent = logit_error(logits, within_limits(reference.expected, session))
    if not percent <= reference.tolerance:  # also when it is no number
        raise NotTimed("wrong", f"computes logits that are {percent:.3g} % off")
    call = timed_call(session, to_blob(reference.pictures[:1]))
    if threads == 1 and (share := share_of_other_threads(call)) > OTHER_THREADS:
        raise NotTimed("threads", f"spends {share:.0%} of its CPU time in further threads")
    exact = np.array_equal(logits, reference.timed)
    return session, {"logit_error": float(f"{percent:.2g}"), "bit_exact": exact}


def share_of_other_threads(call: Callable[[], object]) -> float:
    """Share of the CPU time of repeated calls that passes outside the thread that calls."""
    call()
    process, thread = time.process_time(), time.thread_time()
    while (elapsed := time.process_time() - process) < CHECKED_SECONDS:
        call()
    return 1 - (time.thread_time() - thread) / elapsed

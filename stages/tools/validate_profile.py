"""Time networks that a profile has not seen beside what it predicts of them.

Reads   a profile of this machine (deploy/profile_device.py)
Writes  a CSV with a row for each network, precision and engine; a Markdown table of the errors; a
        picture of predicted against measured milliseconds
Params  none
Raises  InputError for a missing or damaged profile, one of another processor or OpenCV, one of
        too few networks, or one without a reference network

The networks have random widths, drawn with another seed than those that the profile was fitted to.
All of them are timed in interleaved rounds, as the benchmark does it, and the profile's reference
network with them. Measured milliseconds are undisturbed ones, a low quantile of the calls, at the
speed that the machine had when it was profiled: the ratio to the reference in the same round, times
its milliseconds in the profile. The error of a network is |predicted / measured - 1|. For
comparison: what a line through MACs, fitted to the profile's own networks, would say.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from deploy import profile_device
from stages.common.core.cli import InputError, run
from stages.common.core.files import write_csv, write_text
from stages.common.inference.runtimes.opencv import OpenCVSession
from stages.common.measuring.bootstrap import latency_summary
from stages.common.measuring.interleaved_timing import load_average, time_interleaved, warn_if_busy
from stages.common.pruning.latency.model import PRECISIONS, LatencyModel, model_from, read_profile
from stages.common.reporting.markdown import as_table
from stages.common.reporting.style import save_png
from stages.tools.profile_chart import profile_chart

SEED = 2  # the profile's own networks are of seed 1
CALLS, WARMUP = 8, 3  # timed in a turn, and before all rounds
REFERENCES = 4  # loads of the reference network, whose place in memory changes its speed
FASTER = "faster engine"  # what a deployment uses, and pruning counts
Widths = list[list[int]]


def unseen_networks(profile: dict, count: int) -> list[Widths]:
    """Random widths that are not among the networks of the fit.

    Raises ``InputError`` when the profile's family is too small to draw so many.
    """
    seen = [row[2] for row in profile["measured"]["networks"]]
    family = math.prod(w // profile["step"] for block in profile["widths"] for w in block)
    if 2 * (len(seen) + count) > family:
        raise InputError(
            f"the profile is of a family of {family} networks, too few to draw {count} that it "
            "has not seen; give a smaller --networks, or a profile of wider ones"
        )
    rng = np.random.default_rng(SEED)
    found: list[Widths] = []
    while len(found) < count:
        widths = profile_device.random_widths(rng, profile["widths"])
        if widths not in seen and widths not in found:
            found.append(widths)
    return found


def macs_of(widths: Widths) -> int:
    """Multiply-accumulates for one image."""
    total = 0
    for layer in profile_device.layers_of(widths):
        weights = layer.channels_out * layer.channels_in * layer.kernel**2
        total += weights * layer.positions
    return total


def macs_line(profile: dict, precision: str, engine: str) -> np.ndarray:
    """[slope, constant]: milliseconds = slope x MACs + constant, least relative squares."""
    rows = [r for r in profile["measured"]["networks"] if r[:2] == [precision, engine]]
    ms = np.array([row[3] for row in rows])
    matrix = np.array([[macs_of(row[2]), 1.0] for row in rows])
    return np.linalg.lstsq(matrix / ms[:, None], np.ones(len(ms)), rcond=None)[0]


def measured_rows(
    profile: dict, model: LatencyModel, networks: list[Widths], rounds: int
) -> tuple[list[dict], float]:
    """One row for each network, precision and engine, of what was predicted and measured; the
    reference network's milliseconds here.
    """
    rows, sessions = [], []
    threads = profile["environment"]["threads"]
    reference = profile["measured"]["reference"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        for precision in PRECISIONS:
            for widths in networks:
                content = profile_device.layers_of(widths)
                path.write_bytes(profile_device.onnx_of(content, precision == "int8"))
                for engine, ms in model.predict_by_engine(widths, precision).items():
                    line = macs_line(profile, precision, engine)
                    sessions.append(OpenCVSession(path, engine=engine, threads=threads))
                    rows.append(
                        {
                            "precision": precision,
                            "engine": engine,
                            "widths": " / ".join(" ".join(map(str, block)) for block in widths),
                            "macs": macs_of(widths),
                            "predicted_ms": round(ms, 4),
                            "by_macs_ms": round(float(line @ [macs_of(widths), 1.0]), 4),
                        }
                    )
        content = profile_device.layers_of(reference["widths"])
        path.write_bytes(profile_device.onnx_of(content, is_int8=False))
        sessions += [OpenCVSession(path, reference["engine"], threads) for _ in range(REFERENCES)]
    blob = np.random.default_rng(SEED).random((1, *profile_device.IMAGE), np.float32)
    calls: list[Callable[[], object]] = [partial(each.logits, blob) for each in sessions]
    samples_ms = time_interleaved(calls, rounds=rounds, calls=CALLS, warmup=WARMUP, seed=SEED)
    undisturbed = [profile_device.undisturbed(each) for each in samples_ms[:, len(rows) :]]
    reference_ms = np.array(undisturbed)  # (rounds,)
    at_one_speed = samples_ms * (reference["ms"] / reference_ms)[:, None, None]
    for index, row in enumerate(rows):
        summary = latency_summary(at_one_speed[:, index])
        measured = profile_device.undisturbed(at_one_speed[:, index])
        row |= {"measured_ms": round(measured, 4)}
        row |= {key: round(value, 4) for key, value in summary.items()}
        row["error"] = round(error_of(row, "predicted_ms"), 4)
    return rows, float(np.median(reference_ms))


def error_of(row: dict, prediction: str) -> float:
    return abs(row[prediction] / row["measured_ms"] - 1)


def faster_engine(rows: list[dict]) -> list[dict]:
    """One row for each network: the least of the predictions, the least of the measurements."""
    networks: dict[str, list[dict]] = {}
    for row in rows:
        networks.setdefault(row["widths"], []).append(row)
    least = ("predicted_ms", "by_macs_ms", "measured_ms")
    return [
        {**same[0], "engine": FASTER, **{key: min(row[key] for row in same) for key in least}}
        for same in networks.values()
    ]


def groups_of(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """The rows by precision and engine, the faster engine last."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for precision in PRECISIONS:
        of_precision = [row for row in rows if row["precision"] == precision]
        for row in [*of_precision, *faster_engine(of_precision)]:
            groups.setdefault((precision, row["engine"]), []).append(row)
    return groups


def table_of(rows: list[dict], conditions: str) -> str:
    heads = ["networks", "engine", "measured", "median error", "90th percentile", "worst"]
    lines = [[*heads, "median error of MACs alone"], ["---", "---", *["---:"] * 5]]
    for (precision, engine), group in groups_of(rows).items():
        errors = [error_of(row, "predicted_ms") for row in group]
        by_macs = [error_of(row, "by_macs_ms") for row in group]
        times = [row["measured_ms"] for row in group]
        shares = (np.median(errors), np.percentile(errors, 90), max(errors), np.median(by_macs))
        cells = [f"{precision.upper()}", engine, f"{min(times):.2f} to {max(times):.2f} ms"]
        lines.append([*cells, *(f"{share:.1%}" for share in shares)])
    return f"{as_table(lines)}\n\n{conditions}\n"


def conditions_of(rows: list[dict], reference_ms: float, profile: dict, rounds: int) -> str:
    """``reference_ms``: of the reference network here."""
    machine = profile["environment"]
    before = profile["measured"]["reference"]["ms"]
    threads = machine["threads"]
    count = len({row["widths"] for row in rows})
    names = dict.fromkeys([profile["device"], machine["cpu"]])
    return (
        f"{', '.join(names)}, {threads} thread{'s' if threads > 1 else ''}, "
        f"OpenCV {machine['opencv']}, profile of {machine['date'][:10]}; {count} networks of "
        f"random widths that the profile has not seen; batch 1, {rounds} interleaved "
        f"rounds of {CALLS} calls, of which the {profile_device.UNDISTURBED:.0%} quantile counts. "
        f"Milliseconds at the profile's speed: its reference network took {before:.3f} ms there "
        f"and {reference_ms:.3f} ms here."
    )


def require_reference(profile: dict, path: Path) -> None:
    if "reference" not in profile["measured"]:
        raise InputError(
            f"{path} has no reference network: it is of an earlier deploy/profile_device.py; "
            "measure the device again"
        )


def require_same_machine(profile: dict, path: Path) -> None:
    here = profile_device.environment(profile["environment"]["threads"])
    for key in ("cpu", "opencv"):
        if here[key] != profile["environment"][key]:
            raise InputError(
                f"{path} is of {key} {profile['environment'][key]!r}, this is {here[key]!r}: a "
                "profile can be checked only where it was measured"
            )


def main() -> None:
    args = parse_args()
    read_profile(args.profile)
    profile = json.loads(args.profile.read_text())
    model = model_from(profile, args.profile)
    require_reference(profile, args.profile)
    require_same_machine(profile, args.profile)
    warn_if_busy(load_average(), profile["environment"]["threads"])
    networks = unseen_networks(profile, args.networks)
    rows, reference_ms = measured_rows(profile, model, networks, args.rounds)
    write_csv(args.csv, rows, header=list(rows[0]))
    conditions = conditions_of(rows, reference_ms, profile, args.rounds)
    table = table_of(rows, conditions)
    write_text(args.table, table)
    save_png(args.picture, profile_chart(rows, conditions))
    print(table)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("profile", "csv", "table", "picture"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--networks", type=profile_device.whole(1, 10_000), default=30)
    parser.add_argument("--rounds", type=profile_device.whole(1, 10_000), default=12)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

"""Hand the device's profile to pruning, and only where pruning asks for milliseconds.

Reads   deploy/profiles/: the profile that dvc.yaml names, if pruning needs it
Writes  a JSON with the fitted part of the profile, or the constant {"used": false}, so that a new
        profile makes no pruning stale that does not use it
Params  prune.target, prune.budget_ms
Raises  InputError when the profile is needed and missing, damaged or no profile
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stages.common.core.cli import run
from stages.common.core.files import write_json
from stages.common.core.params import number, one_of, parse_section, read_params
from stages.common.pruning.latency_model import read_profile


@dataclass(frozen=True)
class TimeParams:
    """The params that decide whether pruning needs the latency; see PruneParams for the others."""

    target: str = one_of("macs", "params", "latency")
    budget_ms: float = number(at_least=0)

    def needs_latency(self) -> bool:
        return self.target == "latency" or self.budget_ms > 0


def load_time_params(path: Path) -> TimeParams:
    """Read only these two keys of the section, the only ones on which this stage depends."""
    section = read_params(path).get("prune") or {}
    keys = {key: section[key] for key in TimeParams.__dataclass_fields__ if key in section}
    return parse_section(TimeParams, {"prune": keys}, section="prune", path=path)


def main() -> None:
    args = parse_args()
    if load_time_params(args.params).needs_latency():
        write_json(args.latency, {"used": True, **read_profile(args.profile)})
        print(f"{args.latency}: latencies of {args.profile}")
    else:
        write_json(args.latency, {"used": False})
        print(f"{args.latency}: pruning needs no latency")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "profile", "latency"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

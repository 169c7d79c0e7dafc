"""Hand the device's profile to pruning, and only where pruning asks for the chain's milliseconds.

Reads   deploy/profiles/: the profile that dvc.yaml names, if pruning needs it
Writes  a JSON with the fitted part of the profile, or the constant {"used": false}, so that a new
        profile makes no pruning stale that does not use it
Params  prune.target, prune.budget_ms, prune.precision, network.factory (of another network than the
        chain pruning measures candidates itself)
Raises  InputError when the profile is needed and missing, damaged, no profile, or of a device that
        does not run the precision
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stages.common.core.cli import run
from stages.common.core.files import write_json
from stages.common.core.params import Params, number, one_of, parse_section, read_params
from stages.common.network.params import CHAIN, factory
from stages.common.pruning.latency.model import in_precision, model_from, read_profile
from stages.common.pruning.params import BYTES


@dataclass(frozen=True)
class FactoryParams:
    """The network, of which alone there are profiles; see NetworkParams for the others."""

    factory: str = factory(CHAIN)


@dataclass(frozen=True)
class TimeParams:
    """The params that decide which latency pruning needs; see PruneParams for the others."""

    target: str = one_of("macs", "params", "latency", *BYTES)
    budget_ms: float = number(at_least=0)
    precision: str = one_of("fp32", "int8", usual="fp32")

    def needs_latency(self) -> bool:
        return self.target == "latency" or self.budget_ms > 0


def precision_of_profile(path: Path) -> str | None:
    """By the only keys on which this stage depends; None where pruning needs no profile."""
    times = load_keys(TimeParams, path, "prune")
    is_chain = load_keys(FactoryParams, path, "network").factory == CHAIN
    return times.precision if is_chain and times.needs_latency() else None


def load_keys(cls: type[Params], path: Path, section: str) -> Params:
    """Read only the keys of ``cls``, whatever else the section holds."""
    content = read_params(path).get(section) or {}
    keys = {key: content[key] for key in cls.__dataclass_fields__ if key in content}
    return parse_section(cls, {section: keys}, section=section, path=path)


def main() -> None:
    args = parse_args()
    if precision := precision_of_profile(args.params):
        profile = read_profile(args.profile)
        in_precision(model_from(profile, args.profile), precision)
        write_json(args.latency, {"used": True, **profile})
        print(f"{args.latency}: latencies of {args.profile}")
    else:
        write_json(args.latency, {"used": False})
        print(f"{args.latency}: pruning needs no profile")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("params", "profile", "latency"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    run(main)

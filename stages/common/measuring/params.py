"""Params of ``benchmark``, apart from it: ``validate_params`` must not wait for the runtimes."""

from dataclasses import dataclass

from stages.common.core.params import list_of, whole


@dataclass(frozen=True)
class BenchmarkParams:
    """How latency is measured, and OpenCV's engines to time: 'auto' may silently be either."""

    threads: int = whole(at_least=1)
    rounds: int = whole(at_least=10)
    calls: int = whole(at_least=1)
    warmup: int = whole(at_least=0)
    engines_fp32: list[str] = list_of("classic", "new")
    engines_int8: list[str] = list_of("classic", "new")
    bootstrap_samples: int = whole(at_least=100)
    seed: int = whole(at_least=0)

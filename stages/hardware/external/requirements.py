"""One clear error for a missing package or program that only a few stages need."""

import importlib.util
import shutil

from stages.common.core.cli import InputError


def require_packages(*names: str, purpose: str) -> None:
    """Raise ``InputError`` for the first that is not installed; ``purpose`` completes "which …"."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"{name} is missing, which {purpose}; run: pip install -r "
                "requirements-hardware.txt, or make hardware"
            )


def require_programs(*names: str, purpose: str, packages: str) -> None:
    """Raise ``InputError`` for the first that is not on PATH; ``purpose`` completes "which …".

    ``packages``: arguments of apt-get install, options included.
    """
    for name in names:
        if shutil.which(name) is None:
            raise InputError(
                f"{name} is missing, which {purpose}; install it (Debian and Ubuntu: sudo apt-get "
                f"install {packages}), then run the same command again"
            )

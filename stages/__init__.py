"""The stages of dvc.yaml, and what else a user runs: python -m stages.NAME."""

import sys
from types import TracebackType

from stages.common.cli import INTERRUPTED


def _say_interrupted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Ctrl-C while torch is being imported: ``cli.run`` has not begun, a traceback would follow."""
    if issubclass(kind, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_interrupted

"""Running a program's ``main``: errors in one line, Ctrl-C without a traceback."""

import argparse
import errno
import sys
from collections.abc import Callable, Collection

INTERRUPTED = "interrupted: run the same command again to go on"


class InputError(ValueError):
    """An error that the user can mend; its text says what is wrong, expected and to be done."""


def run(main: Callable[[], None]) -> None:
    """Call a stage's ``main``; exit 2 with one line on stderr on an ``InputError`` or when the
    system refuses a file (a full disk, missing rights), 130 on Ctrl-C.
    """
    try:
        main()
    except (InputError, OSError) as error:
        hint = "; free some space, then run the same command again" if is_disk_full(error) else ""
        sys.exit(_fail(f"error: {error}{hint}", code=2))
    except KeyboardInterrupt:
        sys.exit(_fail(INTERRUPTED, code=130))


def named_path(text: str) -> tuple[str, str]:
    """Argument of argparse: 'base=model.onnx' -> ('base', 'model.onnx')."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r}; expected NAME=PATH, such as base=model.onnx")
    return name, path


def paths_by_name(
    option: str, pairs: list[tuple[str, str]], known: Collection[str] | None = None
) -> dict[str, str]:
    """What ``named_path`` made of an option that is given several times.

    Raises ``InputError`` for a name that is given twice, and for one that is not among ``known``.
    """
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{option} {name}=... is given twice; expected each name once")
        if known is not None and name not in known:
            raise InputError(f"{option} {name}=... is of no model; expected: {', '.join(known)}")
    return dict(pairs)


def first_line(error: Exception) -> str:
    """An error's text in one line; its type where it has no text."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def is_disk_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code

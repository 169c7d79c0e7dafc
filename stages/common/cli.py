"""How a stage meets its user: errors in one line, Ctrl-C without a traceback."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something the user can mend; its text names what is wrong, what was expected, what to do."""


def run(main: Callable[[], None]) -> None:
    """Call a stage's ``main``; exit 2 with one line on stderr on an ``InputError`` or when the
    system refuses a file (a full disk, missing rights), 130 on Ctrl-C.
    """
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(_fail(f"error: {error}", code=2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted: run the same command again to go on", code=130))


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code

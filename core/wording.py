"""Names settings in error messages: as flags on the command line, as arguments in Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COMMAND_LINE: ContextVar[bool] = ContextVar("command_line", default=False)


@contextmanager
def command_line() -> Iterator[None]:
    """Within, settings are written as flags."""
    token = _COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _COMMAND_LINE.reset(token)


def setting(name: str, *values: str) -> str:
    """A setting, as the user writes it: `--serializer json or grid`, or `serializer="json" or "grid"`.

    Args:
        name: an argument of `bitrl.run` and its like, or an option's path (`backbone.layers`).
        values: to choose from; none for a switch, or where any other value will do. FILE and such are placeholders.
    """
    typed = _COMMAND_LINE.get()
    flag = f"-o {name}" if "." in name else f"--{name.replace('_', '-')}"
    if not values:
        return flag if typed else name
    if typed:
        return f"{flag}={' or '.join(values)}" if "." in name else f"{flag} {' or '.join(values)}"
    words = " or ".join(value if value.isupper() else f'"{value}"' for value in values)
    return f'options={{"{name}": {words}}}' if "." in name else f"{name}={words}"


def warn(message: str) -> None:
    """Say on stderr what the user should know, and what stops nothing."""
    print(f"warning: {message}", file=sys.stderr)


def resuming(directory: object) -> str:
    """How to resume a run: `bitrl run --resume DIR`, or `bitrl.resume("DIR")`."""
    return f"bitrl run --resume {directory}" if _COMMAND_LINE.get() else f'bitrl.resume("{directory}")'

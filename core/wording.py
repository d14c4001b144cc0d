"""Names settings and commands in messages: as flags on the command line, as arguments in Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bitrl.core.terminal import shell_word, tell

_COMMAND_LINE: ContextVar[bool] = ContextVar("command_line", default=False)


LONG, BEGINNING = 80, 24
"""Characters of a setting's value that tables and names show, and of a longer one."""


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


def elided(value: object) -> str:
    """A setting's value in a table: of a long one the beginning, and eight digits that tell it from others."""
    text = str(value)
    if len(text) <= LONG:
        return text
    from hashlib import sha256  # which OpenSSL is loaded for

    return f"{text[:BEGINNING]}… (#{sha256(text.encode(errors='replace')).hexdigest()[:8]})"


def warn(message: str) -> None:
    """Say on stderr what the user should know, and what stops nothing."""
    tell(f"warning: {message}")


def resuming(directory: object, **settings: str) -> str:
    """How to resume a run: `bitrl run --resume DIR`, or `bitrl.resume("DIR")`; with other `settings` by name."""
    if _COMMAND_LINE.get():
        flags = "".join(f" {setting(name, value)}" for name, value in settings.items())
        return f"{program()} run --resume {shell_word(directory)}{flags}"
    arguments = "".join(f', {name}="{value}"' for name, value in settings.items())
    return f'bitrl.resume("{directory}"{arguments})'


def program() -> str:
    """The program as it is called from here, to paste into a shell: `bitrl`, or where that would not find it
    `.venv/bin/bitrl` or `python -m bitrl`, as it was called.
    """
    called = sys.argv[0] if sys.argv else ""
    folder, name = os.path.split(called)
    if name == "__main__.py" and os.path.basename(folder) == "bitrl":
        return f"{shell_word(_from_here(sys.orig_argv[0]))} -m bitrl"
    if name != "bitrl" or not folder:
        return "bitrl"
    if _runs("bitrl", called):
        return "bitrl"
    return shell_word(_from_here(called))


def pip(arguments: str, tool: str = "pip") -> str:
    """`pip install 'bitrl[video]'`, to paste into a shell; `PYTHON -m pip …` where `pip` is another Python's.
    The same for another `tool` that is a module.
    """
    folder = os.path.dirname(sys.executable or "")
    if not _COMMAND_LINE.get() or not folder or _runs(tool, os.path.join(folder, tool)):
        return f"{tool} {arguments}"
    return f"{shell_word(_from_here(sys.executable))} -m {tool} {arguments}"


def _runs(name: str, file: str) -> bool:
    """Whether a shell that is given `name` runs `file`."""
    from shutil import which  # takes as long to import as the rest of this module

    found = which(name)
    return found is not None and os.path.realpath(found) == os.path.realpath(file)


def _from_here(path: str) -> str:
    """`path` relative to the working directory if it is in it."""
    try:
        below = os.path.relpath(path)
    except OSError:
        return path
    return below if os.path.isabs(path) and not below.startswith(os.pardir) else path

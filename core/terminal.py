"""What may be printed: text from files and plugins of others holds no control characters when a terminal gets it.

Knows nothing of what is printed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator

LONGEST_MESSAGE = 500
"""Characters of an error message."""

_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of control and format characters, lone surrogates, and separators of lines."""


def printable(text: str, keep: str = "\n\t") -> str:
    r"""`text` with control characters, and bytes that are not UTF-8, written as escapes (`\x1b`); `keep` stays."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign in keep or unicodedata.category(sign) not in _ESCAPED else _escape(sign) for sign in text
    )


def as_line(text: str, most: int = LONGEST_MESSAGE) -> str:
    """`text` as one printable line of at most `most` characters: cut in the middle, since remedies are at the end."""
    line = printable(" ".join(text.split()), keep="")
    if len(line) <= most:
        return line
    head = (most - 3) * 3 // 5
    return f"{line[:head]} … {line[len(line) - (most - 3 - head) :]}"


def shell_word(word: object) -> str:
    r"""`word` quoted for any POSIX shell, where it needs that; `"$(printf 'run-\377')"` where it does not print as
    it is, or a message would not keep its spaces. A shell drops the newline at a word's end: behind it stands a slash,
    so that a directory is found, and a file is not mistaken for another.
    """
    text = str(word)
    if text.startswith("-"):  # an option, to whoever gets it
        text = f"./{text}"
    if as_line(text, sys.maxsize) == text:
        return shlex.quote(text)
    if text.endswith("\n"):
        text += "/"
    escaped = "".join(
        sign
        if sign.isalnum() or sign in "/._-"
        else "".join(f"\\{byte:03o}" for byte in sign.encode(errors="surrogateescape"))
        for sign in text
    )
    return f"\"$(printf '{escaped}')\""


def tell(line: str) -> None:
    """Print a line on stderr. Where nobody can read it (closed, full, a terminal that is gone), work goes on."""
    mend_streams()
    if sys.stderr is None:  # print() would take stdout
        return
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def held_stderr(shown: Callable[[bytes], bytes]) -> Iterator[None]:
    """Within, what is written to descriptor 2 is held back, by libraries that know nothing of Python's stderr too; at
    the end `shown` says what of it is written after all. Where nothing can be held back, nothing is.
    """
    import tempfile  # which takes long to import, and is wanted where files are read

    with contextlib.ExitStack() as opened:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            file = opened.enter_context(tempfile.TemporaryFile())
            real = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
        except (OSError, ValueError):  # no place for temporary files, a closed stream
            yield
            return
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)
            file.seek(0)
            with contextlib.suppress(OSError):
                os.write(2, shown(file.read()))


_kept: dict[int, int] = {}
"""1 and 2, standard output and standard error → descriptors of this program's own that lead where these do."""


def keep_streams() -> None:
    """Remember where stdout and stderr lead, for `mend_streams`. Both are open."""
    for descriptor in (1, 2):
        if descriptor in _kept:
            os.close(_kept[descriptor])
        _kept[descriptor] = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def send_nowhere(descriptor: int) -> None:
    """Let 1, standard output, or 2, standard error, lead nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    if descriptor in _kept:
        os.dup2(nowhere, _kept[descriptor], inheritable=False)
    os.close(nowhere)


def mend_streams() -> None:
    """Open stdout and stderr again where a plugin or an environment has closed them, or put a file in their place: what
    this program has to say is its own.
    """
    for descriptor, kept in _kept.items():
        name = "stdout" if descriptor == 1 else "stderr"
        at = descriptor
        try:
            if not os.path.samestat(os.fstat(descriptor), os.fstat(kept)):
                at = kept  # the next file that was opened has its number
        except OSError:
            os.dup2(kept, descriptor)
        stream = getattr(sys, name)
        if stream is None or stream.closed or (at == kept and stream is getattr(sys, f"__{name}__")):
            opened = open(at, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)


def _escape(sign: str) -> str:
    if sign in "\n\r\t":
        return repr(sign)[1:-1]
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a path or argument that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

"""The errors a user meets. Each message is one line: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

from bitrl.core.terminal import as_line

MOST_NAMES = 12
"""How many names an error lists."""


class BitrlError(Exception):
    """Any failure that bitrl explains; the command line prints its message without a traceback. What the message quotes
    (names from files, errors of plugins) is made one printable line of at most 500 characters.
    """

    exit_code = 1

    def __str__(self) -> str:
        return as_line(super().__str__())


class UsageError(BitrlError):
    """The command, its options or a file it names is wrong (exit code 2)."""

    exit_code = 2


class RunFailed(BitrlError):
    """The command was correct, but the run could not continue (exit code 1)."""


class RunStopped(RunFailed):
    """A signal asked the run to stop, and it is saved. The exit code is 128 + the signal, as shells give it."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


def out_of_memory(error: BaseException) -> bool:
    """Whether memory or address space ran out; torch and the dynamic linker say so by errors of their own."""
    text = cause(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and ("can't allocate memory" in text or "can't start new thread" in text))
        or (isinstance(error, ImportError) and ("failed to map segment" in text or "cannot allocate memory" in text))
    )


def cause(error: BaseException) -> str:
    """What was raised, on one line: `ValueError: the lamp broke`; by its name alone if its own text fails."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ is anybody's code
        text = type(error).__name__
    return " ".join(text.split()).removesuffix(":")


def unknown(what: str, name: str, known: Iterable[str], hint: str = "", prefix: str = "") -> UsageError:
    """An error for an unknown name, with the most similar known ones.

    For example `unknown serializer "jsno": did you mean "json"?`. All names are shown with `prefix`.
    """
    known = sorted(known)
    near = _nearest(name, {candidate.lower(): candidate for candidate in reversed(known)}, cutoff=0.5)
    if not near:  # perhaps a misspelt word of it: "clpi" for "clip_coef"
        words = {word: candidate for candidate in reversed(known) for word in candidate.lower().split("_")}
        near = _nearest(name, words, cutoff=0.7)
    if near:
        rest = "did you mean " + " or ".join(f'"{prefix}{candidate}"' for candidate in near) + "?"
    elif known:
        shown = [prefix + candidate for candidate in known[:MOST_NAMES]]
        more = [f"and {len(known) - MOST_NAMES} more"] if len(known) > MOST_NAMES else []
        rest = "known: " + ", ".join(shown + more)
    else:
        rest = "there are none"
    return UsageError(f'unknown {what} "{prefix}{name}": {rest}' + (f" ({hint})" if hint else ""))


def _nearest(name: str, candidates: dict[str, str], cutoff: float) -> list[str]:
    """The nearest candidate, and a second one only if it is very similar too: a poor guess is worse than none."""
    name = name.lower()
    first = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
    more = difflib.get_close_matches(name, candidates, n=2, cutoff=0.8)
    return [candidates[match] for match in dict.fromkeys(first + more)]

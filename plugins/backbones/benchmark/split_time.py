"""Attributes elapsed time to parts, by wrapping their calls with timers. Knows no part by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Split:
    """Attributes elapsed time to `parts`: a moment belongs to the part that is running, the innermost where one calls
    another, and to `rest` where none is. Parts that run in several threads share it evenly.
    """

    def __init__(self, parts: Sequence[str], rest: str) -> None:
        self._parts, self._rest = (*parts, rest), rest
        self._seconds = dict.fromkeys(self._parts, 0.0)
        self._at_work: dict[int, str] = {}  # thread → the part it is in
        self._lock = threading.Lock()
        self._since = time.perf_counter()

    def timed(self, part: str, call: Callable[..., T]) -> Callable[..., T]:
        """`call`, its time attributed to `part`."""

        def timed(*args: Any, **kwargs: Any) -> T:
            outer = self._switch(part)
            try:
                return call(*args, **kwargs)
            finally:
                self._switch(outer)

        return timed

    def of(self, work: Callable[[], object]) -> dict[str, float]:
        """The seconds of `work()`, by part; they add up to its whole time."""
        self._switch(None)
        self._seconds = dict.fromkeys(self._parts, 0.0)
        work()
        self._switch(None)
        return self._seconds

    def _switch(self, part: str | None) -> str | None:
        """Let this thread run `part` from now on (None: no part); returns the previous one."""
        thread = threading.get_ident()
        with self._lock:
            now = time.perf_counter()
            spent, self._since = now - self._since, now
            sharing = [*self._at_work.values()] or [self._rest]
            for each in sharing:
                self._seconds[each] += spent / len(sharing)
            before = self._at_work.pop(thread, None)
            if part is not None:
                self._at_work[thread] = part
        return before


class Substitute:
    """Stands in for `inner`, with some attributes replaced."""

    def __init__(self, inner: Any, **own: Any) -> None:
        self.__dict__.update(own, _inner=inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

"""Who hears what happens in a run: callers of this process and plugins."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bitrl.core import events
from bitrl.core.registry import registry

Listener = Callable[[events.Event], None]


def teller(listeners: tuple[Listener, ...]) -> Listener:
    """One listener that tells all: the given ones, and the plugins', whose failures are said once each on stderr."""
    said: set[str] = set()

    def tell(event: events.Event) -> None:
        for listener in listeners:
            listener(event)
        for problem in registry().send(event):
            if problem.message not in said:
                said.add(problem.message)
                print(f"warning: plugin {problem.package}: {problem.message}", file=sys.stderr)

    return tell

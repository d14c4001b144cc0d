"""How much a server takes upon itself, and from whom: sizes, rates, times, a token."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable

import attrs

from bitrl.core.process_memory import MB

MOST_CLIENTS = 10_000
"""Addresses whose rates are known; of more, those not heard of for longest are forgotten."""

MOST_OBSERVATIONS = 1024
"""Observations of one request."""

MOST_COMMANDS = 4096
"""Admissible commands of one observation."""


@attrs.frozen(kw_only=True)
class ServiceLimits:
    """What a server does not go beyond.

    Attributes:
        body: bytes of a request's body.
        rate: requests a second of one client, by its address; a second's worth may come at once.
        queue: observations that wait for their action.
        timeout: seconds that an action may take, waiting included.
        receiving: seconds from the first byte of a request to its last.
        idle: seconds that a connection is kept open between requests.
        connections: open at a time.
        episodes: open at a time.
        episode_idle: seconds after which an episode that is not used ends.
    """

    body: int = MB
    rate: float = 10_000.0
    queue: int = 4096
    timeout: float = 30.0
    receiving: float = 10.0
    idle: float = 60.0
    connections: int = 900
    episodes: int = 10_000
    episode_idle: float = 600.0


class Rates:
    """A bucket of tokens for each client: full, it lasts a second at the highest rate, and so it fills up."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when there were so many

    def allows(self, client: str) -> bool:
        """Whether a request of this client may be served; it takes a token if so."""
        now, most = self._clock(), max(self.rate, 1.0)
        tokens, then = self._buckets.get(client, (most, now))
        tokens = min(most, tokens + (now - then) * self.rate)
        allowed = tokens >= 1.0
        self._buckets[client] = (tokens - allowed, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return allowed


class Token:
    """What a client must know. Only its digest is kept, and compared in constant time."""

    def __init__(self, secret: str):
        self._digest = _digest(secret.encode())

    def admits(self, authorization: bytes) -> bool:
        """Whether the header of a request says `Bearer` and the token."""
        scheme, _, secret = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(secret.strip()), self._digest)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()

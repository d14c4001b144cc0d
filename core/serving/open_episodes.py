"""The episodes of clients, each with the agent's memory of its last states: bounded in number and in idle time."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from bitrl.core.acting.agents import Agent, Episode
from bitrl.core.serving.batching import row_bytes
from bitrl.core.serving.refusals import Refused

REMEMBERED = 2**28
"""Bytes of the states that episodes remember."""

LONGEST_ID = 64
"""Characters of an id in a request; ours are shorter."""


class OpenEpisodes:
    """Episodes by id. The ids are random: who does not know one cannot act in that episode, nor end it."""

    def __init__(self, most: int, idle: float, clock: Callable[[], float] = time.monotonic):
        """At most `most` at a time; one that was not used for `idle` seconds ends."""
        self.most, self.idle, self._clock = most, idle, clock
        self._open: OrderedDict[str, tuple[Episode, float]] = OrderedDict()  # the one used longest ago first

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, agent: Agent) -> str:
        """Begin an episode → its id.

        Raises:
            Refused: there are as many as there may be.
        """
        self.end_idle()
        if len(self._open) >= min(self.most, max(1, REMEMBERED // (agent.history * row_bytes(agent)))):
            raise Refused(
                503,
                f"{len(self._open):,} episodes are open, as many as there may be: end one with DELETE /episodes/ID",
                {"Retry-After": "10"},
            )
        name = secrets.token_urlsafe(12)
        self._open[name] = (agent.episode(), self._clock())
        return name

    def use(self, name: str) -> Episode:
        """The episode, which counts as used now.

        Raises:
            Refused: there is none of this id.
        """
        found = self._open.get(name)
        if found is None or self._clock() - found[1] > self.idle:
            raise self._unknown(name)
        self._open[name] = (found[0], self._clock())
        self._open.move_to_end(name)
        return found[0]

    def end(self, name: str) -> None:
        """End an episode.

        Raises:
            Refused: there is none of this id.
        """
        if self._open.pop(name, None) is None:
            raise self._unknown(name)

    def end_idle(self) -> None:
        """End those that were not used for too long."""
        last = self._clock() - self.idle
        while self._open and next(iter(self._open.values()))[1] < last:
            self._open.popitem(last=False)

    def follow(self, agent: Agent) -> None:
        """Another agent acts from now on: go on with episodes whose memory it can use, and end the others."""
        for name, (episode, _) in [*self._open.items()]:
            if agent.remembers_alike(episode.agent):
                episode.agent = agent
            else:
                del self._open[name]

    def _unknown(self, name: str) -> Refused:
        return Refused(
            404,
            f'no episode "{name[:LONGEST_ID]}": it was ended, not used for {self.idle:g} seconds, or never begun: '
            "begin one with POST /episodes",
        )

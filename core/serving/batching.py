"""Acts for many clients at once: what waits when a batch is done is the next batch, encoded together.

One thread acts, and nothing is waited for to make batches larger: a request that finds it idle goes alone. Knows
nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from bitrl.core.acting.admissible import COMMANDS
from bitrl.core.acting.agents import Agent, Episode
from bitrl.core.errors import BitrlError, cause, out_of_memory
from bitrl.core.serving.metrics import Metrics
from bitrl.core.serving.open_episodes import goes_on
from bitrl.core.serving.refusals import Refused
from bitrl.core.terminal import tell

TOGETHER = 64
"""Observations that are encoded in one batch, of several requests: more are not faster, and each would wait longer."""

SCORES = 8192
"""Commands of a batch, of all its observations as many as of the one with the most: they are scored in one array."""


@attrs.define(eq=False)
class Waiting:
    """A request to act: observations, the episode of the one where it has one, and whether to explain the actions.

    `answer` becomes the actions (or explanations), or an error.
    """

    observations: Sequence[Any]
    episode: Episode | None
    explain: bool
    answer: asyncio.Future[list[Any]]
    commands: int = 1

    def __attrs_post_init__(self) -> None:
        self.commands = max(map(commands_in, self.observations))


def commands_in(observation: Any) -> int:
    """How many admissible commands an observation as plain data has; 1 where it has none."""
    commands = observation.get(COMMANDS) if isinstance(observation, dict) else None
    if isinstance(commands, str):
        return commands.count("\n") + 1
    return len(commands) if isinstance(commands, list) else 1


class Batcher:
    """Gathers requests into batches, and acts in a thread of its own.

    Attributes:
        agent: acts; another one may take its place at any time, between two batches.
        waiting: observations of requests that have no answer yet.
    """

    def __init__(self, agent: Agent, metrics: Metrics, most: int, timeout: float):
        """At most `most` observations wait, each for at most `timeout` seconds. Called within the event loop."""
        self.agent, self.metrics, self.most, self.timeout, self.waiting = agent, metrics, most, timeout, 0
        self._loop = asyncio.get_running_loop()
        self._asked: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._began: float | None = None  # when the batch that is being acted on did
        self._thread = threading.Thread(target=self._work, name="bitrl-act", daemon=True)
        self._thread.start()

    async def act(self, observations: Sequence[Any], episode: Episode | None, explain: bool) -> list[Any]:
        """The action for each observation, or an `Explanation`. With an `episode` there is one observation.

        Raises:
            BitrlError: the agent cannot act on one of them; the episode has then not recorded it.
            Refused: too many are waiting, or it took too long.
        """
        if self.waiting and self.waiting + len(observations) > self.most:
            raise Refused(
                503, f"{self.waiting:,} observations are waiting: try again in a second", {"Retry-After": "1"}
            )
        asked = Waiting(observations, episode, explain, self._loop.create_future())
        self.waiting += len(observations)
        self._asked.put(asked)
        try:
            async with asyncio.timeout(self.timeout):
                return await asked.answer
        except TimeoutError:
            raise Refused(504, f"no action within {self.timeout:g} seconds: send fewer requests at a time") from None

    def stuck(self) -> bool:
        """Whether one batch takes longer than a request may."""
        began = self._began
        return began is not None and time.monotonic() - began > self.timeout

    def close(self) -> None:
        """End the thread once it has done what was asked before."""
        self._asked.put(None)
        self._thread.join(self.timeout)

    def _work(self) -> None:
        for batch in self._batches():
            wanted = [asked for asked in batch if not asked.answer.done()]  # the others were given up meanwhile
            self._began = time.monotonic()
            answers = _answers(self.agent, wanted) if wanted else []
            self._began = None
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, wanted, answers)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _batches(self) -> Iterator[list[Waiting]]:
        """What to act on together, as long as there is something to come."""
        held: deque[Waiting] = deque()
        coming = True
        while coming or held:
            while coming and (not held or not self._asked.empty()):
                asked = self._asked.get()
                if asked is None:
                    coming = False
                else:
                    held.append(asked)
            if held:
                yield _taken(held)

    def _deliver(self, batch: Sequence[Waiting], wanted: Sequence[Waiting], answers: Sequence[Any]) -> None:
        """In the event loop: hand out what the thread found."""
        self.waiting -= sum(len(asked.observations) for asked in batch)
        if wanted:
            self.metrics.batches.add(sum(len(asked.observations) for asked in wanted))
        for asked, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, list):
                self.metrics.observations += len(answer)
            if asked.answer.done():
                continue
            if isinstance(answer, list):
                asked.answer.set_result(answer)
            else:
                asked.answer.set_exception(answer)


def _taken(held: deque[Waiting]) -> list[Waiting]:
    """The next batch: as much of what is held, in order, as fits. No episode is twice in a batch."""
    batch: list[Waiting] = []
    kept: list[Waiting] = []
    busy: set[int] = set()  # the episodes in the batch
    count = commands = 0
    while held:
        asked = held.popleft()
        total, most = count + len(asked.observations), max(commands, asked.commands)
        if batch and (total > TOGETHER or total * most > SCORES):
            held.appendleft(asked)
            break
        if id(asked.episode) in busy:
            kept.append(asked)
            continue
        batch.append(asked)
        count, commands = total, most
        if asked.episode is not None:
            busy.add(id(asked.episode))
    held.extendleft(reversed(kept))
    return batch


def _answers(agent: Agent, batch: Sequence[Waiting]) -> list[list[Any] | Exception]:
    """The actions or explanations for each request, or what went wrong with it."""
    answers: dict[int, list[Any] | Exception] = {}
    for explain in (False, True):
        indices = [index for index, asked in enumerate(batch) if asked.explain is explain]
        found = _together(agent, [batch[index] for index in indices]) if indices else []
        answers |= dict(zip(indices, found, strict=True))
    return [answers[index] for index in range(len(batch))]


def _together(agent: Agent, batch: Sequence[Waiting]) -> list[list[Any] | Exception]:
    """The same for requests that are alike. If they cannot be acted on together, each is tried alone, so that nobody
    gets the error of another.
    """
    try:
        found = _acted(agent, batch)
    except BaseException as error:  # a panic of an extension module is no Exception
        if len(batch) > 1:
            return [answer for asked in batch for answer in _together(agent, [asked])]
        if isinstance(error, BitrlError):
            return [error]
        what = "out of memory" if out_of_memory(error) else f"unexpected error in the agent: {cause(error)}"
        tell(f"bitrl serve: {what}")
        return [Refused(500, f"{what}: tell who runs this server")]
    answers, place = [], 0
    for asked in batch:
        answers.append(found[place : place + len(asked.observations)])
        place += len(asked.observations)
    return [*answers]


def _acted(agent: Agent, batch: Sequence[Waiting]) -> list[Any]:
    observations = [observation for asked in batch for observation in asked.observations]
    episodes = None
    if agent.history > 1:
        episodes = [asked.episode for asked in batch if asked.episode is not None]
        if not all(goes_on(episode, agent) for episode in episodes):
            raise Refused(404, "the episode ended when another agent was swapped in: begin one with POST /episodes")
    return agent.explain(observations, episodes) if batch[0].explain else agent.act_batch(observations, episodes)

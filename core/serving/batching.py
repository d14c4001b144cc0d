"""Acts for many clients at once: what waits when a batch is done is the next batch, encoded together.

One thread acts, and nothing is waited for to make batches larger: a request that finds it idle goes alone. Knows
nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting.admissible import COMMANDS
from bitrl.core.acting.agents import Agent, Episode
from bitrl.core.errors import BitrlError, cause, out_of_memory
from bitrl.core.serving.metrics import Metrics
from bitrl.core.serving.refusals import SOON, Refused
from bitrl.core.serving.service_limits import MOST_OBSERVATIONS
from bitrl.core.terminal import tell

TOGETHER = 64
"""Observations that are encoded in one batch, of several requests: more are not faster, and each would wait longer."""

SCORES = 8192
"""Commands of a batch, of all its observations as many as of the one with the most: they are scored in one array."""

ROWS_BYTES = 2**26
"""Observations that wait, as arrays: texts are as long in them as they may be."""


@attrs.define(eq=False)
class Waiting:
    """A request to act: observations as rows of an array of this agent, the episode of the one where it has one,
    whether to explain the actions, and the most commands of an observation.

    `answer` becomes the actions (or explanations), or an error; `acted`: it is on its way, with the state recorded.
    """

    agent: Agent
    rows: np.ndarray
    episode: Episode | None
    explain: bool
    commands: int
    answer: asyncio.Future[list[Any]]
    acted: bool = False


def commands_in(observation: Any) -> int:
    """How many admissible commands an observation as plain data has; 1 where it has none."""
    commands = observation.get(COMMANDS) if isinstance(observation, dict) else None
    if isinstance(commands, str):
        return commands.count("\n") + 1
    return len(commands) if isinstance(commands, list) else 1


def row_bytes(agent: Agent) -> int:
    """Bytes of an observation as a row of an array."""
    return max(1, agent.observation_dtype.itemsize * math.prod(agent.observation_shape))


def most_observations(agent: Agent) -> int:
    """Observations of one request, at most."""
    return min(MOST_OBSERVATIONS, max(1, ROWS_BYTES // row_bytes(agent)))


class Batcher:
    """Gathers requests into batches, and acts in a thread of its own.

    Attributes:
        agent: acts on what is asked from now on; another one may take its place at any time.
        waiting, waiting_bytes: observations of requests that have no answer yet.
    """

    def __init__(self, agent: Agent, metrics: Metrics, most: int, timeout: float):
        """At most `most` observations wait, each for at most `timeout` seconds. Called within the event loop."""
        self.agent, self.metrics, self.most, self.timeout, self.waiting = agent, metrics, most, timeout, 0
        self.waiting_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._asked: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._deciding = threading.Lock()  # whether a request was acted on or given up
        self._began: float | None = None  # when the batch that is being acted on did
        self._thread = threading.Thread(target=self._work, name="bitrl-act", daemon=True)
        self._thread.start()

    async def act(self, observations: Sequence[Any], episode: Episode | None, explain: bool) -> list[Any]:
        """`put`, and the answer."""
        return await self.answer(self.put(observations, episode, explain))

    def put(self, observations: Sequence[Any], episode: Episode | None, explain: bool) -> Waiting:
        """Let observations wait for their actions. With an `episode` there is one.

        Raises:
            BitrlError: one of them is none of the agent's.
            Refused: too many are waiting.
        """
        agent = self.agent
        if len(observations) > (most := most_observations(agent)):
            raise Refused(422, f"expected at most {most:,} observations, got {len(observations):,}")
        count, size = self.waiting + len(observations), self.waiting_bytes + len(observations) * row_bytes(agent)
        if self.waiting and (count > self.most or size > ROWS_BYTES):
            raise Refused(503, f"{self.waiting:,} observations are waiting: try again in a second", SOON)
        rows, commands = agent.rows(observations), max(map(commands_in, observations))
        asked = Waiting(agent, rows, episode, explain, commands, self._loop.create_future())
        self.waiting, self.waiting_bytes = count, size
        self._asked.put(asked)
        return asked

    async def answer(self, asked: Waiting) -> list[Any]:
        """The action for each observation, or an `Explanation`.

        Raises:
            BitrlError: the agent cannot act on one of them; the episode has then not recorded it.
            Refused: it took too long; the same.
        """
        try:
            found, _ = await asyncio.wait([asked.answer], timeout=self.timeout)
        except asyncio.CancelledError:
            self._give_up(asked)
            raise
        if not found and self._give_up(asked):
            raise Refused(504, f"no action within {self.timeout:g} seconds: send fewer requests at a time")
        return await asked.answer

    def _give_up(self, asked: Waiting) -> bool:
        """Let a request be forgotten, unless it was acted on already."""
        with self._deciding:
            return not asked.acted and asked.answer.cancel()

    def stuck(self) -> bool:
        """Whether one batch takes longer than a request may."""
        began = self._began
        return began is not None and time.monotonic() - began > self.timeout

    def close(self) -> None:
        """End the thread once it has done what was asked before."""
        self._asked.put(None)
        self._thread.join(1.0)  # it is idle, unless somebody is in a hurry

    def _work(self) -> None:
        for batch in self._batches():
            wanted = [asked for asked in batch if not asked.answer.done()]  # the others were given up meanwhile
            self._began = time.monotonic()
            before = [(asked, each, each.memory) for asked in wanted if (each := asked.episode) is not None]
            answers = _answers(wanted) if wanted else []
            with self._deciding:
                for asked in wanted:
                    asked.acted = not asked.answer.done()
                for asked, episode, memory in before:
                    if not asked.acted:  # given up meanwhile, and answered with an error: its state does not count
                        episode.memory = memory
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
        self.waiting -= sum(len(asked.rows) for asked in batch)
        self.waiting_bytes -= sum(asked.rows.nbytes for asked in batch)
        if wanted:
            self.metrics.batches.add(sum(len(asked.rows) for asked in wanted))
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
    """The next batch: as much of what is held, in order, as fits. It is of one agent, and has no episode twice."""
    batch: list[Waiting] = []
    kept: list[Waiting] = []
    busy: set[int] = set()  # the episodes in the batch
    count = commands = 0
    while held:
        asked = held.popleft()
        total, most = count + len(asked.rows), max(commands, asked.commands)
        if batch and (asked.agent is not batch[0].agent or total > TOGETHER or total * most > SCORES):
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


def _answers(batch: Sequence[Waiting]) -> list[list[Any] | Exception]:
    """The actions or explanations for each request, or what went wrong with it."""
    answers: dict[int, list[Any] | Exception] = {}
    for explain in (False, True):
        indices = [index for index, asked in enumerate(batch) if asked.explain is explain]
        found = _together([batch[index] for index in indices]) if indices else []
        answers |= dict(zip(indices, found, strict=True))
    return [answers[index] for index in range(len(batch))]


def _together(batch: Sequence[Waiting]) -> list[list[Any] | Exception]:
    """The same for requests that are alike. If they cannot be acted on together, each is tried alone, so that nobody
    gets the error of another.
    """
    try:
        found = _acted(batch)
    except BaseException as error:  # a panic of an extension module is no Exception
        if len(batch) > 1:
            return [answer for asked in batch for answer in _together([asked])]
        if isinstance(error, BitrlError):
            return [error]
        what = "out of memory" if out_of_memory(error) else f"unexpected error in the agent: {cause(error)}"
        tell(f"bitrl serve: {what}")
        return [Refused(500, f"{what}: tell who runs this server")]
    answers, place = [], 0
    for asked in batch:
        answers.append(found[place : place + len(asked.rows)])
        place += len(asked.rows)
    return [*answers]


def _acted(batch: Sequence[Waiting]) -> list[Any]:
    agent, rows = batch[0].agent, np.concatenate([asked.rows for asked in batch])
    episodes = None
    if agent.history > 1:
        episodes = [asked.episode for asked in batch if asked.episode is not None]
    return agent.explain_rows(rows, episodes) if batch[0].explain else agent.act_rows(rows, episodes)

"""Requests that wait are acted on together, and none gets what is another's."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitrl
from bitrl.core.acting.agents import Agent
from bitrl.core.errors import RunFailed
from bitrl.core.serving.batching import SCORES, TOGETHER, Batcher, Waiting, _taken
from bitrl.core.serving.metrics import Metrics
from bitrl.core.serving.refusals import Refused

STATES = [[index / 8, -index / 16, 0.125, 0.25 - index / 8] for index in range(-10, 10)]


class Held:
    """An agent that acts only once it may; `batches` are what it was handed."""

    def __init__(self, agent: Agent):
        self.agent, self.may, self.batches = agent, threading.Event(), []
        self.history, self.rows, self.explain_rows = agent.history, agent.rows, agent.explain_rows
        self.observation_dtype, self.observation_shape = agent.observation_dtype, agent.observation_shape

    def act_rows(self, rows: np.ndarray, episodes: Any = None) -> list[Any]:
        self.batches.append(rows.tolist())
        assert self.may.wait(60)
        return self.agent.act_rows(rows, episodes)


def with_batcher(
    agent: Any, use: Callable[[Batcher], Coroutine[Any, Any, None]], most: int = 100, timeout: float = 30
) -> None:
    """Run `use` with a batcher of an agent."""

    async def main() -> None:
        batcher = Batcher(agent, Metrics(), most, timeout)
        try:
            await use(batcher)
        finally:
            batcher.close()

    asyncio.run(main())


async def started(batcher: Batcher, *wanted: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Requests that have been put in the queue."""
    tasks = [asyncio.create_task(each) for each in wanted]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_while_others_are_acted_on_is_the_next_batch(agent: Path) -> None:
    held, alone = Held(bitrl.load_agent(agent)), bitrl.load_agent(agent)

    async def use(batcher: Batcher) -> None:
        first = await started(batcher, batcher.act([STATES[0]], None, False))
        while not held.batches:
            await asyncio.sleep(0.001)
        others = await started(batcher, *(batcher.act([state], None, False) for state in STATES))
        assert batcher.waiting == 1 + len(STATES)
        held.may.set()
        assert await first[0] == [alone.act(STATES[0])]
        assert [(await each)[0] for each in others] == alone.act_batch(STATES)
        assert held.batches == [[STATES[0]], STATES]
        assert (batcher.waiting, batcher.metrics.batches.sum) == (0, 1 + len(STATES))

    with_batcher(held, use)


def test_what_cannot_be_acted_on_fails_alone(agent: Path) -> None:
    class Choosy(Held):
        def act_rows(self, rows: np.ndarray, episodes: Any = None) -> list[Any]:
            if (rows[:, 0] == 1).any():
                raise RunFailed("not with a one")
            return super().act_rows(rows, episodes)

    held, alone = Choosy(bitrl.load_agent(agent)), bitrl.load_agent(agent)

    async def use(batcher: Batcher) -> None:
        first = await started(batcher, batcher.act([STATES[0]], None, False))
        while not held.batches:
            await asyncio.sleep(0.001)
        bad = [1.0, 0.0, 0.0, 0.0]
        wanted = [[STATES[2]], [bad], STATES[3:6], [STATES[1], bad], ["x"], [STATES[1], None]]
        tasks = await started(
            batcher, *(batcher.act(each, None, False) for each in wanted), batcher.act([STATES[6]], None, True)
        )
        held.may.set()
        found = await asyncio.gather(*first, *tasks, return_exceptions=True)
        assert found[1] == [alone.act(STATES[2])]
        assert found[3] == alone.act_batch(STATES[3:6])
        assert found[7][0].action == alone.act(STATES[6])
        assert [str(found[index]) for index in (2, 4)] == ["not with a one"] * 2
        assert [str(found[index]) for index in (5, 6)] == [
            "observation: expected 4 numbers, got 'x'",
            "observation: expected 4 numbers, got None",
        ]
        assert (batcher.waiting, batcher.waiting_bytes) == (0, 0)

    with_batcher(held, use)


def test_a_request_is_acted_on_by_the_agent_that_was_there_when_it_came(agent: Path, opposite: Path) -> None:
    held, other = Held(bitrl.load_agent(agent)), bitrl.load_agent(opposite)

    async def use(batcher: Batcher) -> None:
        tasks = await started(batcher, *(batcher.act([state], None, False) for state in STATES))
        batcher.agent = other
        tasks += await started(batcher, *(batcher.act([state], None, False) for state in STATES))
        held.may.set()
        found = [(await each)[0] for each in tasks]
        assert found == held.agent.act_batch(STATES) + other.act_batch(STATES)
        assert sum(found) == len(STATES)

    with_batcher(held, use)


def test_the_states_of_an_episode_keep_their_order(remembering: Path) -> None:
    agent, alone = bitrl.load_agent(remembering), bitrl.load_agent(remembering)
    expected = [[each.act(state) for state in STATES] for each in (alone.episode(), alone.episode())]
    assert expected[0] == expected[1]

    async def use(batcher: Batcher) -> None:
        episodes = [agent.episode(), agent.episode()]
        wanted = [batcher.act([state], episode, False) for state in STATES for episode in episodes]
        found = await asyncio.gather(*wanted)
        assert [[action] for action in expected[0]] == found[::2] == found[1::2]

    with_batcher(agent, use)


def test_too_many_and_too_late_are_refused(agent: Path) -> None:
    held = Held(bitrl.load_agent(agent))

    async def use(batcher: Batcher) -> None:
        first = await started(batcher, batcher.act([STATES[0]], None, False))
        while not held.batches:
            await asyncio.sleep(0.001)
        first += await started(batcher, batcher.act(STATES[:3], None, False))
        with pytest.raises(Refused, match="4 observations are waiting") as refused:
            await batcher.act(STATES[:2], None, False)
        assert refused.value.status == 503
        for task in first:
            with pytest.raises(Refused, match=r"no action within 0\.2 seconds") as late:
                await task
            assert late.value.status == 504
        assert batcher.stuck()
        held.may.set()
        while batcher.waiting:
            await asyncio.sleep(0.001)
        assert not batcher.stuck()
        assert held.batches == [[STATES[0]]], "what nobody waits for is not acted on"
        assert len(await batcher.act(STATES, None, False)) == len(STATES), "a large request finds its turn"

    with_batcher(held, use, most=5, timeout=0.2)


def test_a_state_whose_action_came_too_late_was_not_observed(remembering: Path) -> None:
    held, alone = Held(bitrl.load_agent(remembering)), bitrl.load_agent(remembering).episode()

    async def use(batcher: Batcher) -> None:
        episode = held.agent.episode()
        with pytest.raises(Refused, match="no action within"):
            await batcher.act([STATES[-1]], episode, False)
        held.may.set()
        batcher.timeout = 60
        for state in STATES:
            assert await batcher.act([state], episode, False) == [alone.act(state)]
            assert {name: np.asarray(part).tolist() for name, part in episode.memory.copy().add(state).items()} == {
                name: np.asarray(part).tolist() for name, part in alone.memory.copy().add(state).items()
            }

    with_batcher(held, use, timeout=0.2)


def test_a_failure_of_the_agent_is_one_line(agent: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(Held):
        def act_rows(self, rows: np.ndarray, episodes: Any = None) -> list[Any]:
            raise SystemExit("a panic\nin two lines")

    async def use(batcher: Batcher) -> None:
        with pytest.raises(Refused, match="unexpected error in the agent: SystemExit: a panic in two lines") as refused:
            await batcher.act([STATES[0]], None, False)
        assert refused.value.status == 500

    with_batcher(Broken(bitrl.load_agent(agent)), use)
    assert capfd.readouterr().err == "bitrl serve: unexpected error in the agent: SystemExit: a panic in two lines\n"


REQUESTS = st.tuples(st.integers(1, 100), st.none() | st.integers(0, 3), st.integers(1, 300))


@given(st.lists(REQUESTS, max_size=40))
def test_batches_hold_what_fits_and_everybody_in_turn(requests: list[tuple[int, int | None, int]]) -> None:
    episodes: list[Any] = [object() for _ in range(4)]
    agents: list[Any] = [object(), object()]
    answer: Any = None
    waiting = [
        Waiting(
            agents[index > len(requests) // 2], np.zeros((count, 4)), None if which is None else episodes[which], False,
            commands, answer,
        )
        for index, (count, which, commands) in enumerate(requests)
    ]  # fmt: skip
    held, batches = deque(waiting), []
    while held:
        batches.append(_taken(held))
    order = [each for batch in batches for each in batch]
    assert {*map(id, order)} == {*map(id, waiting)}
    for episode in (None, *episodes):
        assert [each for each in order if each.episode is episode] == [
            each for each in waiting if each.episode is episode
        ]
    for batch in batches:
        assert len({id(each.agent) for each in batch}) == 1
        count = sum(len(each.rows) for each in batch)
        assert len(batch) == 1 or count <= TOGETHER
        assert len(batch) == 1 or count * max(each.commands for each in batch) <= SCORES
        used = [each.episode for each in batch if each.episode is not None]
        assert len({*map(id, used)}) == len(used)

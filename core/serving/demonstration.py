"""The agent at work in its environment, for whoever looks at the server's page: one episode, which all of them share.

The environment is in a process of its own (bitrl.core.environments.demonstration_process), started when somebody looks
and ended when nobody has for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from bitrl.core.acting.agents import Agent, Episode
from bitrl.core.acting.plain_observations import plain_action
from bitrl.core.errors import BitrlError
from bitrl.core.installing import is_there, to_install
from bitrl.core.registry import registry
from bitrl.core.serving.batching import Batcher
from bitrl.core.serving.refusals import Refused

MODULE = "bitrl.core.environments.demonstration_process"
BEGINNING, STEPPING, UNWATCHED = 60.0, 20.0, 60.0
"""Seconds that an environment may take to be made and to step, and without anybody looking."""

LONGEST_ANSWER = 2**25
"""Bytes, most of which are a picture's."""


class Demonstration:
    """An episode of the agent's environment, a step at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._agent: Agent | None = None
        self._episode: Episode | None = None
        self._action: Any = None
        self._names: list[str] = []
        self._steps, self._return, self._seen = 0, 0.0, time.monotonic()

    async def step(self, batcher: Batcher, begin: bool) -> dict[str, Any]:
        """Take the action that was shown last, or begin an episode, and show what follows.

        Raises:
            Refused: the environment cannot be made here, or failed.
        """
        async with self._lock:
            self._seen = time.monotonic()
            try:
                return await self._step(batcher, begin)
            except BaseException:
                await self.close()
                raise

    async def _step(self, batcher: Batcher, begin: bool) -> dict[str, Any]:
        agent = batcher.agent
        if self._process is None or self._agent is not agent:
            await self.close()
            await self._begin(agent)
        begin = begin or self._episode is None
        found = await self._ask({"action": None if begin else self._action}, STEPPING)
        if batcher.agent is not agent:  # another was swapped in meanwhile
            return await self._step(batcher, True)
        if begin:
            self._episode, self._steps, self._return = agent.episode(), 0, 0.0
        else:
            self._steps += 1
            self._return += found["reward"]
        try:
            [explanation] = await batcher.act([found["observation"]], self._episode, True)
        except Refused:
            raise
        except BitrlError as error:
            raise Refused(503, f"the agent cannot act on what its environment gave: {error}") from None
        self._action = plain_action(explanation.action)
        if found["over"]:
            self._episode = None  # the next step begins another
        return {
            **found,
            "step": self._steps,
            "return": self._return,
            "explanation": explanation,
            "names": self._names,
        }

    async def _begin(self, agent: Agent) -> None:
        name, options = shown_environment(agent.facts)
        command = [sys.executable, "-P", "-m", MODULE]
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=nowhere, limit=LONGEST_ANSWER, start_new_session=True
        )
        self._names = (await self._ask({"env": name, "options": options}, BEGINNING))["actions"]
        self._agent, self._episode = agent, None

    async def _ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(json.dumps(request).encode() + b"\n")
                await process.stdin.drain()
                answer: dict[str, Any] = json.loads(await process.stdout.readline())
        except TimeoutError:
            raise Refused(503, f"the environment did not answer within {seconds:g} seconds") from None
        except (OSError, ValueError):  # the pipe is closed, or holds no whole line
            raise Refused(503, "the environment's process has ended without a word") from None
        if "failed" in answer:
            raise Refused(503, f"the environment cannot be shown: {answer['failed']}")
        return answer

    async def end_unwatched(self) -> None:
        """End the process if nobody has looked for a while."""
        if self._process is not None and not self._lock.locked() and time.monotonic() - self._seen > UNWATCHED:
            await self.close()

    async def close(self) -> None:
        """End the process, if there is one."""
        process, self._process, self._agent = self._process, None, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            # The pipes' transports are closed by the loop once it has seen their ends.
            if process.stdin is not None:
                process.stdin.close()


def shown_environment(facts: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The environment that an agent was trained in, and its options.

    Raises:
        Refused: the file names none, or one whose module would have to be imported (its code would run), or Gymnasium
            is not installed.
    """
    name = facts.get("env")
    if not isinstance(name, str):
        raise Refused(503, "the agent's file does not say which environment it was trained in")
    module, colon, _ = name.partition(":")
    if colon and not registry().knows("environment", name):
        raise Refused(
            503, f"the agent was trained in {name[:80]}: the module {module[:80]} is not imported to show a picture"
        )
    if not is_there("gymnasium"):
        raise Refused(
            503, f"showing the environment needs gymnasium, which is not installed: {to_install('gymnasium')}"
        )
    options: Any = facts
    for key in ("learner", "config", "env"):
        options = options.get(key) if isinstance(options, Mapping) else None
    return name, options if isinstance(options, Mapping) else {}

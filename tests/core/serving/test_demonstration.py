"""The environment that the page shows: what is not shown, and what becomes of an environment that ends or hangs."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import bitrl
from bitrl.core.serving import demonstration
from bitrl.core.serving.batching import Batcher
from bitrl.core.serving.demonstration import Demonstration, shown_environment
from bitrl.core.serving.metrics import Metrics
from bitrl.core.serving.refusals import Refused


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({}, "does not say which environment"),
        ({"env": 3}, "does not say which environment"),
        ({"env": "mine:Mine-v0"}, "the module mine is not imported"),
        ({"env": "os:system"}, "the module os is not imported"),
    ],
)
def test_what_is_not_shown(facts: dict[str, Any], error: str) -> None:
    with pytest.raises(Refused, match=error) as refused:
        shown_environment(facts)
    assert refused.value.status == 503


@pytest.mark.parametrize(
    "learner", [None, 3, {}, {"config": 7}, {"config": {"env": []}}, {"config": {"env": {"a": 1}}}]
)
def test_options_are_those_of_the_training(learner: Any) -> None:
    expected = {"a": 1} if isinstance(learner, dict) and learner.get("config") == {"env": {"a": 1}} else {}
    assert shown_environment({"env": "CartPole-v1", "learner": learner}) == ("CartPole-v1", expected)


def shown(agent: Path, steps: int) -> list[Any]:
    """What each of so many steps shows, or is refused with; nothing is left of it."""

    async def main() -> list[Any]:
        batcher = Batcher(bitrl.load_agent(agent), Metrics(), 10, 30)
        stage, found = Demonstration(), []
        for _ in range(steps):
            try:
                found.append(await stage.step(batcher, False))
            except Refused as refused:
                found.append(str(refused))
        await stage.close()
        batcher.close()
        return found

    return asyncio.run(main())


def test_an_episode_follows_the_last_without_being_asked(agent: Path) -> None:
    found = shown(agent, 150)
    ends = [index for index, each in enumerate(found) if each["over"]]
    assert ends
    alone = bitrl.load_agent(agent)
    for before, after in pairwise(found):
        assert before["explanation"].action == alone.act(before["observation"])
        assert after["step"] == (0 if before["over"] else before["step"] + 1)
        assert after["return"] == after["step"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit", "the environment's process has ended without a word"),
        ("print('no JSON', flush=True)", "the environment's process has ended without a word"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "the environment's process has ended without a word",
        ),
        ("import time; time.sleep(60)", "the environment did not answer within 0.5 seconds"),
    ],
)
def test_a_process_that_ends_or_hangs_is_one_line(
    agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: str
) -> None:
    (tmp_path / "stage_of_this_test.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(demonstration, "MODULE", "stage_of_this_test")
    monkeypatch.setattr(demonstration, "BEGINNING", 0.5 if "sleep" in code else 60.0)
    before = len(os.listdir("/proc/self/fd"))
    assert shown(agent, 2) == [error] * 2
    assert len(os.listdir("/proc/self/fd")) == before

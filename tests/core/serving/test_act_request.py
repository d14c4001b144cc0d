"""What a request to act asks for, and how actions are handed back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bitrl.core.acting.explanation import ActionPart, Explanation
from bitrl.core.serving.app import asked_for

JUNK = {"state": "x", "commands": ["go", "stop"], "more": [[]] * 1000}


@pytest.mark.parametrize(
    ("commanded", "kept", "action"), [(True, {"commands": ["go", "stop"]}, "stop"), (False, None, 1)]
)
def test_nothing_waits_that_the_answer_does_not_need(commanded: bool, kept: Any, action: Any) -> None:
    agent: Any = SimpleNamespace(commanded=commanded)
    asked = asked_for({"observation": JUNK}).read_by(agent)
    assert asked.observations == [kept]
    assert asked.answer([1]) == {"action": action}
    assert asked_for({"observations": [JUNK] * 2}).read_by(agent).answer([1, 1]) == {"actions": [action] * 2}


def test_commands_may_be_lines_of_a_string() -> None:
    agent: Any = SimpleNamespace(commanded=True)
    asked = asked_for({"observation": {"state": "x", "commands": "go\nstop"}}).read_by(agent)
    assert asked.answer([1]) == {"action": "stop"}


def test_explanations_stand_beside_actions() -> None:
    agent: Any = SimpleNamespace(commanded=False)
    part = ActionPart(name="", values=[0, 1], probabilities=[0.25, 0.75])
    found = Explanation(action=1, text="x", parts=(part,))
    told = {"text": "x", "parts": [{"name": "", "values": [0, 1], "probabilities": [0.25, 0.75]}]}
    one = asked_for({"observation": 3, "explain": True}).read_by(agent)
    assert one.answer([found]) == {"action": 1, "explanation": told}
    two = asked_for({"observations": [3, 4], "explain": True}).read_by(agent)
    assert two.answer([found, found]) == {"actions": [1, 1], "explanations": [told, told]}

"""What an agent says of its actions: the text that it read, and the softmax of its policy's outputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitrl.core.acting.admissible import AdmissibleActions, CommandTable
from bitrl.core.acting.explanation import ActionPart, explained
from bitrl.core.acting.policies import (
    CodebookPolicy,
    CommandPolicy,
    Continuous,
    Discrete,
    FactoredPolicy,
    Network,
)

FEATURES = np.array([[0.0, 1.0], [2.0, -1.0]], np.float32)


def network(*rows: list[float]) -> Network:
    """A linear network: a row of weights for each output."""
    weights = np.array(rows, np.float32)
    return Network(
        np.zeros(2, np.float32), np.ones(2, np.float32), np.inf, ((weights, np.zeros(len(rows), np.float32)),)
    )


def states(admissible: AdmissibleActions | None = None, inputs: Any = None, observations: Any = None) -> Any:
    """What a policy is handed, with FEATURES."""
    from bitrl.core.acting.states import States

    made = States(
        FEATURES if observations is None else observations,
        SimpleNamespace(),
        ["one", "two"] if inputs is None else inputs,
    )
    made.features, made.admissible = FEATURES, admissible
    return made


def softmax(*scores: float) -> list[float]:
    weights = [np.exp(float(score)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def parts(policy: Any, **of: Any) -> list[tuple[ActionPart, ...]]:
    given = states(**of)
    return [each.parts for each in explained(policy, given, [*policy(given)])]


def test_the_text_and_the_action_are_there() -> None:
    policy = Discrete(network([1, 0], [0, 1]), 5)
    found = explained(policy, states(), [*policy(states())])
    assert [each.text for each in found] == ["one", "two"]
    assert [each.action for each in found] == [6, 5]
    assert [each.text for each in explained(policy, states(inputs=FEATURES), [6, 5])] == [None, None]


def test_of_numbered_actions() -> None:
    [[first], [second]] = parts(Discrete(network([1, 0], [0, 1], [0, 0]), 5))
    assert (first.name, first.values, second.values) == ("", [5, 6, 7], [5, 6, 7])
    assert first.probabilities == pytest.approx(softmax(0, 1, 0))
    assert second.probabilities == pytest.approx(softmax(2, -1, 0))


def test_what_is_masked_has_probability_zero() -> None:
    mask = AdmissibleActions(np.array([[True, False, True], [False, True, True]]))
    [[first], [second]] = parts(Discrete(network([1, 0], [0, 1], [0, 0])), admissible=mask)
    assert first.probabilities == pytest.approx([0.5, 0, 0.5])
    assert second.probabilities == pytest.approx([0, *softmax(-1, 0)])


def test_of_commands() -> None:
    rows = np.array([[1, 2, 0], [2, 3, 1]])
    table = CommandTable(["", "go", "stop", "wait"], lambda texts: np.eye(4, 2, dtype=np.float32))
    observations = np.array([("s", "go\nstop"), ("s", "stop\nwait\ngo")], [("observation", "U9"), ("commands", "U99")])
    admissible = AdmissibleActions(rows > 0, rows, table)
    [[first], [second]] = parts(
        CommandPolicy(network([1, 0], [0, 1]), network([2, 0], [0, 3])),
        admissible=admissible,
        observations=observations,
    )
    # Queries are the features, keys those of the commands: go has [0, 3], stop and wait [0, 0].
    assert (first.values, second.values) == (["go", "stop"], ["stop", "wait", "go"])
    assert first.probabilities == pytest.approx(softmax(3, 0))
    assert second.probabilities == pytest.approx(softmax(0, 0, -3))


def test_of_numbers_within_bounds() -> None:
    low, high = np.array([-1.0, -np.inf], np.float32), np.array([1.0, np.inf], np.float32)
    [first, second] = parts(Continuous(network([1, 0], [0, 5]), low, high))
    assert first == (ActionPart(name="0", value=0, low=-1, high=1), ActionPart(name="1", value=5))
    assert second == (ActionPart(name="0", value=1, low=-1, high=1), ActionPart(name="1", value=-5))


def test_of_a_codebook() -> None:
    bounds = np.full(2, -1, np.float32), np.full(2, 1, np.float32)
    values = np.array([[-1, 1], [-0.5, 0.5]], np.float32)
    [first, _] = parts(CodebookPolicy(network([0, 0], [0, 1], [0, 2], [0, 0]), values, *bounds))
    assert [part.values for part in first] == [[-1, 1], [-0.5, 0.5]]
    assert first[0].probabilities == pytest.approx(softmax(0, 1))
    assert first[1].probabilities == pytest.approx(softmax(2, 0))


def test_of_factors() -> None:
    kind = [("gear", "i8", (2,)), ("arm", "f4", (1,))]
    low, high = np.array([([1, 0], [-1])], kind), np.array([([2, 2], [1])], kind)
    outputs = network([0, 1], [0, 0], [0, 0], [0, 2], [0, 0], [0, 0.5])
    mask = AdmissibleActions(np.array([[1, 1, 1, 0, 1]] * 2, bool))
    [first, _] = parts(FactoredPolicy(outputs, low, high, np.array([2, 0], np.int8)), admissible=mask)
    assert [(part.name, part.values) for part in first[:2]] == [("gear.0", [1, 2]), ("gear.1", [0, 1, 2])]
    assert first[0].probabilities == pytest.approx(softmax(1, 0))
    assert first[1].probabilities == pytest.approx([0.5, 0, 0.5])
    assert first[2] == ActionPart(name="arm", value=0.5, low=-1, high=1)

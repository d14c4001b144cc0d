"""Why an agent acts as it does: what it reads of a state, and how probable each action is.

Probabilities are those of the policy as it was sampled while it learned, the softmax of its outputs. Shapes: n states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bitrl.core.acting.admissible import commands_of
from bitrl.core.acting.nested import name_of
from bitrl.core.acting.policies import CodebookPolicy, CommandPolicy, Discrete, FactoredPolicy, Policy, within

if TYPE_CHECKING:
    from bitrl.core.acting.states import States


@attrs.frozen(kw_only=True)
class ActionPart:
    """One number or choice that an action is made of.

    Attributes:
        name: where it is in the action; "" where it is the whole.
        values, probabilities: of a choice, each value or command and how probable it is; None of a number that is not
            chosen among values.
        value, low, high: of such a number; bounds are None where there are none.
    """

    name: str
    values: Sequence[Any] | None = None
    probabilities: Sequence[float] | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None


@attrs.frozen(kw_only=True)
class Explanation:
    """An action, as the environment takes it; the text that the agent read, or None where it reads a vector; and the
    parts of the action.
    """

    action: Any
    text: str | None
    parts: tuple[ActionPart, ...]


def explained(policy: Policy, states: States, actions: Sequence[Any]) -> list[Explanation]:
    """What led from n states to the n `actions` that `policy` chose."""
    texts = [None] * len(states) if isinstance(states.inputs, np.ndarray) else states.inputs
    parts = [*_parts(policy, states)]
    return [
        Explanation(action=action, text=text, parts=tuple(each))
        for action, text, each in zip(actions, texts, parts, strict=True)
    ]


def _parts(policy: Policy, states: States) -> Iterator[list[ActionPart]]:
    mask = None if states.admissible is None else states.admissible.mask
    if isinstance(policy, CommandPolicy):
        for observation, scores in zip(states.observations, policy.scores(states), strict=True):
            commands = commands_of(observation) or []
            yield [_choice("", commands, scores[: len(commands)])]
        return
    outputs = policy.network(states.features)
    for row, output in enumerate(outputs):
        admitted = None if mask is None else mask[row]
        if isinstance(policy, Discrete):
            values = [int(policy.start) + index for index in range(len(output))]
            yield [_choice("", values, output, None if admitted is None else admitted[: len(output)])]
        elif isinstance(policy, CodebookPolicy):
            each = zip(policy.values, output.reshape(policy.values.shape), strict=True)
            yield [_choice(str(index), values.tolist(), scores) for index, (values, scores) in enumerate(each)]
        elif isinstance(policy, FactoredPolicy):
            yield [*_factors(policy, output, admitted)]
        else:
            yield _numbers("", output, policy.low, policy.high)


def _factors(policy: FactoredPolicy, output: np.ndarray, mask: np.ndarray | None) -> Iterator[ActionPart]:
    """The factors of one action, whose outputs and mask are beside each other."""
    place = chosen = 0
    for factor in policy.actions.factors:
        name, own = name_of(factor.path), output[place : place + factor.outputs]
        place += factor.outputs
        if factor.kind == "Box":
            yield from _numbers(name, own, factor.low, factor.high)
            continue
        start = 0
        for index, (lowest, size) in enumerate(zip(factor.low.ravel().tolist(), factor.sizes, strict=True)):
            admitted = None if mask is None else mask[chosen : chosen + size]
            numbered = f"{name}.{index}".lstrip(".") if len(factor.sizes) > 1 else name
            values = [int(lowest) + step for step in range(size)]
            yield _choice(numbered, values, own[start : start + size], admitted)
            start, chosen = start + size, chosen + size


def _numbers(name: str, outputs: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[ActionPart]:
    values = within(outputs[None], low, high)[0].ravel().tolist()
    each = zip(values, low.ravel().tolist(), high.ravel().tolist(), strict=True)
    return [
        ActionPart(
            name=f"{name}.{index}".lstrip(".") if len(values) > 1 else name,
            value=value,
            low=lowest if np.isfinite(lowest) else None,
            high=highest if np.isfinite(highest) else None,
        )
        for index, (value, lowest, highest) in enumerate(each)
    ]


def _choice(name: str, values: Sequence[Any], scores: np.ndarray, mask: np.ndarray | None = None) -> ActionPart:
    scores = scores.astype(np.float64) if mask is None else np.where(mask, scores.astype(np.float64), -np.inf)
    weights = np.exp(scores - scores.max())
    return ActionPart(name=name, values=values, probabilities=(weights / weights.sum()).tolist())

"""The last k states instead of one: for partially observable environments.

A wrapper of environments (history_wrapper.py) makes each observation the last k of the episode, so that it is saved,
restored and evaluated like any other; a wrapper of serializers writes those, oldest first. Neither knows what a state
is.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from bitrl.core.acting.admissible import OBSERVATION, splits
from bitrl.core.errors import UsageError
from bitrl.core.records import SerializerRecord

COUNT = "count"
"""The part of an observation that counts its states; the states are named "0", "1", …, the newest str(k - 1)."""


class StateHistory:
    """The last k states of the episode under way."""

    def __init__(self, k: int):
        self.k = k
        self._states: deque[Any] = deque(maxlen=k)

    def clear(self) -> None:
        """Forget them: a new episode starts."""
        self._states.clear()

    def copy(self) -> StateHistory:
        """Another with the same states, to add to apart from this one."""
        other = StateHistory(self.k)
        other._states.extend(self._states)
        return other

    def add(self, state: Any) -> dict[str, Any]:
        """Add the newest state → `COUNT` and the last k as "0" to str(k - 1), the newest last. Where there are
        fewer, the first of the episode is repeated.
        """
        # Copied both ways: the caller may change a state later.
        self._states.append(copy.deepcopy(state))
        missing = self.k - len(self._states)
        states = map(copy.deepcopy, [*[self._states[0]] * missing, *self._states])
        return {COUNT: np.int64(len(self._states)), **{str(index): each for index, each in enumerate(states)}}


def newest_of(observations: np.ndarray, k: int) -> np.ndarray:
    """Observations [n] of the last k states → of the newest alone [n, ...], with its admissible actions. With k = 1
    they are returned unchanged.
    """
    if k == 1:
        return observations
    if not splits(observations.dtype.names):
        return observations[str(k - 1)]
    states = observations[OBSERVATION][str(k - 1)]
    parts = {name: observations[name] if name != OBSERVATION else states for name in observations.dtype.names or ()}
    newest = np.empty(len(observations), [(name, part.dtype, part.shape[1:]) for name, part in parts.items()])
    for name, part in parts.items():
        newest[name] = part
    return newest


class History:
    """Writes the last k states with the serializer of one.

    Texts are one line per state, the newest last. The oldest are dropped until the tokens of the rest, and one for each
    line break, are at most `budget`; the newest is always kept. A backbone that does not count tokens
    (`token_counts`) is given all. Vectors are concatenated, the newest last, with zeros for states before the episode.

    Attributes:
        width: k times that of the serializer, where it emits vectors.
        budget: tokens per text; None: no limit.
    """

    def __init__(self, serializer: Any, k: int, record: SerializerRecord):
        """`serializer` was made by `record`."""
        self.serializer, self.k, self.vectors, self.learns = serializer, k, record.emits == "vector", record.learns
        self.budget: int | None = None
        self._tokens: Callable[[str], int] = lambda text: 0
        self.width: int = k * serializer.width if self.vectors else 0

    def limit(self, token_counts: Callable[[list[str]], list[int]], budget: int) -> None:
        """Keep texts within `budget` tokens, as a backbone's `token_counts` counts them."""
        self.budget = budget
        # A state is visited k times.
        self._tokens = lru_cache(maxsize=4096)(lambda text: token_counts([text])[0])

    def __call__(self, observation: Any) -> Any:
        """One observation (a record, or a mapping) → its text, or float32 [k · width of one]."""
        count = int(observation[COUNT])
        written = [self.serializer(observation[str(index)]) for index in range(self.k - count, self.k)]
        return self._concatenated(written) if self.vectors else self._lines(written)

    def batch(self, observations: np.ndarray) -> Any:
        """Observations [n] → n texts, or float32 [n, k · width of one]."""
        past: list[list[Any]] = [[] for _ in observations]
        for index in range(self.k):
            there = np.flatnonzero(observations[COUNT] >= self.k - index)
            if len(there):
                for row, written in zip(there, self.serializer.batch(observations[str(index)][there]), strict=True):
                    past[row].append(written)
        if self.vectors:
            return np.array([self._concatenated(each) for each in past], np.float32).reshape(-1, self.width)
        return [self._lines(each) for each in past]

    def state(self) -> dict[str, np.ndarray]:
        """What the wrapped serializer learned, if it learns."""
        return self.serializer.state() if self.learns else {}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what the wrapped serializer learned."""
        if self.learns:
            self.serializer.load_state(state)

    def _lines(self, texts: list[str]) -> str:
        kept, tokens = texts[-1:], self._tokens(texts[-1])
        for text in reversed(texts[:-1]):
            tokens += self._tokens(text) + 1
            if self.budget is not None and tokens > self.budget:
                break
            kept.append(text)
        return "\n".join(reversed(kept))

    def _concatenated(self, vectors: list[np.ndarray]) -> np.ndarray:
        one = len(vectors[-1])
        return np.concatenate([np.zeros((self.k - len(vectors)) * one, np.float32), *vectors]).astype(np.float32)


def check_pooling(options: Any) -> None:
    """Raises UsageError: the backbone's pooling needs equally many numbers in every text; a history's number grows."""
    if getattr(options, "pooling", None) == "field":
        raise UsageError(
            "run.history: the text of several states grows over an episode, but backbone.pooling "
            '"field" needs equally many numbers in every text: choose "mean" or "last"'
        )

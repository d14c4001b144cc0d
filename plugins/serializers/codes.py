"""States as learned tokens: 412 17. Each code stands for a region of states, and regions are smaller where states are
frequent.

Shorter than one integer per number (bins), since a code holds several numbers, and finer where it matters; what is lost
is the distance to the nearest code. A code is an integer from 0 to 999, which is one token of
bitrl's own vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.pieces import Code, Piece, Text, joined
from bitrl.core.wording import setting
from bitrl.plugins.serializers import CodesOptions
from bitrl.plugins.serializers.codebook import Codebook, fit
from bitrl.plugins.serializers.numbers import check_count, numbers_of, refuse_grid, refuse_no_numbers, sentence


class Codes:
    """The codes nearest to an observation's numbers, two numbers per code unless `tokens` says otherwise. Texts beside
    the numbers come first.

    The codebook is fitted when it is first needed, to states of a random policy or to those in a file,
    deterministically. A run saves it with its checkpoints, since rounding on another machine would give another one.

    Raises:
        UsageError: the observations are not numbers, or there are no states to fit to.
    """

    def __init__(self, options: CodesOptions, observation: ObservationSpec):
        refuse_grid(observation)
        refuse_no_numbers(observation)
        if observation.discrete is not None:
            raise UsageError(
                f"environment {observation.env} has {observation.discrete} states, which are integers already: "
                f"use {setting('serializer', 'bins')}"
            )
        if not observation.fields:
            raise UsageError("serializer codes is fitted to states: name the environment that they come from")
        self.options, self.observation = options, observation
        self.tokens = options.tokens or max(2, math.ceil(len(observation.fields) / 2))
        self._fitted: Codebook | None = None

    @property
    def codebook(self) -> Codebook:
        """The codebook, fitted on first use."""
        if self._fitted is None:
            self._fitted = fit(self._states(), self.tokens, self.options.codes)
        return self._fitted

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = np.array([numbers_of(self.observation, observation)], np.float64)
        return self._write(numbers, [[observation[name]] for name in self.observation.texts])[0]

    def form(self) -> list[Piece]:
        """What it writes, as pieces."""
        book, at = self.codebook, 0
        rows: list[list[Piece]] = [[Text(index, "sentence")] for index in range(len(self.observation.texts))]
        for codes in book.codes:
            own = slice(at, at + codes.shape[1])
            rows.append([Code(book.mean[own], book.scale[own], codes)])
            at = own.stop
        return joined(rows)

    def batch(self, observations: np.ndarray) -> list[str]:
        """Observations [n, ...] → n texts."""
        return self._write(self._numbers(observations), [observations[name] for name in self.observation.texts])

    def state(self) -> dict[str, np.ndarray]:
        """The codebook, as named arrays."""
        return {name: array.copy() for name, array in self.codebook.arrays().items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the codebook of a `state()`."""
        self._fitted = Codebook.of_arrays({name: array.copy() for name, array in state.items()})

    def _write(self, numbers: np.ndarray, texts: list[Iterable[Any]]) -> list[str]:
        """Numbers [n, k] and each text part of n observations → n texts."""
        rows = [" ".join(map(str, row)) for row in self.codebook.encode(numbers).tolist()]
        if not texts:
            return rows
        return [" ".join((*map(sentence, map(str, parts)), row)) for *parts, row in zip(*texts, rows, strict=True)]

    def _numbers(self, observations: np.ndarray) -> np.ndarray:
        """Observations [n, ...] → their numbers, float64 [n, k]."""
        numbers = np.asarray(observations["numbers"] if self.observation.texts else observations, np.float64)
        numbers = numbers.reshape(len(numbers), math.prod(numbers.shape[1:]))
        check_count(self.observation, numbers.shape[1])
        return numbers

    def _states(self) -> np.ndarray:
        """The states to fit to, float64 [n, k]."""
        if self.options.states_file is not None:
            return self._saved_states(Path(self.options.states_file))
        from bitrl.core.environments.loading import load_environment
        from bitrl.core.environments.random_play import observations_of

        environment = load_environment(str(self.observation.env), **self.observation.env_options)
        return self._numbers(observations_of(environment, self.options.states))

    def _saved_states(self, path: Path) -> np.ndarray:
        from bitrl.core.runs.state_recorder import read_states

        states = read_states(path)
        if states.shape[1] != len(self.observation.fields):
            raise UsageError(
                f"serializer.states_file: {path}: expected states of {len(self.observation.fields)} numbers, as in "
                f"{self.observation.env}, got {states.shape[1]}"
            )
        return states

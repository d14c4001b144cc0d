"""Parameters that are learned in groups: each side by side in one array, stepped by Adam at a rate of its own, saved
and restored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from bitrl.plugins.algos.engine_learner import EngineAdam, EngineLearner, LearnedPart

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam knows of a group, by names beside its own: how many steps it has taken, and the moments."""


class ParameterGroups:
    """Groups of parameters by name, and Adam on them, which clips each group's gradient by itself.

    Attributes:
        parameters, gradients: of each group, float32 [P].
    """

    def __init__(self, learner: EngineLearner, groups: Mapping[str, Sequence[LearnedPart]], eps: float = 1e-8):
        """`groups`: the parts of each, in order."""
        self._groups = groups
        self.parameters, self.gradients = (
            {name: np.zeros(sum(part.size for part in parts), np.float32) for name, parts in groups.items()}
            for _ in range(2)
        )
        for name, parts in groups.items():
            at = 0
            for part in parts:
                own = slice(at, at + part.size)
                part.use(self.parameters[name][own], self.gradients[name][own])
                at += part.size
        self.adam = EngineAdam(learner, [*self.parameters.values()], [*self.gradients.values()], eps)

    def step(self, rates: Sequence[float], max_norm: float | None) -> dict[str, float]:
        """One step of Adam with each group's learning rate, after scaling its gradient down to a norm of `max_norm`
        where that is larger; the norms before that.

        Raises:
            RunFailed: a gradient is not finite; nothing has changed.
        """
        return dict(zip(self.parameters, self.adam.step(rates, max_norm), strict=True))

    def forget(self, name: str) -> None:
        """Let Adam begin anew on a group, whose gradients so far were of something else."""
        index = [*self.parameters].index(name)
        self.adam.means[index][:], self.adam.squares[index][:], self.adam.steps[index] = 0, 0, 0

    def state(self) -> dict[str, np.ndarray]:
        """Parameters, and what Adam knows of them, by name."""
        arrays: dict[str, np.ndarray] = {}
        for index, (name, parameters) in enumerate(self.parameters.items()):
            arrays |= {
                name: parameters.copy(),
                f"{name}.step": np.array(self.adam.steps[index]),
                f"{name}.exp_avg": self.adam.means[index].copy(),
                f"{name}.exp_avg_sq": self.adam.squares[index].copy(),
            }
        return arrays

    def load_state(self, state: Mapping[str, np.ndarray], torch_layout: bool = False) -> None:
        """Restore a `state()`, or one without what Adam knows, which then begins anew. In `torch_layout`, a layer's
        weights are [outputs, inputs].

        Raises:
            KeyError: parameters are not in `state`.
            ValueError: something is of another shape or dtype, weights are not finite, or moments are there in part.
        """
        for index, (name, parameters) in enumerate(self.parameters.items()):
            moments = {f"{name}.exp_avg": self.adam.means[index], f"{name}.exp_avg_sq": self.adam.squares[index]}
            there = [each for each in MOMENTS if f"{name}.{each}" in state]
            if len(there) not in (0, len(MOMENTS)):
                raise ValueError(f"{name}: expected its {', '.join(MOMENTS)}, got {', '.join(there)}")
            self.forget(name)
            for key, array in {name: parameters, **(moments if there else {})}.items():
                found = _like(array, state, key)
                array[:] = self._from_torch(name, found) if torch_layout else found
            if not np.isfinite(parameters).all():
                raise ValueError(f"{name}: holds numbers that are NaN or infinite")
            if there:
                self.adam.steps[index] = _count(state, f"{name}.step")

    def _from_torch(self, name: str, flat: np.ndarray) -> np.ndarray:
        """A group's numbers with layers' weights [outputs, inputs] → [inputs, outputs]."""
        pieces, at = [], 0
        for part in self._groups[name]:
            end = at + part.size
            for inputs, outputs in pairwise(part.widths):
                weights = flat[at : at + inputs * outputs].reshape(outputs, inputs)
                at += inputs * outputs
                pieces += [weights.T.ravel(), flat[at : at + outputs]]
                at += outputs
            pieces.append(flat[at:end])
            at = end
        return np.concatenate(pieces)


def _like(array: np.ndarray, state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    found = state[name]
    if (found.shape, found.dtype) != (array.shape, array.dtype):
        raise ValueError(f"{name}: expected {_kind(array)}, got {_kind(found)}")
    return found


def _count(state: Mapping[str, np.ndarray], name: str) -> int:
    found = state[name]
    if found.shape != () or found.dtype.kind not in "iuf" or not (found >= 0 and found == np.floor(found) < 2**53):
        raise ValueError(f"{name}: expected a number of steps, got {_kind(found)}")
    return int(found)


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype.name} {list(array.shape)}"

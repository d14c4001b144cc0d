"""Numpy policies: trained policies as plain arrays, the last part of an exported agent (agents.py).

An algorithm whose `act` can be expressed as one can be exported (Algorithm.plain_policy). Shapes: n states, d
features, k outputs or actions, C commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from bitrl.core.acting.checkpoints import with_prefix
from bitrl.core.acting.factors import FactoredActions, best_choices
from bitrl.core.errors import RunFailed

if TYPE_CHECKING:
    from bitrl.core.acting.states import States


@attrs.frozen(eq=False)
class Network:
    """Linear layers with tanh between them, on standardised features.

    Attributes:
        mean, std: mean and standard deviation of the features, float32 [d].
        limit: standardised features are clipped at this many standard deviations.
        layers: weights [outputs, inputs] and biases [outputs], float32.
    """

    mean: np.ndarray
    std: np.ndarray
    limit: float
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features float32 [..., d] → outputs float32 [..., k]."""
        values: np.ndarray = ((features - self.mean) / self.std).clip(-self.limit, self.limit)
        for index, (weights, biases) in enumerate(self.layers):
            values = (np.tanh(values) if index else values) @ weights.T + biases
        return values

    def of_outputs(self, used: slice) -> Network:
        """The network of some of the outputs."""
        weights, biases = self.layers[-1]
        return attrs.evolve(self, layers=(*self.layers[:-1], (weights[used], biases[used])))

    def arrays(self) -> dict[str, np.ndarray]:
        """The network as named arrays."""
        layers = {
            f"{index}.{name}": array
            for index, layer in enumerate(self.layers)
            for name, array in zip(("weight", "bias"), layer, strict=True)
        }
        return {"mean": self.mean, "std": self.std, "limit": np.array(self.limit), **layers}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Network:
        """The network that `arrays()` returned."""
        count = sum(name.endswith(".weight") for name in arrays)
        layers = tuple((arrays[f"{index}.weight"], arrays[f"{index}.bias"]) for index in range(count))
        return cls(arrays["mean"], arrays["std"], float(arrays["limit"]), layers)


@attrs.frozen(eq=False)
class Discrete:
    """Takes the admissible action with the largest output; actions are numbered from `start`."""

    kind: ClassVar[str] = "discrete"
    network: Network
    start: Any = 0

    def __call__(self, states: States) -> np.ndarray:
        """n states → actions int64 [n]."""
        actions: np.ndarray = states.best(self.network(states.features)) + self.start
        return actions


@attrs.frozen(eq=False)
class CommandPolicy:
    """Chooses the admissible command whose key (a network's outputs for its features) has the largest dot product with
    the state's query (the policy network's outputs).
    """

    kind: ClassVar[str] = "commanding"
    network: Network
    keys: Network

    def __call__(self, states: States) -> np.ndarray:
        """n states → the index of a command in each state, int64 [n]."""
        return states.best(self.scores(states))

    def scores(self, states: States) -> np.ndarray:
        """n states → the scores of their commands, float32 [n, k], of padding too."""
        admissible = states.admissible
        assert admissible is not None
        assert admissible.commands is not None
        keys = self.keys(admissible.commands.features[admissible.rows])
        scores: np.ndarray = (self.network(states.features)[:, None] * keys).sum(axis=-1)
        return scores


@attrs.frozen(eq=False)
class Continuous:
    """Takes the outputs as the action, put by `within` between `low` and `high`, which have its shape and dtype."""

    kind: ClassVar[str] = "continuous"
    network: Network
    low: np.ndarray
    high: np.ndarray

    def __call__(self, states: States) -> np.ndarray:
        """n states → actions [n, ...], of the dtype of the bounds."""
        return within(self.network(states.features), self.low, self.high)


@attrs.frozen(eq=False)
class CodebookPolicy:
    """Takes in each of k action dimensions the value of `values` [k, m] whose output is the largest, of k·m outputs,
    put by `within` between `low` and `high`, which have the action's shape and dtype.
    """

    kind: ClassVar[str] = "codebook"
    network: Network
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, states: States) -> np.ndarray:
        """n states → actions [n, ...], of the dtype of the bounds."""
        best = self.network(states.features).reshape(-1, *self.values.shape).argmax(axis=2)
        return within(self.values[np.arange(len(self.values)), best], self.low, self.high)


@attrs.frozen(eq=False, slots=False)
class FactoredPolicy:
    """Chooses each factor of an action by outputs of its own, in order: of each choice the admissible value with the
    largest, of a Box its outputs, as Continuous does.

    `low`, `high` and `kinds` are those of the action space (factors.FactoredActions).
    """

    kind: ClassVar[str] = "factored"
    network: Network
    low: np.ndarray
    high: np.ndarray
    kinds: np.ndarray

    def __call__(self, states: States) -> np.ndarray:
        """n states → actions [n, ...], of the dtype of the bounds; records where they have several parts.

        Raises:
            RunFailed: a state admits no value of some choice.
        """
        outputs, actions = self.network(states.features), self.actions
        mask = None if states.admissible is None else states.admissible.mask
        if mask is not None and (forbidden := actions.first_forbidden(mask)) is not None:
            raise RunFailed(f"the action_mask forbids every value{forbidden and f' of {forbidden}'}: set an entry to 1")
        masks = {factor.path: used for factor, used in actions.choices()}
        values, place = [], 0
        for factor in actions.factors:
            own = outputs[:, place : place + factor.outputs]
            place += factor.outputs
            if factor.kind == "Box":
                values.append(within(own, factor.low, factor.high))
            else:
                values.append(best_choices(factor, own, None if mask is None else mask[:, masks[factor.path]]))
        return actions.joined(values)

    @cached_property
    def actions(self) -> FactoredActions:
        """The action space."""
        return FactoredActions(self.low, self.high, self.kinds)


def within(outputs: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A policy's outputs float32 [n, k] → actions [n, ...] of a Box space: clipped at its bounds `low` and `high`, and
    where these are integers (or booleans, 0 and 1) rounded; of their dtype.
    """
    actions = outputs.reshape(-1, *low.shape)
    if low.dtype.kind == "f":
        clipped: np.ndarray = np.clip(actions, low, high).astype(low.dtype, copy=False)
        return clipped
    lowest, highest = low.astype(np.float64), high.astype(np.float64)
    nearest = np.clip(np.rint(actions.astype(np.float64)), lowest, highest)
    # The largest 64-bit integers have no float64 of their own, and what rounds up to 2^63 would overflow.
    return np.where(nearest >= highest, high, np.where(nearest < highest, nearest, lowest).astype(low.dtype))


Policy = Discrete | CommandPolicy | Continuous | CodebookPolicy | FactoredPolicy


@attrs.frozen(eq=False)
class ActorCritic:
    """A trained policy as it is sampled while it learns, and its value function (Algorithm.actor_critic).

    Attributes:
        policy: takes the most probable actions.
        log_std: logarithms of the standard deviations of a Gaussian around a Continuous policy's outputs, float32 [k];
            None for other policies, which are the softmax of their outputs.
        value: the critic's features float32 [..., d'] → values [..., 1].
        reward_std: what rewards are divided by before values are learned.
        gamma: discount factor.
        gae_lambda: λ of generalised advantage estimation.
    """

    policy: Policy
    log_std: np.ndarray | None
    value: Network
    reward_std: float
    gamma: float
    gae_lambda: float


KINDS: dict[str, type[Policy]] = {
    each.kind: each for each in (Discrete, CommandPolicy, Continuous, CodebookPolicy, FactoredPolicy)
}


def arrays_of(policy: Policy) -> dict[str, np.ndarray]:
    """A policy as named arrays, those of its networks as `network.0.weight`."""
    arrays: dict[str, np.ndarray] = {}
    for field in attrs.fields(type(policy)):
        value = getattr(policy, field.name)
        if isinstance(value, Network):
            arrays |= {f"{field.name}.{name}": array for name, array in value.arrays().items()}
        else:
            arrays[field.name] = np.asarray(value)
    return arrays


def policy_of(kind: str, arrays: Mapping[str, np.ndarray]) -> Policy:
    """The policy of this kind from the arrays of `arrays_of`."""
    parts: dict[str, Any] = {}
    for field in attrs.fields(KINDS[kind]):
        inside = with_prefix(arrays, f"{field.name}.")
        parts[field.name] = Network.of_arrays(inside) if inside else arrays[field.name]
    return KINDS[kind](**parts)

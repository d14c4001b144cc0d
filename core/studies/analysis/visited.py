"""The steps that a trained run's policy takes, sampled as in training: what all precisions are measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bitrl.core.acting.policies import ActorCritic, CommandPolicy, Discrete, FactoredPolicy, within
from bitrl.core.acting.states import States
from bitrl.core.config import Config
from bitrl.core.environments import crashes, replay
from bitrl.core.environments.collector import Collector, Rollout
from bitrl.core.errors import UsageError
from bitrl.core.runs.parts import Parts, spawn_seeds
from bitrl.core.studies.analysis.policy_gradient import Taken, masked_logits, outputs_of
from bitrl.core.studies.analysis.td_values import Transitions

if TYPE_CHECKING:
    import gymnasium

ENVIRONMENTS = 4
CHUNKS = 32
"""Of consecutive steps, which are resampled as one: neighbouring states are alike."""
FEWEST_ENDS = 8
"""Where every step has the same reward, values differ by how episodes end: of so many one can learn them."""
ANALYSIS = 4
"""The run's use of randomness for this, beside those of parts.py."""


@attrs.frozen(eq=False)
class Visited:
    """B steps of `ENVIRONMENTS` environments, one environment's after another's.

    Attributes:
        texts: the m different states, as the serializer wrote them; `state` and `steps` count in these.
        different: how many of them the policy visited: the first so many.
        state: which of them each of the B steps was acted in, int64 [B].
        samples: what was done in them.
        returns: of the episodes that ended, float64 [episodes].
        steps: of which values are learned: those B, or where these would give every state the same value as many of
            uniformly random actions.
        random: whether it is the latter.
        others: as many other steps' different states.
    """

    texts: list[str]
    different: int
    state: np.ndarray
    samples: Taken
    returns: np.ndarray
    steps: Transitions
    random: bool
    others: list[str]


def rounded_up(states: int) -> int:
    """The number of states that is visited when so many are asked for: a multiple of `CHUNKS`."""
    return -(-states // CHUNKS) * CHUNKS


def visit(
    config: Config, parts: Parts, heads: ActorCritic, states: int, seed: int, progress: Callable[[int], None]
) -> Visited:
    """Visit so many states, a multiple of `CHUNKS`; `progress` is called with the steps taken, in the end twice as
    many.

    Raises:
        UsageError: the policy is neither a softmax over Discrete actions nor a Gaussian.
        RunFailed: an environment crashed.
    """
    if isinstance(heads.policy, CommandPolicy):
        raise UsageError(
            f"{config.run.env}: its agent chooses among admissible commands, which analyze does not support: analyse a "
            "run in an environment with Discrete or Box actions"
        )
    if isinstance(heads.policy, FactoredPolicy):
        raise UsageError(
            f"{config.run.env}: its agent's actions have several factors, which analyze does not support: analyse a "
            "run in an environment with Discrete or Box actions"
        )
    if not isinstance(heads.policy, Discrete) and heads.log_std is None:
        raise UsageError(
            f"{config.run.env}: its agent's actions are of a codebook, which analyze does not support: analyse a run "
            "without algo.action_codebook"
        )
    envs = replay.vectorise(crashes.reporting(parts.environment.make, parts.environment.id), ENVIRONMENTS)
    try:
        starts: list[int | None] = [*spawn_seeds(seed, ANALYSIS, ENVIRONMENTS)]
        generator = np.random.default_rng([seed, ANALYSIS])

        def started() -> Collector:
            return Collector(envs, parts.reader, envs.reset(seed=starts)[0], progress)

        collector, sampled = started(), _Sampled(heads, generator)
        rollout = collector.rollout(sampled, states // ENVIRONMENTS)
        taken = _by_environment(np.stack(sampled.taken))
        rest = collector.rollout(sampled, states // ENVIRONMENTS)
        random = _alike(rollout)
        valued = (
            started().rollout(_uniform(envs.single_action_space, generator), states // ENVIRONMENTS)
            if random
            else rollout
        )
    finally:
        envs.close()
    places: dict[str, int] = {}
    state, different = _states(rollout, places)[0], len(places)
    return Visited(
        different=different,
        state=state,
        samples=_samples(rollout, heads, taken),
        returns=rollout.returns,
        steps=_steps(valued, places),
        random=random,
        texts=[*places],
        others=list(dict.fromkeys(text for each in rest.states[:-1] for text in each.texts)),
    )


def _alike(rollout: Rollout) -> bool:
    """Whether every state has (nearly) the same value: one reward at every step, and hardly an end."""
    return bool(np.ptp(rollout.rewards) == 0) and int(rollout.terminated.sum()) < FEWEST_ENDS


class _Sampled:
    """Taken actions, and keeps them as the policy has them: counted from 0, or not clipped."""

    def __init__(self, heads: ActorCritic, generator: np.random.Generator):
        self.heads, self.generator = heads, generator
        self.taken: list[np.ndarray] = []

    def __call__(self, states: States, t: int) -> np.ndarray:
        """States → actions [n, ...] as the environments take them."""
        policy: Any = self.heads.policy
        outputs, _ = outputs_of(policy.network, states.features)
        if self.heads.log_std is not None:
            noise = self.generator.standard_normal(outputs.shape)
            self.taken.append(outputs + noise * np.exp(self.heads.log_std.astype(np.float64)))
            return within(self.taken[-1], policy.low, policy.high)
        logits = masked_logits(outputs, None if states.admissible is None else states.admissible.mask)
        self.taken.append((logits + self.generator.gumbel(size=logits.shape)).argmax(axis=1))
        actions: np.ndarray = self.taken[-1] + policy.start
        return actions


def _uniform(space: gymnasium.Space[Any], generator: np.random.Generator) -> Callable[[States, int], np.ndarray]:
    """Random actions, admissible ones with equal probability."""
    space.seed(int(generator.integers(2**31)))

    def act(states: States, t: int) -> np.ndarray:
        if states.admissible is None:
            return np.stack([space.sample() for _ in range(len(states))])
        mask = states.admissible.mask
        chosen: np.ndarray = np.where(mask, generator.random(mask.shape), -1.0).argmax(axis=1)
        return chosen + int(getattr(space, "start", 0))

    return act


def _states(rollout: Rollout, places: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The states acted in and led to [B], by their place in `places`, to which new ones are added."""

    def place(texts: list[str]) -> list[int]:
        return [places.setdefault(text, len(places)) for text in texts]

    at = np.array([place(each.texts) for each in rollout.states])
    following = at[1:].copy()
    if rollout.final_states is not None:
        following[tuple(rollout.final_steps.T)] = place(rollout.final_states.texts)
    return _by_environment(at[:-1]), _by_environment(following)


def _steps(rollout: Rollout, places: dict[str, int]) -> Transitions:
    state, following = _states(rollout, places)
    return Transitions(
        state=state,
        following=following,
        rewards=_by_environment(rollout.rewards).astype(np.float64),
        terminated=_by_environment(rollout.terminated),
        chunk=np.arange(len(state)) * CHUNKS // len(state),
    )


def _samples(rollout: Rollout, heads: ActorCritic, taken: np.ndarray) -> Taken:
    """What was done: actions [B] as the policy has them, and advantages of mean 0 and standard deviation 1."""
    advantages = _by_environment(_advantages(rollout, heads))
    mask = None if rollout.admissible is None else _by_environment(rollout.admissible.mask)
    return Taken(taken, (advantages - advantages.mean()) / (float(advantages.std()) or 1.0), mask)


def _advantages(rollout: Rollout, heads: ActorCritic) -> np.ndarray:
    """Generalised advantage estimates of the run's own critic, float64 [T, n] (Schulman et al. 2016)."""

    def values(features: np.ndarray) -> np.ndarray:
        flat = features.reshape(-1, features.shape[-1])
        found: np.ndarray = outputs_of(heads.value, flat)[0].reshape(features.shape[:-1])
        return found

    now = values(rollout.critic_features)
    after = now[1:].copy()
    after[rollout.terminated] = 0.0
    after[tuple(rollout.final_steps.T)] = values(rollout.final_critic_features)
    deltas = rollout.rewards / heads.reward_std + heads.gamma * after - now[:-1]
    continues = ~(rollout.terminated | rollout.truncated)
    advantages: np.ndarray = np.zeros_like(deltas)
    following = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + heads.gamma * heads.gae_lambda * continues[t] * following
        advantages[t] = following
    return advantages


def _by_environment(values: np.ndarray) -> np.ndarray:
    """[T, n, ...] → [n·T, ...], one environment's after another's."""
    found: np.ndarray = values.swapaxes(0, 1).reshape(-1, *values.shape[2:])
    return found

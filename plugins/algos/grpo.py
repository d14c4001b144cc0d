"""Group relative policy optimisation (GRPO, Shao et al. 2024, arXiv 2402.03300) of a language model, with rollouts by a
quantised copy of it (QuRL, arXiv 2602.13953).

Each prompt gets a group of G completions, and a completion's advantage is how much better its reward is than its
group's. How the policy learns from advantages is in language_agent.py. Shapes: B completions, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bitrl.core.acting.states import States
from bitrl.core.environments.collector import Rollout
from bitrl.core.errors import RunFailed
from bitrl.core.interfaces import Algorithm, LanguagePolicy, Task
from bitrl.core.wording import warn
from bitrl.plugins.algos import GRPOOptions
from bitrl.plugins.algos.completions import mask_of
from bitrl.plugins.algos.group_advantages import group_advantages
from bitrl.plugins.algos.language_agent import LanguageAgent

PATIENCE = 3
"""Updates from the first in which nothing was learned, after which that is told."""


class GRPO(Algorithm):
    """Samples a group of completions for each prompt, and makes those likelier that are better than their group."""

    options: GRPOOptions

    def __init__(self, options: GRPOOptions, task: Task):
        super().__init__(options, task)
        self.agent, prompts = LanguageAgent(options, task), task.collector.num_envs // options.group_size
        self.minibatch_size = min(options.minibatch_size or prompts, prompts) * options.group_size
        self.barren: int | None = 0  # updates so far, until one of which something is learned

    def update(self) -> dict[str, float]:
        """A completion in every environment, and `epochs` passes over them; see the base class."""
        agent, size = self.agent, self.options.group_size
        rollout, completions, metrics = agent.rollout()
        self.check_groups(rollout)
        rewards = torch.from_numpy(rollout.rewards[0]).view(-1, size)
        advantages, informative = group_advantages(rewards, self.options.normalise_std)
        metrics["groups_without_variance"] = float(1 - informative.float().mean())
        self.heed(bool(informative.any()), metrics["episode_return"])
        counts = informative.repeat_interleave(size)
        chosen = [each for each, count in zip(completions, counts.tolist(), strict=True) if count]
        if chosen:
            metrics |= agent.learn(chosen, mask_of(chosen), advantages.flatten()[counts], self.minibatch_size)
        metrics |= agent.replace()
        agent.alarms(metrics, self.step)
        return metrics

    def heed(self, informative: bool, reward: float) -> None:
        """Say once that a run has learned nothing yet, which nothing else would show."""
        if self.barren is None or informative:
            self.barren = None
            return
        self.barren += 1
        if self.barren == PATIENCE:
            warn(
                f"step {self.step:,}: nothing has been learned yet, since the completions of each prompt all earned "
                f"the same (the mean reward is {reward:.3g}): score what is partly right, or use easier prompts, a "
                "model that sometimes answers them, or larger groups"
            )

    def check_groups(self, rollout: Rollout) -> None:
        """Refuse an environment whose groups have different prompts."""
        prompts, size = rollout.states[0].texts, self.options.group_size
        for first in range(0, len(prompts), size):
            if len(set(prompts[first : first + size])) > 1:
                raise RunFailed(
                    "environments that were reset with the same seed give different prompts, so their completions "
                    "cannot be compared: the environment must draw its prompts from self.np_random alone"
                )

    def act(self, states: States) -> np.ndarray:
        """The completions of the most probable tokens; see the base class."""
        return self.agent.act(states)

    def language_policy(self) -> LanguagePolicy:
        """See the base class."""
        return self.agent.policy

    def timings(self) -> Mapping[str, float]:
        """See the base class."""
        return self.agent.timings()

    def state(self) -> dict[str, np.ndarray]:
        """See the base class."""
        return self.agent.state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """See the base class."""
        self.agent.load_state(state)

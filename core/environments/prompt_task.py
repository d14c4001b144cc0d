"""Tasks for language models: a prompt is given, its completion is scored. A task becomes an environment of one step.

Knows how training and evaluation get different prompts. Does not know how a user's scoring is isolated
(isolated_reward.py).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.environments.any_text import AnyText
from bitrl.core.environments.checked import briefly
from bitrl.core.environments.crashes import EnvironmentFault
from bitrl.core.environments.environment import Environment
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.options import NoOptions
from bitrl.core.wording import warn

HELD_OUT = 0.1
"""Share of the prompts that training never shows."""

TRIES = 1000
"""Prompts that are drawn in search of one that is held out, or of one that is not."""

LONGEST_COMPLETION = 10_000
"""Characters of a completion, as the action space says; longer ones are scored, too."""


class PromptTask(Environment):
    """A task for language models: subclass it, and write `prompt` and `score`.

    Attributes:
        longest_prompt: characters of the longest prompt.
    """

    longest_prompt = 1000

    def __init__(self, options: Any = None, id: str = ""):
        super().__init__(NoOptions() if options is None else options, id or type(self).__name__)
        self._told = False

    @abstractmethod
    def prompt(self, random: np.random.Generator) -> tuple[str, Any]:
        """A prompt, and what `score` needs to know of its answer. All randomness comes from `random`."""

    @abstractmethod
    def score(self, answer: Any, completion: str) -> float:
        """The reward of a completion; a right one has 1."""

    def draw(self, random: np.random.Generator, held_out: bool) -> tuple[str, Any]:
        """A prompt with its answer, to evaluate (`held_out`) or to train.

        A tenth of all prompts, chosen by their hash, is held out: prompts are drawn until one is on the right side.
        """
        for _ in range(TRIES):
            prompt, answer = _pair(self.prompt(random))
            if is_held_out(prompt) == held_out:
                return prompt, answer
        if not self._told:
            self._told = True
            use = "evaluation uses prompts of training" if held_out else "training uses prompts held out for evaluation"
            warn(f"environment {self.id}: none of {TRIES:,} prompts was new, it has too few different ones: {use}")
        return prompt, answer

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new environment that gives prompts to train on."""
        return PromptEnv(self, held_out=False, render_mode=render_mode)

    def make_for_evaluation(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new environment that gives prompts which training never shows."""
        return PromptEnv(self, held_out=True, render_mode=render_mode)

    def observation_spec(self) -> ObservationSpec:
        """A prompt."""
        return ObservationSpec(self.id, prompt=True)


class PromptEnv(gymnasium.Env):
    """An episode is one step: the observation is a prompt, the action its completion, the reward the score.

    `info` has "success", whether the reward is 1 at least, and its mean as the metric "correct".
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium's name and type)

    def __init__(self, task: PromptTask, held_out: bool, render_mode: str | None = None):
        self.task, self.held_out, self.render_mode = task, held_out, render_mode
        self.observation_space = AnyText(task.longest_prompt)
        self.action_space = AnyText(LONGEST_COMPLETION)
        self._completion = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """A new prompt. It depends on the environment's own generator alone: equal seeds give equal prompts.

        Raises:
            EnvironmentFault: the task's prompt is none, or too long.
        """
        super().reset(seed=seed)
        self._prompt, self._answer = self.task.draw(self.np_random, self.held_out)
        if len(self._prompt) > self.task.longest_prompt:
            raise EnvironmentFault(
                f"a prompt has {len(self._prompt):,} characters, but longest_prompt of {type(self.task).__name__} is "
                f"{self.task.longest_prompt:,}: set that higher ({briefly(self._prompt)})"
            )
        self._completion = ""
        return self._prompt, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score a completion, which ends the episode."""
        self._completion = str(action)
        reward = self.task.score(self._answer, self._completion)
        success = bool(reward >= 1)
        return self._prompt, reward, True, False, {"success": success, "metrics": {"correct": float(success)}}

    def render(self) -> str | None:
        """The prompt, and the completion that it got."""
        return f"{self._prompt}{self._completion}" if self.render_mode == "ansi" else None


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is one of the tenth that training never shows."""
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < HELD_OUT * 2**64


def _pair(made: Any) -> tuple[str, Any]:
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], str) and made[0]):
        raise EnvironmentFault(
            f"prompt() returned {briefly(made)}: expected a tuple of a non-empty string and an answer"
        )
    return made

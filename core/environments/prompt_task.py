"""Tasks for language models: a prompt is given, its completion is scored. A task becomes an environment of one step.

Knows how training and evaluation get different prompts. How a user's scores are kept from doing harm is
isolated_reward.py's.
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
from bitrl.core.environments.isolated_reward import IsolatedReward
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

    Scores are computed in a process of their own: one that raises, takes longer than `time_limit`, ends its process,
    needs more than `memory_limit` or is no finite number is named, counted (the metric "failed_rewards") and counts as
    0. An option called `time_limit` takes precedence over the attribute.

    Attributes:
        longest_prompt: characters of the longest prompt.
        isolated: whether scores are computed in a process of their own; they are about 0.1 ms faster in this one.
        time_limit: seconds that a score may take.
        memory_limit: bytes that a score may need beside what is in memory before it.
    """

    longest_prompt = 1000
    isolated = True
    time_limit = 5.0
    memory_limit = 2 * 2**30

    def __init__(self, options: Any = None, id: str = ""):
        super().__init__(NoOptions() if options is None else options, id or type(self).__name__)
        self._told = False
        self._rewards: IsolatedReward | None = None

    @abstractmethod
    def prompt(self, random: np.random.Generator) -> tuple[str, Any]:
        """A prompt, and what `score` needs to know of its answer. All randomness comes from `random`."""

    @abstractmethod
    def score(self, answer: Any, completion: str) -> float:
        """The reward of a completion; a right one has 1."""

    def prepare(self) -> None:
        """Load what scores need and takes long: called before the first score, and not counted as its time."""

    def solution(self, answer: Any) -> str:
        """A right completion, which models are taught by; unless overridden, the answer itself."""
        return str(answer)

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

    def reward(self, answer: Any, completion: str) -> tuple[float, bool | None]:
        """The score of a completion, and whether it failed and is 0 (None: it is not isolated)."""
        if not self.isolated:
            return float(self.score(answer, completion)), None
        if self._rewards is None:
            self._rewards = IsolatedReward(self)
        return self._rewards(answer, completion)

    def seconds_per_score(self) -> float:
        """How long a score may take."""
        return float(getattr(self.options, "time_limit", self.time_limit))

    def close(self) -> None:
        """End the process that scores, if there is one; the next score starts another."""
        if self._rewards is not None:
            self._rewards.close()

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

    `info` has "success", whether the reward is at least 1, and as metrics "correct", the same as a number, and where
    scores are isolated "failed_rewards", whether this one failed.
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
        reward, failed = self.task.reward(self._answer, self._completion)
        metrics = {"correct": float(reward >= 1)}
        if failed is not None:
            metrics["failed_rewards"] = float(failed)
        return self._prompt, reward, True, False, {"success": reward >= 1, "metrics": metrics}

    def render(self) -> str | None:
        """The prompt, and the completion that it got."""
        return f"{self._prompt}{self._completion}" if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End what the task has started."""
        self.task.close()


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is one of the tenth that training never shows."""
    return hash_of(prompt) < HELD_OUT * 2**64


def hash_of(prompt: str) -> int:
    """A number below 2^64 that depends on the prompt alone, in every process."""
    return int.from_bytes(hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _pair(made: Any) -> tuple[str, Any]:
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], str) and made[0]):
        raise EnvironmentFault(
            f"prompt() returned {briefly(made)}: expected a tuple of a non-empty string and an answer"
        )
    return made

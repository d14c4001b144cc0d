"""Addition of two numbers, as a task for language models."""

from __future__ import annotations

import numpy as np

from bitrl.core.environments.prompt_task import PromptTask
from bitrl.plugins.envs.grading import graded


class Addition(PromptTask):
    """Add two numbers of at most `env.digits` digits: "Add 27 + 58 =" asks for "85".

    Reward: 1 if it is right; else the share of right digits, place by place from the right (`env.partial`).
    """

    isolated = False
    longest_prompt = 100

    def prompt(self, random: np.random.Generator) -> tuple[str, str]:
        """Both numbers are uniform from 0 to 10^digits - 1."""
        a, b = random.integers(10**self.options.digits, size=2).tolist()
        return f"Add {a} + {b} =", str(a + b)

    def score(self, answer: str, completion: str) -> float:
        """See the class."""
        return graded(answer[::-1], completion.strip()[::-1], self.options.partial)

"""Tasks for language models that put characters into another order."""

from __future__ import annotations

import string

import numpy as np

from bitrl.core.environments.prompt_task import PromptTask
from bitrl.plugins.envs.grading import graded


class SortDigits(PromptTask):
    """Sort digits: "Sort the digits 3817260594:" asks for "0123456789".

    Reward: 1 if it is right; else the share of places with the right digit (`env.partial`).
    """

    isolated = False
    longest_prompt = 200

    def prompt(self, random: np.random.Generator) -> tuple[str, str]:
        """`env.length` digits, each uniform."""
        digits = "".join(map(str, random.integers(10, size=self.options.length)))
        return f"Sort the digits {digits}:", "".join(sorted(digits))

    def score(self, answer: str, completion: str) -> float:
        """See the class."""
        return graded(answer, completion, self.options.partial)


class ReverseWord(PromptTask):
    """Write a made-up word backwards: "Reverse the word smolta:" asks for "atloms".

    Reward: 1 if it is right; else the share of places with the right letter (`env.partial`).
    """

    isolated = False
    longest_prompt = 200

    def prompt(self, random: np.random.Generator) -> tuple[str, str]:
        """`env.length` letters from a to z, each uniform."""
        word = "".join(string.ascii_lowercase[i] for i in random.integers(26, size=self.options.length))
        return f"Reverse the word {word}:", word[::-1]

    def score(self, answer: str, completion: str) -> float:
        """See the class."""
        return graded(answer, completion, self.options.partial)

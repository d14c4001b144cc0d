"""A task that any model is partly right at, and to a different degree each time: for what a step of learning takes."""

from __future__ import annotations

from typing import Any

import bitrl

TOPICS = ("a river", "the sea", "winter", "a clock", "bread", "the moon", "a horse", "a long road")


class ShareOfVowels(bitrl.PromptTask):
    """Asks for a text; the score is the share of vowels among its letters."""

    isolated = False

    def prompt(self, random: Any) -> tuple[str, None]:
        """A topic, in a year, so that prompts are many."""
        return f"In the year {random.integers(1000, 2000)}, this was written about {random.choice(TOPICS)}:", None

    def score(self, answer: None, completion: str) -> float:
        """The share; 0 without letters."""
        letters = [letter for letter in completion.lower() if letter.isalpha()]
        return sum(letter in "aeiou" for letter in letters) / max(len(letters), 1)

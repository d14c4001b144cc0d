"""Tasks whose scores are right, or go wrong in every way: for failing_rewards.py. Imports little, and starts soon."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import numpy as np

import bitrl

WAYS = ("raise", "nan", "none", "exit")
HANGS = 1000  # of so many scores, one


def drawn(answer: int, completion: str) -> int:
    """A number that depends on these alone."""
    return int.from_bytes(hashlib.blake2b(f"{answer} {completion}".encode(), digest_size=4).digest())


def way_of(number: int) -> str | None:
    """In which way a score fails, if it does: half of them do."""
    if number % HANGS == 0:
        return "hang"
    return WAYS[number // 2 % len(WAYS)] if number % 2 else None


class Right(bitrl.PromptTask):
    """Asks for anything; a completion's reward is drawn by its hash."""

    def prompt(self, random: np.random.Generator) -> tuple[str, int]:
        number = int(random.integers(10**6))
        return f"Reverse the word {number}:", number

    def score(self, answer: int, completion: str) -> float:
        return drawn(answer, completion) % 11 / 10


class Failing(Right):
    """The same, but half of its scores fail."""

    def score(self, answer: int, completion: str) -> Any:
        way = way_of(drawn(answer, completion))
        if way == "raise":
            raise ValueError("no score")
        if way == "nan":
            return float("nan")
        if way == "exit":
            os._exit(3)
        while way == "hang":
            time.sleep(1)
        return None if way == "none" else super().score(answer, completion)

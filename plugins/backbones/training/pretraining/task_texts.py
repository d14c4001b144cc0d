"""Prompts of tasks with right completions, as token batches, and the vocabulary that they are written in.

Knows how tasks become texts and tokens. Does not know losses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.prompt_task import PromptTask
from bitrl.core.errors import UsageError
from bitrl.plugins.backbones.training.pretraining.vocabulary import Vocabulary

END = "<|end|>"
"""The token that ends a completion."""

EXAMPLES = 200
"""Prompts of each task in which the words are looked for that all of its prompts share."""


def load_tasks(names: Sequence[str]) -> list[PromptTask]:
    """The tasks called so.

    Raises:
        UsageError: an environment is no task, or there is none of that name.
    """
    tasks = []
    for name in names:
        task = load_environment(name)
        if not isinstance(task, PromptTask):
            raise UsageError(f"--tasks {name}: expected tasks for language models, such as reverse-word")
        tasks.append(task)
    return tasks


def examples(task: PromptTask, random: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Prompts that are not held out, each with a right completion."""
    drawn = (task.draw(random, held_out=False) for _ in range(count))
    return [(prompt, task.solution(answer)) for prompt, answer in drawn]


def task_vocabulary(tasks: Sequence[PromptTask], seed: int) -> Vocabulary:
    """All bytes, the words that the prompts of a task share (one token each), and an end token. Letters are
    not merged: each is the same token wherever it stands.
    """
    random = np.random.default_rng(seed)
    phrases: set[str] = set()
    for task in tasks:
        phrases |= _shared([prompt for prompt, _ in examples(task, random, EXAMPLES)])
    zero = "Ā"  # the byte 0: a file must have a merge, and no prompt has two of these
    tokens = [*sorted(ByteLevel.alphabet()), zero + zero, *sorted(phrases), END]
    return Vocabulary(tokens, [f"{zero} {zero}"], frozenset(phrases), pre="gpt-2", end=END)


def _shared(prompts: Sequence[str]) -> set[str]:
    """What all prompts begin with, and what stands between numbers in most of them; each of several characters."""
    least, greatest = min(prompts), max(prompts)
    alike = next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), len(least))
    first = re.split(r"\d", least[:alike])[0]
    between = Counter(part for prompt in prompts for part in {*re.split(r"\d+", prompt[len(first) :])})
    return {part for part in (first, *(p for p, n in between.items() if n > len(prompts) / 2)) if len(part) > 1}


@attrs.frozen
class Completions:
    """Tokens int64 [B, T] of prompts with their completions, padded on the right, and the places [B, T - 1] whose next
    token the model learns to predict: those of completions.
    """

    tokens: Tensor
    learned: Tensor


class TaskTexts:
    """An endless, seeded stream of batches, each task as often as the others."""

    def __init__(self, tasks: Sequence[PromptTask], tokenizer: Tokenizer, budget: int):
        """`budget`: tokens of a batch, about."""
        self.tasks, self.tokenizer = tasks, tokenizer
        self.end = tokenizer.get_vocab()[END]
        lengths = [len(row) for row, _ in self._rows(np.random.default_rng(0), EXAMPLES)]
        self.count = max(1, round(budget / float(np.mean(lengths)) / len(tasks)))

    def _rows(self, random: np.random.Generator, count: int) -> list[tuple[list[int], int]]:
        """Tokens of `count` texts of each task, and how many of them are the prompt's."""
        pairs = [pair for task in self.tasks for pair in examples(task, random, count)]
        prompts, completions = (
            [each.ids for each in self.tokenizer.encode_batch(list(texts))] for texts in zip(*pairs, strict=True)
        )
        return [([*p, *c, self.end], len(p)) for p, c in zip(prompts, completions, strict=True)]

    def batch(self, random: np.random.Generator) -> Completions:
        """Texts of all tasks."""
        rows = self._rows(random, self.count)
        longest = max(len(tokens) for tokens, _ in rows)
        tokens, learned = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest - 1), bool)
        for i, (ids, prompt) in enumerate(rows):
            tokens[i, : len(ids)] = ids
            learned[i, prompt - 1 : len(ids) - 1] = True
        return Completions(torch.from_numpy(tokens), torch.from_numpy(learned))

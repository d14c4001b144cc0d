"""Any task of the package reasoning-gym, as a task for language models."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from bitrl.core.environments.prompt_task import PromptTask
from bitrl.core.errors import UsageError, cause, unknown
from bitrl.core.wording import pip, setting

SEED = 0
"""Of all data sets: which of a task's items there are depends on its settings alone."""

ITEMS = 2**31 - 1
"""Items of a data set; they are generated when they are asked for."""


class ReasoningGym(PromptTask):
    """A task of reasoning-gym by its name there (`env.task`), with settings as JSON (`env.settings`).

    Its own function scores completions: 1 is right, and some tasks give a part for what is partly right. It runs in a
    process of its own.
    """

    longest_prompt = 20_000

    @cached_property
    def data(self) -> Any:
        """The task's data set. Raises UsageError as `data_set`."""
        return data_set(self.id, self.options.task, self.options.settings)

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new environment. Raises UsageError as `data_set`."""
        _ = self.data
        return super().make(render_mode)

    def prepare(self) -> None:
        """Import the package, which takes seconds on a small machine."""
        _ = self.data

    def prompt(self, random: np.random.Generator) -> tuple[str, int]:
        """The question of an item, and its number, by which the item is generated again to score it."""
        index = int(random.integers(ITEMS))
        return str(self.data[index]["question"]), index

    def solution(self, answer: int) -> str:
        """The item's own answer."""
        return str(self.data[answer]["answer"])

    def score(self, answer: int, completion: str) -> float:
        """As reasoning-gym scores it."""
        return float(self.data.score_answer(completion.strip(), self.data[answer]))


def data_set(id: str, task: str | None, settings: str) -> Any:
    """The data set of a task with these settings.

    Raises:
        UsageError: reasoning-gym is not installed, it has no such task, or the task does not take the settings.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        install = pip("install 'bitrl[tasks]'")
        raise UsageError(f"environment {id} needs the package reasoning-gym ({cause(error)}): {install}") from None
    if task is None:
        raise UsageError(f"environment {id} needs the name of a task: {setting('env.task', 'leg_counting')}")
    if task not in DATASETS:
        raise unknown("task of reasoning-gym", task, DATASETS)
    try:
        values = json.loads(settings)
    except ValueError as error:
        raise UsageError(f'env.settings: is not JSON ({error}): for example {{"max_animals": 5}}') from None
    if not isinstance(values, dict):
        raise UsageError(f'env.settings: expected a JSON object such as {{"max_animals": 5}}, got {settings:.60}')
    try:
        return reasoning_gym.create_dataset(task, seed=SEED, size=ITEMS, **values)
    except Exception as error:  # what a task's own checks raise
        raise UsageError(f"env.settings: task {task} does not take {settings:.100}: {cause(error)}") from None

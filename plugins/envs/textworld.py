"""TextWorld cooking as a Gymnasium environment: read a recipe, find and prepare its ingredients, cook, eat.

A state is a text. It says what a player knows: the recipe once it was read, the room and what lies open in it, what is
carried, and the game's answer to the last command. What may be done changes from step to step and stands in the `info`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium

from bitrl.plugins.envs.textworld_games import Cooking, games_of, require_textworld
from bitrl.plugins.envs.textworld_rules import Rules, rules

LONGEST_TEXT = 2000
MOST_COMMANDS = 100
TASK = "cook the recipe and eat the meal."


class CookingGame(gymnasium.Env):
    """Games of one difficulty; each episode plays one of them, drawn by the seed.

    Observation: Text. Action: Discrete, an index into `info["admissible_commands"]` (a sorted list of texts); an index
    beyond its end does nothing. Reward: the points won by the step, of a total of 1. An episode ends when the meal is
    eaten (`info["success"]`) or an ingredient is spoilt, and is cut off after `max_steps`.

    With `walkthrough`, `info` also has "policy_commands": a way to win from here, for tests and for sampling states.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium's name and type)

    def __init__(
        self,
        settings: Cooking,
        games: Sequence[int],
        max_steps: int = 50,
        walkthrough: bool = False,
        render_mode: str | None = None,
    ):
        """Games that the cache does not have are made when the first of them is played, all of them.

        Args:
            settings: the difficulty.
            games: the seeds of the games.
            max_steps: an episode's length at most.
            walkthrough: whether `info` has "policy_commands"; takes as long again as the rest of a step.
            render_mode: None or "ansi".

        Raises:
            UsageError: TextWorld is not installed.
        """
        require_textworld()
        self.settings, self.games = settings, games
        self.files: dict[int, Path] = {}
        self.max_steps, self.walkthrough, self.render_mode = max_steps, walkthrough, render_mode
        self.observation_space = gymnasium.spaces.Text(LONGEST_TEXT, min_length=0, charset=string.printable)
        self.action_space = gymnasium.spaces.Discrete(MOST_COMMANDS)
        self.commands: list[str] = []
        self._progress: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a game: one drawn at random, or `options={"game": i}`, the i-th.

        Raises:
            RunFailed: it could not be made.
        """
        super().reset(seed=seed)
        index = int(self.np_random.integers(len(self.games)))
        if options and "game" in options:
            index = range(len(self.games))[options["game"]]
        if index not in self.files:
            self.files = dict(enumerate(games_of(self.settings, self.games)))
        self.game = self.files[index]
        self.rules: Rules = rules(self.game)
        self.facts = self.rules.start
        self.reached, _ = self.rules.reached(self.facts, frozenset())
        self.recipe, self.answer, self.steps = "not read", "", 0
        if self.walkthrough:
            from textworld.generator.game import GameProgression

            self._progress = GameProgression(self.rules.game)
        return self._observe()

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Give the command of that index."""
        self.steps += 1
        lost, points = False, self.rules.score(self.reached)
        self.answer = "nothing happens."
        if int(action) < len(self.commands):
            command = self.commands[int(action)]
            effect = self.rules.situation(self.facts).effects[command]
            self.answer = effect.answer
            if command == "examine cookbook":
                self.recipe = self.rules.recipe
            if effect.added or effect.removed:
                self._follow(command)
                self.facts = (self.facts - effect.removed) | effect.added
                self.reached, lost = self.rules.reached(self.facts, self.reached)
        won = self.rules.won(self.reached)
        reward = (self.rules.score(self.reached) - points) / self.rules.max_score
        truncated = not (won or lost) and self.steps >= self.max_steps
        text, info = self._observe()
        if won or lost or truncated:
            info["success"] = won
        return text, reward, won or lost, truncated, info

    def render(self) -> str | None:
        """What the player sees."""
        return self._text() if self.render_mode == "ansi" else None

    def _follow(self, command: str) -> None:
        """Have TextWorld's walkthrough start from the state after `command`."""
        if self._progress is not None:
            self._progress.update(self.rules.named(self._progress.valid_actions)[command])

    def _observe(self) -> tuple[str, dict[str, Any]]:
        effects = self.rules.situation(self.facts).effects
        self.commands = [command for command in effects if worthwhile(command)][:MOST_COMMANDS]
        way = self.rules.words.gen_commands_from_actions(self._progress.winning_policy or ()) if self._progress else ()
        info = {
            "admissible_commands": list(self.commands),
            "policy_commands": list(way),
            "game": self.game.parent.name,
        }
        return self._text(), info

    def _text(self) -> str:
        parts = (f"{TASK} recipe: {self.recipe}.", self.rules.situation(self.facts).scene, self.answer)
        return " ".join(part for part in parts if part)[:LONGEST_TEXT]


def worthwhile(command: str) -> bool:
    """Whether a command may change something: the text already says what looking around would."""
    return command == "examine cookbook" or not re.match(r"examine |look$|inventory$", command)

"""TextWorld's cooking games for `bitrl run`: some games to learn in, and others to be judged by."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium

from bitrl.core.environments.choice_wrappers import Commands
from bitrl.core.environments.environment import Environment
from bitrl.core.interfaces import ObservationSpec
from bitrl.plugins.envs import CookingOptions
from bitrl.plugins.envs.textworld import CookingGame
from bitrl.plugins.envs.textworld_games import Cooking, Split, require_textworld

HELD_OUT = 100_000
"""The seed of the first game that is only ever played in evaluation."""


class TextWorldCooking(Environment):
    """Read a recipe, find its ingredients, cut and cook them as it says, prepare the meal and eat it.

    A state is one text and says what a player knows: the recipe once it was read, the room and what lies open in it,
    what is carried, and the game's answer to the last command. An action is one of the commands that can be given in
    it. Each thing done well is a point, the reward its share of all; a game is won when the meal is eaten, and lost
    when an ingredient is spoilt. What is learnt in and what is judged by are different games.
    """

    options: CookingOptions

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """The games to learn in. Those that are not in the cache are made when they are played first.

        Raises:
            UsageError: TextWorld is not installed.
        """
        return self._games("train", range(self.options.games), render_mode)

    def make_for_evaluation(self, render_mode: str | None = None) -> gymnasium.Env:
        """The games to be judged by; as `make`."""
        seeds = range(HELD_OUT, HELD_OUT + self.options.eval_games)
        return self._games(self.options.eval_foods, seeds, render_mode)

    def observation_spec(self) -> ObservationSpec:
        """One text, and commands."""
        require_textworld()
        return ObservationSpec(self.id, texts=("state",), commands=True)

    def _games(self, split: Split, seeds: Sequence[int], render_mode: str | None) -> gymnasium.Env:
        options = self.options
        settings = Cooking(
            recipe=options.recipe,
            take=options.take,
            cook=options.cook,
            cut=options.cut,
            open=options.open,
            go=options.go,
            drop=options.drop,
            split=split,
        )
        game = CookingGame(settings, seeds, options.max_steps, render_mode=render_mode)
        space = gymnasium.spaces.Dict({"state": game.observation_space})
        return Commands(gymnasium.wrappers.TransformObservation(game, lambda text: {"state": text}, space))

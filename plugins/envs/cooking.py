"""TextWorld's cooking games for `bitrl run`: training games, and held-out ones for evaluation."""

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
"""The seed of the first game that is played in evaluation only."""


class TextWorldCooking(Environment):
    """Read a recipe, find its ingredients, cut and cook them as it says, prepare the meal and eat it.

    The observation is one string with what the player knows: the recipe once it was read, the room and what is visible
    in it, the inventory, and the game's reply to the last command. The action is one of the admissible commands. Each
    subgoal is worth a point, and the reward is its share of all points; a game is won when the meal is eaten, and lost
    when an ingredient is spoilt. Training and evaluation play different games.
    """

    options: CookingOptions

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """The training games. Those that are not in the cache are made when they are first played.

        Raises:
            UsageError: TextWorld is not installed.
        """
        return self._games("train", range(self.options.games), render_mode)

    def make_for_evaluation(self, render_mode: str | None = None) -> gymnasium.Env:
        """The evaluation games; as `make`."""
        seeds = range(HELD_OUT, HELD_OUT + self.options.eval_games)
        return self._games(self.options.eval_foods, seeds, render_mode)

    def observation_spec(self) -> ObservationSpec:
        """One text, and admissible commands."""
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

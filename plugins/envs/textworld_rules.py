"""A cooking game played by TextWorld's own rules, without the interpreter that games are compiled for.

What can be done in a state, and what comes of it, follows from the state's facts alone. So each state is worked out
once, when it is met, and kept while there is room: agents meet the same ones again and again, the better they get the
more so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from bitrl.plugins.envs.textworld_matching import Fact, Matcher
from bitrl.plugins.envs.textworld_words import COOKED, CUT, answer_to, recipe_of, scene

KEPT_SITUATIONS, KEPT_GAMES = 400, 128
"""States that are remembered of each game, of about 5 KB each, and games."""

MEAL = "prepare meal"

Facts = frozenset[Any]
"""A state: TextWorld's propositions."""


@attrs.frozen
class Effect:
    """What a command does: the facts it ends, those it begins, and the game's answer to it."""

    removed: Facts
    added: Facts
    answer: str


@attrs.frozen
class Situation:
    """What can be seen in a state, and each command that can be given with its effect, in the order of their names."""

    scene: str
    effects: dict[str, Effect]


@attrs.frozen
class Goal:
    """Something that earns a point when one of `wins` holds, and loses the game when one of `losses` holds before."""

    reward: int
    wins: tuple[Facts, ...]
    losses: tuple[Facts, ...]


class Rules:
    """One game.

    Attributes:
        start: the state it starts in.
        recipe: as in `recipe_of`.
        goals: what is to be reached.
        max_score: the sum of their rewards.
        game, words: TextWorld's own record of it, and how it names things.
    """

    def __init__(self, file: Path):
        import textworld
        from textworld.generator.inform7 import Inform7Game

        self.game = textworld.Game.load(str(file))
        self.start: Facts = frozenset(self.game.world.state.facts)
        self.recipe = next(recipe_of(info.desc) for info in self.game.infos.values() if info.name == "cookbook")
        self.goals = [
            Goal(
                quest.reward,
                tuple(frozenset(event.condition.preconditions) for event in quest.win_events),
                tuple(frozenset(event.condition.preconditions) for event in quest.fail_events),
            )
            for quest in self.game.quests
        ]
        self.max_score = self.game.max_score
        # What the recipe asks for, and the food it is to be made of.
        self._ingredients = sorted(
            (fact.arguments[1].name, fact.arguments[0].name) for fact in self.start if fact.name == "base"
        )
        self.words = Inform7Game(self.game)
        kb = self.game.kb
        things = {thing for fact in self.start for thing in fact.arguments} | {*kb.types.constants_mapping.values()}
        self._things = {thing.name: thing for thing in things}
        # Of the rules that prepare a meal, the one for a recipe of so many ingredients comes last, and stays.
        ordered = sorted(kb.rules.values(), key=lambda rule: len(rule.preconditions))
        self._matchers = [Matcher(rule, kb) for rule in ordered]
        self._facts: dict[Any, tuple[Fact, Any]] = {}
        self._commands: dict[tuple[int, tuple[str, ...]], tuple[str, Effect]] = {}
        self.situation = functools.lru_cache(KEPT_SITUATIONS)(self._situation)

    def _situation(self, facts: Facts) -> Situation:
        said = [self._say(fact) for fact in facts]
        by_name: dict[str, list[Fact]] = {}
        for fact, _ in said:
            by_name.setdefault(fact.name, []).append(fact)
        effects = dict(
            self._command(index, binding)
            for index, matcher in enumerate(self._matchers)
            for binding in matcher.bindings(by_name)
        )
        missing = self._unready(facts) if MEAL in effects else None
        if missing:
            effects[MEAL] = Effect(frozenset(), frozenset(), missing)
        return Situation(scene(words for _, words in said), dict(sorted(effects.items())))

    def named(self, actions: Iterable[Any]) -> dict[str, Any]:
        """TextWorld's actions by their commands."""
        ordered = sorted(actions, key=lambda action: len(action.preconditions))
        return dict(zip(self.words.gen_commands_from_actions(ordered), ordered, strict=True))

    def _say(self, fact: Any) -> tuple[Fact, Any]:
        """A fact as it is matched, and with the names that people read; worked out once."""
        if fact not in self._facts:
            things, types = (tuple(getattr(each, of) for each in fact.arguments) for of in ("name", "type"))
            self._facts[fact] = Fact(fact.name, things, types), self.words.get_human_readable_fact(fact)
        return self._facts[fact]

    def _command(self, index: int, binding: tuple[str, ...]) -> tuple[str, Effect]:
        """The command for the rule of this index with these things, and its effect; worked out once."""
        if (index, binding) not in self._commands:
            action = self._matchers[index].action(binding, self._things)
            (command,) = self.words.gen_commands_from_actions([action])
            effect = Effect(frozenset(action.removed), frozenset(action.added), answer_to(command, action.added))
            self._commands[index, binding] = command, effect
        return self._commands[index, binding]

    def _unready(self, facts: Facts) -> str | None:
        """What keeps the meal from being prepared. The interpreted game asks for all of this; by TextWorld's rules one
        ingredient, raw, would do.
        """
        held = {fact.arguments[0].name for fact in facts if fact.name == "in" and fact.arguments[1].name == "I"}
        done = {(fact.name, fact.arguments[0].name) for fact in facts if len(fact.arguments) == 1}
        if any(food not in held for _, food in self._ingredients):
            return "you still miss something."
        for states, what in ((COOKED.values(), "cooked"), (CUT.values(), "cut")):
            for wanted, food in self._ingredients:
                if any(((state, wanted) in done) != ((state, food) in done) for state in states):
                    return f"something still needs to be {what}."
        return None

    def reached(self, facts: Facts, before: frozenset[int]) -> tuple[frozenset[int], bool]:
        """Of the goals' indices those reached in this state or `before`, and whether the game is lost."""
        now, lost = set(before), False
        for index, goal in enumerate(self.goals):
            if index in before:
                continue
            if any(win <= facts for win in goal.wins):
                now.add(index)
            elif any(loss <= facts for loss in goal.losses):
                lost = True
        return frozenset(now), lost

    def score(self, reached: Iterable[int]) -> int:
        """The points for these goals."""
        return sum(self.goals[index].reward for index in reached)

    def won(self, reached: frozenset[int]) -> bool:
        """Whether all that can be reached has been."""
        return all(index in reached for index, goal in enumerate(self.goals) if goal.wins)


@functools.lru_cache(KEPT_GAMES)
def rules(file: Path) -> Rules:
    """The rules of the game in this file, read once in a process."""
    return Rules(file)

"""TextWorld cooking as a Gymnasium environment: read a recipe, find and prepare its ingredients, cook, eat.

A state is a text. It says what a player knows: the recipe once it was read, the room and what lies open in it, what is
carried, and the game's answer to the last command, each in as few words as will do (TextWorld's own descriptions say
the same in four times as many). What may be done changes from step to step and stands in the `info`.
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from bitrl.plugins.envs.textworld_games import Cooking, game, require_textworld

LONGEST_TEXT = 2000
MOST_COMMANDS = 100
TASK = "cook the recipe and eat the meal."

_CUT = {"chop": "chopped", "slice": "sliced", "dice": "diced"}
_COOKED = {"fry": "fried", "roast": "roasted", "grill": "grilled"}
_STATES = (*_CUT.values(), *_COOKED.values(), "burned")
_OPENABLE = {"open": "open", "closed": "closed", "locked": "locked"}


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
        """Makes the games first, where the cache does not have them (about 5 s each).

        Args:
            settings: the difficulty.
            games: the seeds of the games.
            max_steps: an episode's length at most.
            walkthrough: whether `info` has "policy_commands"; takes as long again as the rest of a step.
            render_mode: None or "ansi".

        Raises:
            UsageError: TextWorld is not installed. RunFailed: it could not make a game.
        """
        require_textworld()
        self.games = [game(settings, seed) for seed in games]
        self.max_steps, self.walkthrough, self.render_mode = max_steps, walkthrough, render_mode
        self.observation_space = gymnasium.spaces.Text(LONGEST_TEXT, min_length=0, charset=string.printable)
        self.action_space = gymnasium.spaces.Discrete(MOST_COMMANDS)
        self.commands: list[str] = []
        self.game: Path | None = None
        self._player: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a game: one drawn at random, or `options={"game": i}`, the i-th."""
        super().reset(seed=seed)
        index = int(self.np_random.integers(len(self.games)))
        if options and "game" in options:
            index = options["game"]
        self._load(self.games[index])
        self.state = self._player.reset()
        self.recipe, self.answer, self.steps, self.points = "not read", "", 0, 0
        return self._text(), self._info()

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Give the command of that index."""
        self.steps += 1
        done = False
        if int(action) < len(self.commands):
            command = self.commands[int(action)]
            self.state, _, done = self._player.step(command)
            self.answer = answer_of(self.state.feedback)
            if command == "examine cookbook":
                self.recipe, self.answer = recipe_of(self.state.feedback), "you read the cookbook."
        else:
            self.answer = "nothing happens."
        reward = (self.state.score - self.points) / self.state.max_score
        self.points = self.state.score
        truncated = not done and self.steps >= self.max_steps
        info = self._info()
        if done or truncated:
            info["success"] = bool(self.state.won)
        return self._text(), reward, bool(done), truncated, info

    def render(self) -> str | None:
        """What the player sees, in TextWorld's own words."""
        return f"{self.state.description}\n\n{self.state.inventory}" if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End the game."""
        if self._player is not None:
            self._player.close()
            self._player = self.game = None

    def _load(self, file: Path) -> None:
        if file == self.game:
            return
        import textworld

        self.close()
        wanted = textworld.EnvInfos(
            facts=True, description=True, inventory=True, admissible_commands=True,
            policy_commands=self.walkthrough, score=True, max_score=True, won=True, lost=True,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Jericho's, that it has no scores of its own for this game
            self._player, self.game = textworld.start(str(file), wanted), file

    def _info(self) -> dict[str, Any]:
        self.commands = sorted(filter(worthwhile, self.state.admissible_commands))[:MOST_COMMANDS]
        return {
            "admissible_commands": list(self.commands),
            "policy_commands": list(self.state.policy_commands or ()),
            "game": self.game.parent.name if self.game else None,
        }

    def _text(self) -> str:
        parts = (f"{TASK} recipe: {self.recipe}.", scene(self.state.facts), self.answer)
        return " ".join(part for part in parts if part)[:LONGEST_TEXT]


def worthwhile(command: str) -> bool:
    """Whether a command may change something: the text already says what looking around would."""
    return command == "examine cookbook" or not re.match(r"examine |look$|inventory$", command)


def recipe_of(cookbook: str) -> str:
    """What the cookbook asks for, as food is named elsewhere in a state: "sliced roasted red potato, salt"."""
    ingredients, _, directions = cookbook.partition("Ingredients:")[2].partition("Directions:")
    wanted = {name.strip(): "" for name in ingredients.splitlines() if name.strip()}
    for line in directions.splitlines():
        verb, _, food = line.strip().partition(" the ")
        if food in wanted:
            wanted[food] += f"{(_CUT | _COOKED).get(verb, verb)} "
    return ", ".join(done + food for food, done in wanted.items())


def answer_of(feedback: str) -> str:
    """The first sentence of the game's answer to a command; nothing where it only describes the room."""
    words = " ".join(feedback.partition("\n>")[0].split())
    sentence = re.split(r"(?<=[.!?])\s|, revealing|Your score", words)[0].strip().rstrip(".,")
    return "" if not sentence or sentence.startswith("-=") else f"{sentence[0].lower()}{sentence[1:120]}."


def scene(facts: Iterable[Any]) -> str:
    """The room the player is in, from TextWorld's facts; what is in closed containers or other rooms stays unsaid.

    Of the form "kitchen: closed fridge, stove; on table: cookbook; in open oven: nothing; exits: closed wooden door
    east, north. carrying sliced red potato."
    """
    kept = list(facts)
    names: dict[str, str] = {}  # variable → the thing's name with its state
    for fact in kept:
        for variable in fact.arguments:
            names.setdefault(variable.name, variable.name)
    for fact in kept:  # cut first, then cooked, as recipes have it
        if len(fact.arguments) == 1 and fact.name in _OPENABLE:
            names[fact.arguments[0].name] = f"{fact.name} {names[fact.arguments[0].name]}"
    burned = {fact.arguments[0].name for fact in kept if fact.name == "burned"}
    for state in reversed(_STATES):
        for fact in kept:
            if fact.name == state and not (state in _COOKED.values() and fact.arguments[0].name in burned):
                names[fact.arguments[0].name] = f"{state} {names[fact.arguments[0].name]}"
    pairs = [(fact.name, *(variable.name for variable in fact.arguments)) for fact in kept if len(fact.arguments) == 2]
    room = next(place for relation, thing, place in pairs if relation == "at" and thing == "P")
    contents = {
        thing: sorted(names[inner] for relation, inner, place in pairs if relation in ("on", "in") and place == thing)
        for thing in names
    }
    here = sorted(thing for relation, thing, place in pairs if relation == "at" and place == room and thing != "P")
    plain, holding = [], []
    for thing in here:
        if contents[thing] and not names[thing].startswith(("closed ", "locked ")):
            relation = "in" if names[thing].startswith("open ") else "on"
            holding.append(f"{relation} {names[thing]}: {', '.join(contents[thing])}")
        else:
            plain.append(names[thing])
    exits = sorted(_exits(kept, room, names))
    parts = [", ".join(plain), *holding, f"exits: {', '.join(exits)}" if exits else ""]
    carrying = ", ".join(contents.get("I", ())) or "nothing"
    return f"{room}: {'; '.join(part for part in parts if part)}. carrying {carrying}."


def _exits(facts: Iterable[Any], room: str, names: dict[str, str]) -> Iterable[str]:
    """The ways out of a room, with the door in each."""
    doors = {
        (first.name, second.name): names[door.name]
        for first, door, second in (fact.arguments for fact in facts if fact.name == "link")
    }
    for fact in facts:
        direction = re.fullmatch(r"(north|south|east|west)_of", fact.name)
        if direction and len(fact.arguments) == 2 and fact.arguments[1].name == room:
            door = doors.get((room, fact.arguments[0].name))
            yield f"{door} {direction[1]}" if door else direction[1]

"""What a cooking game says, in as few words as will do: the room, the recipe, and answers to commands.

TextWorld's own descriptions say the same in four times as many. Knows words; what holds and what can be done is the
rules' business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

CUT = {"chop": "chopped", "slice": "sliced", "dice": "diced"}
COOKED = {"fry": "fried", "roast": "roasted", "grill": "grilled"}
"""What a recipe tells to do, and what the food is then."""

_STATES = (*CUT.values(), *COOKED.values(), "burned")
_OPENABLE = ("open", "closed", "locked")

_TOOLS = {"stove": "fried", "oven": "roasted", "BBQ": "grilled"}

_ANSWERS = (
    (r"take (.+) from (.+)", r"you take the \1 from the \2."),
    (r"take (.+)", r"you pick up the \1 from the ground."),
    (r"drop (.+)", r"you drop the \1 on the ground."),
    (r"put (.+) on (.+)", r"you put the \1 on the \2."),
    (r"insert (.+) into (.+)", r"you put the \1 into the \2."),
    (r"(open|close|eat) (.+)", r"you \1 the \2."),
    (r"(chop|slice|dice) (.+) with .+", r"you \1 the \2."),
    (r"prepare meal", "adding the meal to your inventory."),
    (r"examine cookbook", "you read the cookbook."),
)


def scene(facts: Iterable[Any]) -> str:
    """The room the player is in, from TextWorld's facts; what is in closed containers or other rooms stays unsaid.

    Of the form "kitchen: closed fridge, stove, cookbook on table, egg in open fridge; exits: closed wooden door east,
    north. sliced red potato in hand." Each thing has its place right behind it: which thing is where is told by
    neighbours, not by a heading some way before them.
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
            if fact.name == state and not (state in COOKED.values() and fact.arguments[0].name in burned):
                names[fact.arguments[0].name] = f"{state} {names[fact.arguments[0].name]}"
    pairs = [(fact.name, *(variable.name for variable in fact.arguments)) for fact in kept if len(fact.arguments) == 2]
    room = next(place for relation, thing, place in pairs if relation == "at" and thing == "P")
    contents = {
        thing: sorted(names[inner] for relation, inner, place in pairs if relation in ("on", "in") and place == thing)
        for thing in names
    }
    here = sorted(thing for relation, thing, place in pairs if relation == "at" and place == room and thing != "P")
    plain, placed = [], []
    for thing in here:
        shut = names[thing].startswith(("closed ", "locked "))
        relation = "in" if names[thing].startswith("open ") else "on"
        placed += [] if shut else [f"{inner} {relation} {names[thing]}" for inner in contents[thing]]
        plain += [] if contents[thing] and not shut else [names[thing]]
    exits = sorted(_exits(kept, room, names))
    parts = [", ".join([*plain, *placed]), f"exits: {', '.join(exits)}" if exits else ""]
    held = ", ".join(f"{thing} in hand" for thing in contents.get("I", ())) or "nothing in hand"
    return f"{room}: {'; '.join(part for part in parts if part)}. {held}."


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


def answer_to(command: str, added: Iterable[Any]) -> str:
    """What the game answers to a command that worked; nothing to one that leads to another room."""
    cooked = re.fullmatch(r"cook (.+) with .+", command)
    if cooked:
        words = {fact.name for fact in added}
        done = "burned" if "burned" in words else next(word for word in COOKED.values() if word in words)
        return f"you {done} the {cooked[1]}."
    for pattern, answer in _ANSWERS:
        match = re.fullmatch(pattern, command)
        if match:
            return match.expand(answer)
    return ""


def asked_for(command: str, recipe: str) -> bool | None:
    """Whether a recipe, as in `recipe_of`, asks for the food that is taken, or for what is done to it; None of commands
    that do neither.
    """
    parts = re.fullmatch(r"(take|chop|slice|dice|cook) (.+?)(?: (?:from|with) (.+))?", command)
    if parts is None:
        return None
    verb, food, tool = parts.groups()
    done = _TOOLS.get(tool) if verb == "cook" else CUT.get(verb, "")
    for item in recipe.split(", "):
        states = item.removesuffix(food).split()
        if item.endswith(food) and set(states) <= set(_STATES):
            return done == "" or done in states
    return False


def recipe_of(cookbook: str) -> str:
    """What the cookbook asks for, as food is named elsewhere in a state: "sliced roasted red potato, salt"."""
    ingredients, _, directions = cookbook.partition("Ingredients:")[2].partition("Directions:")
    wanted = {name.strip(): "" for name in ingredients.splitlines() if name.strip()}
    for line in directions.splitlines():
        verb, _, food = line.strip().partition(" the ")
        if food in wanted:
            wanted[food] += f"{(CUT | COOKED).get(verb, verb)} "
    return ", ".join(done + food for food, done in wanted.items())

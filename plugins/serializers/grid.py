"""MiniGrid's partial views as sentences: "go to the red ball. facing east, carrying nothing. wall 3 ahead. red ball 2
ahead 1 left, blue key 1 right." The mission comes first: it stays the same for a whole episode. Of the objects in view,
those that it names come first, so that a small model always finds them in the same place.

Knows MiniGrid's codes for objects, colours and states; a test compares them with MiniGrid's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.wording import program

OBJECTS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
DOOR_STATES = ("open", "closed", "locked")
DIRECTIONS = ("east", "south", "west", "north")

_BACKGROUND = tuple(OBJECTS.index(name) for name in ("unseen", "empty", "wall", "floor"))


@attrs.frozen
class Sighting:
    """An object in view: its kind and visible properties, and its position, in steps from the agent."""

    kind: str
    colour: str | None
    state: str | None
    ahead: int
    right: int

    def __str__(self) -> str:
        name = " ".join(word for word in (self.state, self.colour, self.kind) if word)
        return f"{name} {place(self.ahead, self.right)}"


def place(ahead: int, right: int) -> str:
    """Where something is: "2 ahead 1 left", or "3 right" for what is beside the agent."""
    words = [f"{ahead} ahead"] if ahead else []
    if right:
        words.append(f"{abs(right)} {'right' if right > 0 else 'left'}")
    return " ".join(words) or "here"


def sightings(image: np.ndarray) -> list[Sighting]:
    """The objects in a view, uint8 [columns, rows, 3], nearest first; at equal distances, the one further ahead
    first.
    """
    middle, last = image.shape[0] // 2, image.shape[1] - 1
    found = []
    for column, row in np.argwhere(~np.isin(image[:, :, 0], _BACKGROUND)).tolist():
        if (column, row) != (middle, last):
            found.append(Sighting(*_names(image[column, row].tolist()), last - row, column - middle))
    return sorted(found, key=lambda seen: (seen.ahead + abs(seen.right), -seen.ahead, seen.right))


_MENTION = re.compile(rf"(?:({'|'.join(COLOURS)}) )?(ball|box|key|door|object)")


def mentions(mission: str) -> list[tuple[str | None, str | None]]:
    """The objects that a mission names, in its order: (colour, kind), None for what it leaves open ("a red object")."""
    return [(colour or None, None if kind == "object" else kind) for colour, kind in _MENTION.findall(mission)]


def meant(seen: Sighting, mentioned: Iterable[tuple[str | None, str | None]]) -> bool:
    """Whether one of the mentions may mean this object."""
    return any(colour in (None, seen.colour) and kind in (None, seen.kind) for colour, kind in mentioned)


def blocked(image: np.ndarray) -> bool:
    """Whether the cell straight ahead of the agent holds a wall or an object, be it an open door."""
    ahead = OBJECTS[image[image.shape[0] // 2, image.shape[1] - 2, 0]]
    return ahead not in ("unseen", "empty", "floor", "goal")


def carried(image: np.ndarray) -> str | None:
    """What the agent carries: it is drawn in its own cell."""
    cell = image[image.shape[0] // 2, image.shape[1] - 1].tolist()
    if cell[0] in _BACKGROUND:
        return None
    kind, colour, _ = _names(cell)
    return f"{colour} {kind}"


def walls(image: np.ndarray) -> Iterator[str]:
    """The nearest wall straight ahead, to the left and to the right, as far as each is in view."""
    middle, last = image.shape[0] // 2, image.shape[1] - 1
    kinds, wall = image[:, :, 0], OBJECTS.index("wall")
    rays = (
        ("ahead", kinds[middle, :last][::-1]),
        ("left", kinds[:middle, last][::-1]),
        ("right", kinds[middle + 1 :, last]),
    )
    for name, cells in rays:
        hits = np.flatnonzero(cells == wall)
        if len(hits):
            yield f"wall {hits[0] + 1} {name}"


def _names(cell: list[int]) -> tuple[str, str | None, str | None]:
    kind = OBJECTS[cell[0]]
    return kind, None if kind == "lava" else COLOURS[cell[1]], DOOR_STATES[cell[2]] if kind == "door" else None


class Grid:
    """The mission, the way the agent faces, what it carries, the walls next to it, and every object in view, nearest
    first after those that the mission names.

    Raises:
        UsageError: the environment is not a grid.
    """

    def __init__(self, options: Any, observation: ObservationSpec):
        if not observation.grid:
            raise UsageError(
                f"serializer grid is for MiniGrid environments, and {observation.env} is not one: "
                f"choose another serializer ({program()} list)"
            )

    def __call__(self, observation: Mapping[str, Any]) -> str:
        """One observation, the parts of a MiniGrid environment → its text."""
        image, direction, mission = (observation[name] for name in ("image", "direction", "mission"))
        near = ", ".join(walls(image))
        mentioned = mentions(mission)
        objects = sorted(sightings(image), key=lambda seen: not meant(seen, mentioned))
        seen = ", ".join(map(str, objects)) or "nothing in sight"
        parts = (mission, f"facing {DIRECTIONS[direction]}, carrying {carried(image) or 'nothing'}", near, seen)
        return ". ".join(part for part in parts if part) + "."

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n] → n texts."""
        return [self(observation) for observation in observations]

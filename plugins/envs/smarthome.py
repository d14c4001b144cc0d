"""SmartHome-Light: control a home's lamps, one level at a time, to satisfy a request in plain English (see
`SmartHome`).
"""

from __future__ import annotations

import math
import string
from typing import Any, Literal

import gymnasium
import numpy as np

from bitrl.core.environments.environment import Environment
from bitrl.core.interfaces import Field, ObservationSpec

ROOMS = ("study", "kitchen", "bedroom", "hall")
WINDOWS = {"study": 0.22, "kitchen": 0.28, "bedroom": 0.18, "hall": 0.06}
"""Daylight at noon under a clear sky, in kilolux."""
LEVEL = 0.1
"""What one level of a lamp adds, in kilolux."""
LEVELS = 4
SETTLING = 12
HOURS_A_STEP = 1 / 6

Want = Literal["bright", "dim", "dark"]
BANDS: dict[Want | Literal["lit"], tuple[float, float]] = {
    "bright": (0.30, 0.60),
    "dim": (0.05, 0.20),
    "dark": (0.0, 0.05),
    "lit": (0.15, 0.50),
}

FIELDS = (
    Field("hour", 0.0, 24.0, "h"),
    *(
        field
        for room in ROOMS
        for field in (
            Field(f"{room}_occupied", 0.0, 1.0, decimals=0),
            Field(f"{room}_daylight", 0.0, 0.3, "klx", decimals=3),
            Field(f"{room}_lamp", 0.0, LEVELS * LEVEL, "klx", decimals=3),
        )
    ),
)
SPEC = ObservationSpec("SmartHome-Light", FIELDS, texts=("request",))

ASKED: dict[Want, tuple[str, ...]] = {
    "bright": (
        "make the {room} bright enough to read",
        "I want to read in the {room}",
        "full light in the {room}",
        "I need good light in the {room}",
        "the {room} should be bright",
        "light up the {room}",
        "I am working in the {room} and must see well",
        "turn the {room} up high",
    ),
    "dim": (
        "keep the {room} dim",
        "a soft light in the {room}",
        "just a little light in the {room}",
        "make the {room} cosy",
        "the {room} should be dimly lit",
        "only a night light in the {room}",
        "turn the {room} down low",
        "a gentle glow is enough in the {room}",
    ),
    "dark": (
        "leave the {room} dark",
        "no light in the {room}",
        "lights out in the {room}",
        "the baby sleeps in the {room} so no lamp there",
        "the {room} should be dark",
        "switch the {room} off",
        "nobody needs light in the {room}",
        "keep the lamp off in the {room}",
    ),
}
_OPENINGS = ("", "", "", "please ", "hello, ", "could you do this: ", "for now ")
_JOINTS = (", but ", " and ", ", and ", "; ", ", also ", " while ")
_CLOSINGS = ("", "", "", " please", ", thank you", " tonight", " for a while")
LONGEST_REQUEST = 300


def request(rng: np.random.Generator) -> tuple[str, dict[str, Want]]:
    """A request in plain English, and the light it wants in each room it names."""
    count = int(rng.integers(2, 4))
    rooms = [ROOMS[i] for i in rng.permutation(len(ROOMS))[:count]]
    choices: tuple[Want, ...] = ("bright", "dim", "dark")
    wants: list[Want] = ["bright", choices[rng.integers(1, 3)], choices[rng.integers(3)]][:count]
    wants = [wants[i] for i in rng.permutation(count)]

    def one(phrases: tuple[str, ...]) -> str:
        return phrases[rng.integers(len(phrases))]

    clauses = [one(ASKED[want]).format(room=room) for room, want in zip(rooms, wants, strict=True)]
    text = one(_OPENINGS) + clauses[0]
    for clause in clauses[1:]:
        text += one(_JOINTS) + clause
    return text + one(_CLOSINGS), dict(zip(rooms, wants, strict=True))


class SmartHomeLight(gymnasium.Env):
    """The home.

    Observation: the parts "request" (a string) and "numbers" (float32 [13], in the order of `FIELDS`). Action:
    Discrete(9): 0 leaves all lamps as they are; 1 + 2 i turns the lamp of `ROOMS[i]` up by a level, 2 + 2 i down.
    `info` has "wants" (room → "bright", "dim" or "dark": the request parsed, for oracles and tests), "comfort",
    "energy", and at an episode's end "success".
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium's name and type)
    max_steps = 36

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.action_space = gymnasium.spaces.Discrete(1 + 2 * len(ROOMS))
        self.observation_space = gymnasium.spaces.Dict(
            {
                "request": gymnasium.spaces.Text(LONGEST_REQUEST, charset=string.ascii_letters + " ,;:."),
                "numbers": gymnasium.spaces.Box(
                    np.array([field.low for field in FIELDS], np.float32),
                    np.array([field.high for field in FIELDS], np.float32),
                ),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new request, at any hour, with the lamps as somebody left them."""
        super().reset(seed=seed)
        rng = self.np_random
        self.request, self.wants = request(rng)
        self.hour, self.sky = rng.uniform(0.0, 24.0), rng.uniform(0.3, 1.0)
        self.people = rng.random(len(ROOMS)) < 0.4
        self.levels = rng.integers(0, LEVELS + 1, len(ROOMS))
        self.steps = 0
        self.met = dict.fromkeys(self.wants, 0)
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move one lamp, or none; the reward is for the light that this makes, before the environment moves on."""
        room, down = divmod(int(action) - 1, 2)
        if action > 0:
            self.levels[room] = np.clip(self.levels[room] + (-1 if down else 1), 0, LEVELS)
        info = self._info()
        self.steps += 1
        if self.steps > SETTLING:
            for name in self.wants:
                self.met[name] += self.miss(name) == 0
        truncated = self.steps >= self.max_steps
        if truncated:
            info["success"] = all(met >= 0.75 * (self.max_steps - SETTLING) for met in self.met.values())
        self._drift()
        return self._observation(), float(info["comfort"] - 0.3 * info["energy"]), False, truncated, info

    def render(self) -> str | None:
        """The request, and a line for each room."""
        if self.render_mode != "ansi":
            return None
        rows = zip(ROOMS, self.people, self._daylight(), self.levels, strict=True)
        lines = [f"{name:8} people {int(p)}  daylight {d:.3f}  lamp {'*' * int(n)}" for name, p, d, n in rows]
        return "\n".join([f"{self.request} ({int(self.hour):02}:{int(self.hour % 1 * 60):02})", *lines])

    def band(self, room: str) -> tuple[float, float] | None:
        """The light that a room needs, in kilolux; None if none."""
        if room in self.wants:
            return BANDS[self.wants[room]]
        return BANDS["lit"] if self.people[ROOMS.index(room)] else None

    def miss(self, room: str) -> float:
        """How far a room's light is from what it needs, in kilolux; excess daylight does not count."""
        band = self.band(room)
        if band is None:
            return 0.0
        lamp = LEVEL * self.levels[ROOMS.index(room)]
        light = lamp + self._daylight()[ROOMS.index(room)]
        far = band[0] - light if light < band[0] else min(light - band[1], lamp)
        return far if far > 1e-6 else 0.0

    def _info(self) -> dict[str, Any]:
        weights = [2.0 if room in self.wants else float(self.band(room) is not None) for room in ROOMS]
        comfort = [max(0.0, 1.0 - self.miss(room) / 0.15) for room in ROOMS]
        return {
            "wants": dict(self.wants),
            "comfort": float(np.average(comfort, weights=weights)),
            "energy": float(self.levels.mean() / LEVELS),
        }

    def _drift(self) -> None:
        """Ten minutes pass: the sun and the clouds move, and perhaps somebody."""
        rng = self.np_random
        self.hour = (self.hour + HOURS_A_STEP) % 24
        self.sky = float(np.clip(self.sky + 0.05 * rng.standard_normal(), 0.3, 1.0))
        self.people = self.people ^ (rng.random(len(ROOMS)) < 0.05)

    def _daylight(self) -> np.ndarray:
        sun = max(0.0, math.sin(math.pi * (self.hour - 6) / 12))
        return np.array([WINDOWS[room] for room in ROOMS]) * sun * self.sky

    def _observation(self) -> dict[str, Any]:
        rooms = np.stack([self.people, self._daylight(), LEVEL * self.levels], axis=1)
        return {"request": self.request, "numbers": np.array([self.hour, *rooms.ravel()], np.float32)}


class SmartHome(Environment):
    """Control a home's lamps, one level at a time, to satisfy a request in plain English.

    Four rooms have a lamp each. Daylight comes and goes with the hour and the clouds, people walk from room to room,
    and for one evening or morning (36 steps of ten minutes) a request holds: "make the study bright enough to read, but
    leave the hall dark". Light is in kilolux: a lamp has five levels from 0 to 0.4, windows give 0.28 at most.

    What a room needs:

        asked to be bright   0.30 to 0.60
        asked to be dim      0.05 to 0.20
        asked to be dark     0.05 at most
        not mentioned        0.15 to 0.50 while somebody is in it, else nothing

    A room that is too bright by daylight alone counts as satisfied once its lamp is off. The reward of a step is the
    comfort, the mean over the rooms that need something of 1 where the need is satisfied, decaying linearly to 0 at
    0.15 kilolux from it (requested rooms count twice), less 0.3 times the share of the lamps' full power in use. An
    episode is a success (`info["success"]` of its last step) if each requested room was as requested in at least 75 %
    of the steps after the first twelve, which are enough to move all lamps. A request names two or three rooms, one of
    them to be bright and one not to be: no policy that ignores it can do well.
    """

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new home."""
        return SmartHomeLight(render_mode)

    def observation_spec(self) -> ObservationSpec:
        """The request, and the numbers."""
        return SPEC

    def action_names(self) -> tuple[str, ...]:
        """Which lamp goes up or down."""
        return ("leave all", *(f"{room} {way}" for room in ROOMS for way in ("up", "down")))

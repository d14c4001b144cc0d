"""Atari's Montezuma's Revenge from RAM state: the room, the positions of everything in it, the inventory.

Most of the bytes' meanings are those of the Atari Annotated RAM Interface (Anand et al. 2019, "Unsupervised state
representation learning in Atari", arXiv 1906.08226, appendix); what the bits of the inventory and of a room's state
mean was found by setting them and looking at the screen, which a test repeats. The game is the Arcade Learning
Environment's, played with the settings of ALE/MontezumaRevenge-v5: a frame skip of four, and sticky actions, which
repeat the previous action in each frame with probability 0.25 (Machado et al. 2018, arXiv 1709.06009).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from bitrl.core.environments.environment import Environment
from bitrl.core.errors import UsageError
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.core.wording import pip
from bitrl.plugins.envs import MontezumaOptions

FRAME_SKIP = 4
REPEAT_PROBABILITY = 0.25

ROOM, LEVEL, LIVES = 3, 57, 58
PLAYER_X, PLAYER_Y, POSTURE = 42, 43, 52
THING_X, THING_Y = 44, 45
SKULL_X, SKULL_Y = 47, 46
INVENTORY, STATE = 65, 66
JUMP, FALL = 86, 88
"""Addresses in the 128 bytes of RAM."""

SKULL_OFFSET = 33
"""From a skull's x coordinate to the player's."""
DOOR_ROOMS, SKULL_ROOMS = (1, 5, 17), (1, 5, 18)
"""Rooms whose state has a bit for either door, and for a skull that rolls."""

FIELDS = (
    Field("room", 0, 23, decimals=0),
    Field("x", 0, 152, decimals=0),
    Field("y", 134, 255, decimals=0),
    Field("facing_left", 0, 1, decimals=0),
    Field("jumping", 0, 1, decimals=0),
    Field("falling", 0, 1, decimals=0),
    Field("keys", 0, 4, decimals=0),
    Field("swords", 0, 2, decimals=0),
    Field("torch", 0, 1, decimals=0),
    Field("hammer", 0, 1, decimals=0),
    Field("left_door_locked", 0, 1, decimals=0),
    Field("right_door_locked", 0, 1, decimals=0),
    Field("skull", 0, 1, decimals=0),
    Field("skull_x", 0, 160, decimals=0),
    Field("skull_y", 0, 255, decimals=0),
    Field("thing", 0, 1, decimals=0),
    Field("thing_x", 0, 160, decimals=0),
    Field("thing_y", 0, 255, decimals=0),
    Field("lives", 0, 5, decimals=0),
    Field("level", 0, 2, decimals=0),
)
"""The player's y grows upwards; heights of skulls and things are on scales of their own. A thing is the room's key,
treasure or beast. What is absent has zeros.
"""

SPEC = ObservationSpec("MontezumaRevenge", FIELDS)

_WAYS = ("up", "right", "left", "down", "up right", "up left", "down right", "down left")
JOYSTICK = ("nothing", "jump", *_WAYS, *(f"jump {way}" for way in _WAYS))
"""Actions in the emulator's order."""


def read(ram: np.ndarray) -> np.ndarray:
    """The 128 bytes of RAM → the numbers that `FIELDS` names, float32 [20]."""
    at = ram.astype(int)
    room, carried, state = at[ROOM], at[INVENTORY], at[STATE]
    doors = state if room in DOOR_ROOMS else 0
    skull = bool(state & 0b0010) and room in SKULL_ROOMS
    thing = bool(state & (0b0001 if room in DOOR_ROOMS else 0b1101 if room in SKULL_ROOMS else 0b1111))
    numbers = (
        room,
        at[PLAYER_X],
        at[PLAYER_Y],
        bool(at[POSTURE] & 0b1000),
        at[JUMP] != 0xFF,
        at[FALL] != 0,
        int(carried & 0b0001_1110).bit_count(),
        int(carried & 0b0110_0000).bit_count(),
        bool(carried & 0b1000_0000),
        bool(carried & 0b0000_0001),
        bool(doors & 0b1000),
        bool(doors & 0b0100),
        skull,
        skull * (at[SKULL_X] + SKULL_OFFSET),
        skull * at[SKULL_Y],
        thing,
        thing * at[THING_X],
        thing * at[THING_Y],
        at[LIVES],
        at[LEVEL],
    )
    return np.array(numbers, np.float32)


class Montezuma(gymnasium.Env):
    """The game as numbers.

    Observation: float32 [20], in the order of `FIELDS`. Action: Discrete(18), the joystick's (0 nothing, 1 jump, 2 up,
    3 right, 4 left, 5 down, and then their combinations). Reward: points won (100 for a key, 300 for a door). An
    episode ends with the last life, and is truncated after `max_steps`. The emulator's own repetition of actions is off
    and done here: its random generator can be seeded only by reloading the game, which takes 20 times as long as a
    reset.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60 // FRAME_SKIP}  # noqa: RUF012 (Gymnasium's type)

    def __init__(self, max_steps: int, render_mode: str | None = None):
        """`render_mode` is None or "rgb_array".

        Raises:
            ImportError: ale-py is not installed.
        """
        import ale_py
        from ale_py import roms

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else it greets on stderr
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        game = roms.get_rom_path("montezuma_revenge")
        assert game is not None  # it comes with ale-py
        self.ale.loadROM(game)
        self.joystick = self.ale.getMinimalActionSet()
        self.max_steps, self.render_mode = max_steps, render_mode
        self.action_space = gymnasium.spaces.Discrete(len(self.joystick))
        # A byte may leave its field's bounds, which are those of typical play.
        self.observation_space = gymnasium.spaces.Box(0, 255 + SKULL_OFFSET, (len(FIELDS),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a game."""
        super().reset(seed=seed)
        self.ale.reset_game()
        self.steps, self.held = 0, 0
        return read(self.ale.getRAM()), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply the action for four frames."""
        self.steps += 1
        reward = 0
        for repeats in self.np_random.random(FRAME_SKIP) < REPEAT_PROBABILITY:
            self.held = self.held if repeats else int(action)
            reward += self.ale.act(self.joystick[self.held])
        terminated = self.ale.game_over()
        truncated = self.steps >= self.max_steps and not terminated
        return read(self.ale.getRAM()), float(reward), terminated, truncated, {}

    def render(self) -> np.ndarray | None:
        """The screen, uint8 [210, 160, 3]."""
        return self.ale.getScreenRGB() if self.render_mode == "rgb_array" else None


class MontezumaRevenge(Environment):
    """Atari's Montezuma's Revenge from RAM state: the room, the positions of everything in it, the inventory.

    Rewards are sparse: 100 for a key, 300 for a door. An action lasts four frames, and in each of them the previous
    action is repeated with probability 0.25 (sticky actions). An episode ends with the last life.
    """

    options: MontezumaOptions

    def make(self, render_mode: str | None = None) -> gymnasium.Env:
        """A new game.

        Raises:
            UsageError: ale-py is not installed.
        """
        try:
            return Montezuma(self.options.max_steps, render_mode)
        except ImportError as error:
            raise UsageError(f"environment {self.id} needs ale-py: " + pip("install 'bitrl[atari]'")) from error

    def observation_spec(self) -> ObservationSpec:
        """The numbers."""
        return SPEC

    def action_names(self) -> tuple[str, ...]:
        """Of the joystick."""
        return JOYSTICK

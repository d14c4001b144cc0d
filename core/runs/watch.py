"""Watching an episode: the states as the model reads them, actions and rewards, and a video of the environment.

The evaluation does not know that it is watched: a wrapper of its environment reports the steps.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import gymnasium
import numpy as np

from bitrl.core.acting.admissible import commands_of
from bitrl.core.acting.plain_observations import plain_action
from bitrl.core.environments.checked import briefly
from bitrl.core.environments.observations import as_array
from bitrl.core.errors import RunFailed, UsageError, cause
from bitrl.core.runs.parts import Parts
from bitrl.core.runs.video import Video, page
from bitrl.core.sampled_completions import SampledCompletion
from bitrl.core.wording import setting

FPS = 30.0
"""Frames per second where an environment's metadata has none."""

TEXT_FPS = 1.0
"""The same for environments that render text, which takes longer to read."""

GRAPHICS = (
    " (without a display MuJoCo renders with EGL or OSMesa: install one, and set MUJOCO_GL=egl or MUJOCO_GL=osmesa)"
)


@attrs.frozen
class Step:
    """A step of an episode, as plain data: the state as the model reads it (a string, or a list of numbers), the action
    (a number, a list of numbers, a command, or a mapping or list of parts), its reward, and the action's name if it
    has one.
    """

    state: Any
    action: Any
    reward: float
    action_name: str | None = None


Show = Callable[[Step | SampledCompletion], None]


class EpisodeWatcher(gymnasium.Wrapper):
    """A wrapper that reports the steps of the first episode, and records it as a video. Prompts and their completions
    are reported as samples.

    Attributes:
        video: of that episode, or None.
    """

    def __init__(self, env: gymnasium.Env, parts: Parts, show: Show | None, video: Path | None):
        """`show` is called with every step; what `env` renders is recorded for the file `video`."""
        super().__init__(env)
        self._parts, self._show, self._over = parts, show, False
        self._names = parts.environment.action_names()
        self._first = int(getattr(env.action_space, "start", 0)) if self._names else 0
        self._state: Any = None
        self._commands: list[str] | None = None
        fps = env.metadata.get("render_fps") or (TEXT_FPS if env.render_mode == "ansi" else FPS)
        self.video = Video(video, fps) if video is not None else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observe(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step, and report it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._show is not None and not self._over:
            if isinstance(action, str) and isinstance(self._state, str):
                self._show(SampledCompletion(self._state, str(action), float(reward)))
            else:
                shown = plain_action(action) if self._commands is None else self._commands[int(action)]
                name = self._names[int(action) - self._first] if self._names else None
                self._show(Step(self._state, shown, float(reward), name))
        self._observe(observation)
        self._over = self._over or terminated or truncated
        return observation, reward, terminated, truncated, info

    def _observe(self, observation: Any) -> None:
        if self._over:
            return
        if self._show is not None:
            array = as_array(self.env.observation_space, observation)
            self._commands = commands_of(array)
            [state] = self._parts.reader(array[None]).inputs
            self._state = state if isinstance(state, str) else np.asarray(state).tolist()
        if self.video is not None:
            self.video.add(self._frame())

    def _frame(self) -> np.ndarray:
        name = self._parts.environment.id
        try:
            frame: Any = self.env.render()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # anything a renderer raises: no display, no driver, a package missing
            hint = GRAPHICS if hasattr(self.env.unwrapped, "mujoco_renderer") else ""
            raise RunFailed(f"environment {name} could not be rendered: {cause(error)}{hint}") from error
        if isinstance(frame, str):
            return page(frame)
        alike = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)
        if alike and min(frame.shape[:2]) >= 2:  # videos halve the resolution of colours
            picture: np.ndarray = frame
            return picture
        raise RunFailed(
            f"environment {name} cannot be recorded: its render() returned {briefly(frame)}: expected RGB pixels, "
            "uint8 [height, width, 3] of 2 by 2 or more, or a string"
        )


def watch(parts: Parts, show: Show | None, video: Path | None) -> EpisodeWatcher:
    """An environment of `parts` that reports its first episode.

    Raises:
        UsageError: a video is asked for, but the environment renders neither arrays nor text.
        RunFailed: what is shown has names for other than its actions.
    """
    environment = parts.environment
    env = environment.make_for_evaluation()
    names, space = environment.action_names(), env.action_space
    if show is not None and names and isinstance(space, gymnasium.spaces.Discrete) and len(names) != space.n:
        env.close()
        raise RunFailed(
            f"environment {environment.id}: its action_names() are {len(names)}, its actions {int(space.n)}: tell its "
            "authors"
        )
    modes = env.metadata.get("render_modes") or ()
    if video is not None:
        env.close()
        mode = next((mode for mode in ("rgb_array", "ansi") if mode in modes), None)
        if mode is None:
            raise UsageError(
                f"environment {environment.id} cannot be recorded: it renders {' and '.join(modes) or 'nothing'}, "
                f"a video needs rgb_array or ansi: remove {setting('video')} ({setting('show')} prints the states)"
            )
        # Nothing is shown on a screen: pygame need not look for one, nor warn about a missing XDG_RUNTIME_DIR, and
        # MuJoCo renders off-screen where there is none.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            os.environ.setdefault("MUJOCO_GL", "egl")
        env = environment.make_for_evaluation(mode)
    return EpisodeWatcher(env, parts, show, video)

"""The process in which an agent's environment is stepped and drawn for the page of `bitrl serve`:
`python -P -m bitrl.core.environments.demonstration_process`.

What an environment does to its process (crash, hang, take memory) is then not done to the server. It reads lines of
JSON and answers each with one: first {"env", "options"} → {"ready": true, "actions": names}, then {"action"}, null to
begin an episode, → {"observation", "reward", "over", "picture", "words"}; or {"failed": why}, after which it ends.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from bitrl.core.acting.plain_observations import as_plain
from bitrl.core.environments.environment import Environment
from bitrl.core.environments.loading import load_environment
from bitrl.core.environments.observations import as_array
from bitrl.core.environments.reward_process import die_with
from bitrl.core.environments.spaces import parts_of, values_in
from bitrl.core.errors import BitrlError, cause

LARGEST = 800
"""Pixels of a picture's longer side, at most."""


class Stage:
    """An environment, and how to draw it."""

    def __init__(self, environment: Environment):
        env = environment.make_for_evaluation()
        modes = env.metadata.get("render_modes") or ()
        mode = next((each for each in ("rgb_array", "ansi") if each in modes), None)
        if mode is not None:
            env.close()
            env = environment.make_for_evaluation(mode)
        self.env, self._drawn, self._seed = env, mode is not None, 0

    def step(self, action: Any) -> dict[str, Any]:
        """Take a step, or begin an episode (None) → what is answered. The first episode has seed 0."""
        reward, over = 0.0, False
        if action is None:
            observation, _ = self.env.reset(seed=self._seed)
            self._seed += 1
        else:
            given = action_of(self.env.action_space, action)
            observation, value, terminated, truncated, _ = self.env.step(given)
            reward, over = float(value), bool(terminated or truncated)
        [plain] = [as_plain(each) for each in as_array(self.env.observation_space, observation)[None]]
        return {"observation": plain, "reward": reward, "over": over, **self._picture()}

    def _picture(self) -> dict[str, Any]:
        frame: Any = None
        if self._drawn:
            try:
                frame = self.env.render()
            except Exception:  # no display, no driver, a package missing: it acts all the same
                self._drawn = False
        if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,):
            return {"picture": f"data:image/png;base64,{base64.b64encode(png(frame)).decode()}", "words": None}
        return {"picture": None, "words": frame if isinstance(frame, str) else None}


def action_of(space: gymnasium.Space[Any], plain: Any) -> Any:
    """An action as plain data → as an environment with this action space takes it."""
    parts = parts_of(space)
    if parts is not None:
        values = [action_of(part, value) for (_, part), value in zip(parts, values_in(space, plain), strict=True)]
        return (
            tuple(values) if isinstance(plain, list) else {name: v for (name, _), v in zip(parts, values, strict=True)}
        )
    return int(plain) if isinstance(space, Discrete) else np.asarray(plain, space.dtype)


def png(frame: np.ndarray) -> bytes:
    """RGB pixels, uint8 [height, width, 3], as a PNG file; large ones thinned out to `LARGEST` pixels a side."""
    step = -(-max(frame.shape[:2]) // LARGEST)
    frame = frame[::step, ::step]
    height, width = frame.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = frame.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(rows.tobytes(), 3)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def main() -> None:
    """Answer requests until there are no more."""
    die_with(os.getppid())
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what an environment prints is no answer
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    stage: Stage | None = None
    for line in requests:
        request: Mapping[str, Any] = json.loads(line)
        try:
            if stage is None:
                environment = load_environment(request["env"], **request["options"])
                stage, answer = Stage(environment), {"ready": True, "actions": list(environment.action_names())}
            else:
                answer = stage.step(request["action"])
            said = json.dumps(answer, allow_nan=False)
        except BaseException as error:  # whatever an environment raises, sys.exit() too
            answer = {"failed": str(error) if isinstance(error, BitrlError) else cause(error)}
            said = json.dumps(answer)
        answers.write(said.encode() + b"\n")
        answers.flush()
        if "failed" in answer:
            return


if __name__ == "__main__":
    main()

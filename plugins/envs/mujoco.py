"""MuJoCo's tasks as Gymnasium makes them (HalfCheetah, Hopper, Walker2d …), without the notices that come with each.

Knows what a user can do nothing about: MuJoCo's warnings on Gymnasium's own model files, one for each environment and
a file MUJOCO_LOG.TXT, and Gymnasium's on ids before v5, which are asked for to repeat what was measured on them.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

import gymnasium


def is_mujoco(id: str) -> bool:
    """Whether an id is of one of Gymnasium's own tasks on MuJoCo."""
    spec = gymnasium.registry.get(id)
    return spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco")


def hint(id: str, error: Exception) -> str:
    """What to do about an environment that could not be made, in brackets; nothing if it is no task on MuJoCo."""
    if not is_mujoco(id):
        return ""
    if isinstance(error, ModuleNotFoundError):
        return " (pip install 'bitrl[mujoco]')"
    graphics = os.environ.get("MUJOCO_GL")
    return f" (MUJOCO_GL is {graphics}: is the library that it names installed?)" if graphics else ""


@contextlib.contextmanager
def quiet(id: str) -> Iterator[None]:
    """No such notices while an environment is made; nothing if it is no task on MuJoCo.

    Raises:
        ModuleNotFoundError: MuJoCo is not there.
    """
    if not is_mujoco(id):
        yield
        return
    import mujoco

    mujoco.set_mju_user_warning(lambda text: None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
            yield
    finally:
        mujoco.set_mju_user_warning(None)

"""MuJoCo's tasks as Gymnasium makes them (HalfCheetah, Hopper, Walker2d …), without their notices.

Silences what a user can do nothing about: MuJoCo's warnings about Gymnasium's own model files, one per environment and
one in a file MUJOCO_LOG.TXT, and Gymnasium's about ids before v5, which are used to reproduce published results.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

import gymnasium

from bitrl.core.wording import pip


def is_mujoco(id: str) -> bool:
    """Whether an id is of one of Gymnasium's own tasks on MuJoCo."""
    spec = gymnasium.registry.get(id)
    return spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco")


def hint(id: str, error: BaseException) -> str:
    """What to do about an environment that could not be made, in brackets; nothing if it is not a MuJoCo task."""
    if not is_mujoco(id):
        return ""
    if isinstance(error, ModuleNotFoundError):
        return " (" + pip("install 'bitrl[mujoco]'") + ")"
    graphics = os.environ.get("MUJOCO_GL")
    return f" (MUJOCO_GL is {graphics}: is the library that it names installed?)" if graphics else ""


@contextlib.contextmanager
def quiet(id: str) -> Iterator[None]:
    """Suppress these notices while an environment is made; nothing if it is not a MuJoCo task.

    Raises:
        ModuleNotFoundError: MuJoCo is not installed.
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

"""Which package registers a Gymnasium id that Gymnasium alone does not know: for errors that say what helps."""

from __future__ import annotations

import attrs

from bitrl.core.errors import UsageError
from bitrl.core.installing import is_there
from bitrl.core.wording import pip, setting


@attrs.frozen
class Registrar:
    """A package that registers ids when it is imported.

    Attributes:
        module: what to import.
        install: what pip installs.
        note: what else a user should know.
    """

    module: str
    install: str
    note: str = ""


_IMAGES = "its observations are images, which no serializer writes as text"
_HIGHWAY = Registrar("highway_env", "highway-env")
_ROBOTICS = Registrar("gymnasium_robotics", "gymnasium-robotics")

BEGINNINGS: dict[str, Registrar] = {
    "ALE/": Registrar("ale_py", "'bitrl[atari]'", f"{_IMAGES}; MontezumaRevenge is an Atari game from its RAM"),
    "MiniGrid-": Registrar("minigrid", "'bitrl[babyai]'"),
    "BabyAI-": Registrar("minigrid", "'bitrl[babyai]'"),
    "MiniWorld-": Registrar("miniworld", "miniworld", _IMAGES),
    "MiniHack-": Registrar("minihack", "minihack"),
    "NetHack": Registrar("nle", "nle"),
    "dm_control/": Registrar("shimmy", "'shimmy[dm-control]'"),
    "Panda": Registrar("panda_gym", "panda-gym"),
    "procgen-": Registrar("procgen", "procgen", f"it registers with Gym, not Gymnasium; {_IMAGES}"),
    "highway-": _HIGHWAY,
    "merge-": _HIGHWAY,
    "roundabout-": _HIGHWAY,
    "parking-": _HIGHWAY,
    "intersection-": _HIGHWAY,
    "racetrack-": _HIGHWAY,
    "Fetch": _ROBOTICS,
    "HandManipulate": _ROBOTICS,
    "HandReach": _ROBOTICS,
    "AdroitHand": _ROBOTICS,
    "AntMaze_": _ROBOTICS,
    "PointMaze_": _ROBOTICS,
    "FrankaKitchen": _ROBOTICS,
    "FlappyBird": Registrar("flappy_bird_gymnasium", "flappy-bird-gymnasium"),
    "PyFlyt/": Registrar("PyFlyt.gym_envs", "PyFlyt"),
    "gym_pusht/": Registrar("gym_pusht", "gym-pusht"),
    "Meta-World/": Registrar("metaworld", "metaworld"),
}
"""What an id begins with → who registers it."""

BULLET = Registrar("pybullet_envs_gymnasium", "pybullet_envs_gymnasium")
"""PyBullet's ids end alike: AntBulletEnv-v0."""


def registrar_of(id: str) -> Registrar | None:
    """Who registers this id; None: unknown."""
    if "BulletEnv-v" in id:
        return BULLET
    return next((registrar for beginning, registrar in BEGINNINGS.items() if id.startswith(beginning)), None)


def not_registered(id: str) -> UsageError | None:
    """The error for an id that nobody has registered here but that a known package registers; None: unknown, too."""
    registrar = registrar_of(id)
    if registrar is None:
        return None
    note = f" ({registrar.note})" if registrar.note else ""
    name = setting("env", f"{registrar.module}:{id}")
    if is_there(registrar.module.partition(".")[0]):
        return UsageError(f"environment {id}: {registrar.module} registers such ids: try {name}{note}")
    return UsageError(
        f"environment {id} is one of {registrar.module}, which is not installed: "
        f"{pip(f'install {registrar.install}')}, then {name}{note}"
    )

"""Names, typical bounds and units of the numbers in an observation, from a table, or else from the space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from bitrl.core.acting.nested import Path, name_of
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.interfaces import Field, ObservationSpec

FEWEST_PIXELS = 1024
"""Of what is called an image."""

# Where a space is unbounded, these are the bounds of random and trained rollouts.
FIELDS: dict[str, tuple[Field, ...]] = {
    "CartPole-v1": (
        Field("cart_position", -4.8, 4.8, "m"),
        Field("cart_velocity", -3.0, 3.0, "m/s"),
        Field("pole_angle", -0.419, 0.419, "rad"),
        Field("pole_velocity", -3.0, 3.0, "rad/s"),
    ),
    "Acrobot-v1": (
        Field("cos_theta1", -1.0, 1.0),
        Field("sin_theta1", -1.0, 1.0),
        Field("cos_theta2", -1.0, 1.0),
        Field("sin_theta2", -1.0, 1.0),
        Field("theta1_velocity", -12.567, 12.567, "rad/s"),
        Field("theta2_velocity", -28.274, 28.274, "rad/s"),
    ),
    "MountainCar-v0": (
        Field("position", -1.2, 0.6),
        Field("velocity", -0.07, 0.07),
    ),
}
FIELDS["Blackjack-v1"] = (
    Field("player_sum", 0, 31, decimals=0),
    Field("dealer_card", 0, 10, decimals=0),
    Field("usable_ace", 0, 1, decimals=0),
)
FIELDS["MountainCarContinuous-v0"] = FIELDS["MountainCar-v0"]
# The MuJoCo tasks: joint angles within their joints' ranges and a little beyond (the limits are soft), velocities as
# far as they matter (Hopper and Walker2d clip theirs at ±10). A trained HalfCheetah runs at 5 to 12 m/s.
FIELDS["HalfCheetah-v5"] = FIELDS["HalfCheetah-v4"] = (
    Field("torso_height", -0.6, 0.6, "m"),
    Field("torso_angle", -4.0, 4.0, "rad"),
    Field("back_thigh_angle", -0.7, 1.1, "rad"),
    Field("back_shin_angle", -0.9, 0.9, "rad"),
    Field("back_foot_angle", -0.6, 0.9, "rad"),
    Field("front_thigh_angle", -1.2, 0.9, "rad"),
    Field("front_shin_angle", -1.2, 1.0, "rad"),
    Field("front_foot_angle", -0.7, 0.7, "rad"),
    Field("forward_velocity", -4.0, 12.0, "m/s"),
    Field("upward_velocity", -4.0, 4.0, "m/s"),
    Field("torso_velocity", -8.0, 8.0, "rad/s"),
    Field("back_thigh_velocity", -25.0, 25.0, "rad/s"),
    Field("back_shin_velocity", -25.0, 25.0, "rad/s"),
    Field("back_foot_velocity", -25.0, 25.0, "rad/s"),
    Field("front_thigh_velocity", -25.0, 25.0, "rad/s"),
    Field("front_shin_velocity", -25.0, 25.0, "rad/s"),
    Field("front_foot_velocity", -25.0, 25.0, "rad/s"),
)
FIELDS["Hopper-v5"] = FIELDS["Hopper-v4"] = (
    Field("torso_height", 0.7, 1.7, "m"),
    Field("torso_angle", -0.25, 0.25, "rad"),
    Field("thigh_angle", -1.5, 0.2, "rad"),
    Field("leg_angle", -1.8, 0.2, "rad"),
    Field("foot_angle", -0.95, 0.95, "rad"),
    Field("forward_velocity", -3.0, 5.0, "m/s"),
    Field("upward_velocity", -4.0, 4.0, "m/s"),
    Field("torso_velocity", -10.0, 10.0, "rad/s"),
    Field("thigh_velocity", -10.0, 10.0, "rad/s"),
    Field("leg_velocity", -10.0, 10.0, "rad/s"),
    Field("foot_velocity", -10.0, 10.0, "rad/s"),
)
FIELDS["Walker2d-v5"] = FIELDS["Walker2d-v4"] = (
    Field("torso_height", 0.7, 2.0, "m"),
    Field("torso_angle", -1.4, 1.0, "rad"),
    Field("right_thigh_angle", -1.8, 0.5, "rad"),
    Field("right_leg_angle", -2.7, 0.3, "rad"),
    Field("right_foot_angle", -1.4, 1.4, "rad"),
    Field("left_thigh_angle", -1.8, 0.5, "rad"),
    Field("left_leg_angle", -2.7, 0.3, "rad"),
    Field("left_foot_angle", -1.4, 1.4, "rad"),
    Field("forward_velocity", -4.0, 6.0, "m/s"),
    Field("upward_velocity", -6.0, 4.0, "m/s"),
    Field("torso_velocity", -10.0, 10.0, "rad/s"),
    Field("right_thigh_velocity", -10.0, 10.0, "rad/s"),
    Field("right_leg_velocity", -10.0, 10.0, "rad/s"),
    Field("right_foot_velocity", -10.0, 10.0, "rad/s"),
    Field("left_thigh_velocity", -10.0, 10.0, "rad/s"),
    Field("left_leg_velocity", -10.0, 10.0, "rad/s"),
    Field("left_foot_velocity", -10.0, 10.0, "rad/s"),
)


PARTS: dict[str, tuple[Path, ...]] = {"Blackjack-v1": (("[0]",), ("[1]",), ("[2]",))}
"""The parts of those whose observations have several."""


def spec_of_known(env: str) -> ObservationSpec | None:
    """The spec of an environment in the table, without importing Gymnasium; None for any other."""
    return ObservationSpec(env, FIELDS[env], parts=PARTS.get(env, ())) if env in FIELDS else None


def spec_of_space(space: Any, env: str) -> ObservationSpec:
    """The spec of an observation space; fields are called x0, x1, … unless the table knows the environment. Those of a
    Dict or Tuple space are called by the keys that lead to them: arm.speed, arm.joints.0, arm.joints.1, …

    Raises:
        UsageError: it is a space, or has a part of one, that bitrl does not read.
    """
    import gymnasium

    if isinstance(space, gymnasium.spaces.Text):
        return ObservationSpec(env, prompt=True)
    if isinstance(space, gymnasium.spaces.Discrete):
        start = int(space.start)
        return ObservationSpec(env, (Field("state", start, start + int(space.n) - 1),), discrete=int(space.n))
    known = spec_of_known(env)
    if isinstance(space, (gymnasium.spaces.Dict, gymnasium.spaces.Tuple)):
        spec = _spec_of_parts(space, env)
        return known if known is not None and known.parts == spec.parts else spec
    fields = tuple(_fields(space, env))
    if known is not None and not known.parts and len(known.fields) == len(fields):
        return known
    if not fields:
        raise UsageError(f"environment {env}: its observations hold no numbers: their shape is {space.shape}")
    return ObservationSpec(env, fields, images=("observation",) if is_image(space) else ())


def is_image(space: Any) -> bool:
    """Whether a space is a Box of an image's pixels: at least `FEWEST_PIXELS` bytes in two dimensions or more. Fewer
    are as well read as numbers.
    """
    import gymnasium
    import numpy as np

    if not isinstance(space, gymnasium.spaces.Box):
        return False
    alike = space.dtype == np.uint8 and len(space.shape) >= 2 and int(np.prod(space.shape)) >= FEWEST_PIXELS
    return bool(alike and (space.low == 0).all() and (space.high == 255).all())


def _spec_of_parts(space: Any, env: str) -> ObservationSpec:
    """The spec of a Dict or Tuple space, whose observations serializers get flat."""
    import gymnasium

    from bitrl.core.environments.spaces import check_parts, leaves_of

    try:
        check_parts(space, "observation_space")
    except RunFailed as fault:
        raise UsageError(f"environment {env}: {fault}") from fault
    fields: list[Field] = []
    texts, paths, images = [], [], []
    for path, leaf in leaves_of(space):
        paths.append(path)
        if isinstance(leaf, gymnasium.spaces.Text):
            texts.append(name_of(path))
            continue
        fields += _fields(leaf, env, path)
        if is_image(leaf):
            images.append(name_of(path))
    if not (fields or texts):
        raise UsageError(f"environment {env}: its observations hold neither numbers nor texts")
    # Beside texts, serializers get all numbers as the part "numbers".
    called = Counter(
        [*texts, *(field.name for field in fields), *(["numbers"] if "numbers" in texts and fields else [])]
    )
    name, count = called.most_common(1)[0]
    if count > 1:
        raise UsageError(f'environment {env}: two parts of its observations are called "{name}" in texts: rename one')
    return ObservationSpec(env, tuple(fields), texts=tuple(texts), parts=tuple(paths), images=tuple(images))


def _fields(space: Any, env: str, path: Path = ()) -> Iterator[Field]:
    """A field for each number of a space, or of the part of one at `path`."""
    import gymnasium
    import numpy as np

    if isinstance(space, gymnasium.spaces.Discrete):
        low, high = np.array(space.start), np.array(space.start + space.n - 1)
    elif isinstance(space, gymnasium.spaces.MultiBinary):
        low, high = np.zeros(space.shape, int), np.ones(space.shape, int)
    elif isinstance(space, gymnasium.spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    elif isinstance(space, gymnasium.spaces.Box):
        low, high = space.low, space.high
    else:
        where = f' as "{name_of(path)}"' if path else ""
        raise UsageError(
            f"environment {env}: its observations have a {type(space).__name__} space{where}, which bitrl does not "
            "read: expected Box, Discrete, MultiDiscrete, MultiBinary, Text, or Dict and Tuple of these: wrap the "
            "environment so that it observes these, and register it"
        )
    decimals = None if low.dtype.kind == "f" else 0  # integers are written as such
    for index, (lowest, highest) in enumerate(zip(low.ravel().tolist(), high.ravel().tolist(), strict=True)):
        name = f"x{index}" if not path else name_of(path if low.shape == () else (*path, str(index)))
        yield Field(name, _finite(lowest, space.dtype), _finite(highest, space.dtype), decimals=decimals)


def _finite(bound: float, dtype: Any) -> float | None:
    """A bound, or None if it is practically infinite: spaces use the largest number of their dtype for that."""
    limit = 10**30 if dtype.kind == "f" or dtype.itemsize < 4 else 2 ** (8 * dtype.itemsize - 1) - 1
    return float(bound) if abs(bound) < limit else None

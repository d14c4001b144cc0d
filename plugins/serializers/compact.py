"""States as short assignments: x=0.031 v=-0.520 angle=0.012 spin=1.204."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bitrl.core.interfaces import ObservationSpec
from bitrl.core.pieces import Piece, Text, joined
from bitrl.plugins.serializers import TextOptions
from bitrl.plugins.serializers.numbers import NumberFormat, names_of, sentence

SHORT_NAMES: dict[str, tuple[str, ...]] = {
    "CartPole-v1": ("x", "v", "angle", "spin"),
    "Acrobot-v1": ("c1", "s1", "c2", "s2", "w1", "w2"),
    "MountainCar-v0": ("x", "v"),
}
# The MuJoCo tasks: z height, a angles, v and w their velocities; b back, f front, r right, l left.
_CHEETAH = tuple(
    "z a bthigh bshin bfoot fthigh fshin ffoot vx vz w wbthigh wbshin wbfoot wfthigh wfshin wffoot".split()  # noqa: SIM905
)
_HOPPER = tuple("z a thigh leg foot vx vz w wthigh wleg wfoot".split())  # noqa: SIM905
_WALKER = tuple(
    "z a rthigh rleg rfoot lthigh lleg lfoot vx vz w wrthigh wrleg wrfoot wlthigh wlleg wlfoot".split()  # noqa: SIM905
)
for _version in ("v4", "v5"):
    SHORT_NAMES[f"HalfCheetah-{_version}"] = _CHEETAH
    SHORT_NAMES[f"Hopper-{_version}"] = _HOPPER
    SHORT_NAMES[f"Walker2d-{_version}"] = _WALKER


class Compact:
    """One line per observation, with short names where the environment is known and its fields' own names otherwise."""

    def __init__(self, options: TextOptions, observation: ObservationSpec):
        self.numbers = NumberFormat(observation, options.decimals)
        self.fields = observation.fields
        self.short = SHORT_NAMES.get(observation.env or "")

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        numbers = self.numbers(observation)
        names = self.short or names_of(self.fields, len(numbers))
        pairs = (f"{name}={number}" for name, number in zip(names, numbers, strict=True))
        return " ".join((*map(sentence, self.numbers.texts(observation)), *pairs))

    def form(self) -> list[Piece]:
        """What it writes, as pieces."""
        numbers = self.numbers.form()
        names = self.short or names_of(self.fields, len(numbers))
        pairs: list[list[Piece]] = [[f"{name}=", number] for name, number in zip(names, numbers, strict=True)]
        return joined([*([Text(i, "sentence")] for i in range(len(self.numbers.observation.texts))), *pairs])

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]

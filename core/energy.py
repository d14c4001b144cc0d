"""Energy meters, which plugins find on this machine (`bitrl_energy_meters`), and the joules that they have seen.

Knows counters that start anew and power that is sampled. Does not know where a reading comes from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import attrs


def _callable_or_none(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not callable(value):
        raise ValueError(f"{attribute.name}: expected a function without arguments, got {value!r}")


def _above_zero(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ValueError(f"{attribute.name}: expected a number above 0, got {value!r}")


@attrs.frozen(kw_only=True)
class EnergyMeter:
    """A meter of this machine: a counter of energy, or the power at this moment. What reads it may raise OSError.

    Attributes:
        name: what it measures and how, for example "rapl package-0".
        joules: returns a counter of energy, in J; it may begin anywhere.
        wraps_at: J after which that counter starts anew at 0; None: it never does.
        watts: returns the power at this moment, in W, which is integrated over time. Either this or `joules`.
    """

    name: str = attrs.field(validator=attrs.validators.instance_of(str))
    joules: Callable[[], float] | None = attrs.field(default=None, validator=_callable_or_none)
    wraps_at: float | None = attrs.field(default=None, validator=_above_zero)
    watts: Callable[[], float] | None = attrs.field(default=None, validator=_callable_or_none)

    def __attrs_post_init__(self) -> None:
        if (self.joules is None) == (self.watts is None):
            raise ValueError(f"energy meter {self.name!r}: expected one of joules and watts")

    def read(self) -> float:
        """The counter in J, or the power in W.

        Raises:
            ValueError: it is no finite number, or a negative counter. OSError: it cannot be read.
        """
        read = self.joules or self.watts
        assert read is not None  # as it was made
        value = float(read())
        if not math.isfinite(value) or (value < 0 and self.joules is not None):
            raise ValueError(f"{value} is no {'counter of joules' if self.joules is not None else 'power in watts'}")
        return value


class Metered:
    """The energy that a meter has seen, by its readings: `read` it often, a counter more often than it starts anew.

    Attributes:
        joules, seconds: between the first reading and the last.
        failure: why a reading failed, after which none is made; "" if none has.
    """

    def __init__(self, meter: EnergyMeter, clock: Callable[[], float] = time.monotonic):
        """Reads it for the first time."""
        self.meter, self._clock = meter, clock
        self.joules = self.seconds = 0.0
        self.failure = ""
        self._last: tuple[float, float] | None = None
        self.read()

    def read(self) -> None:
        """Add what was used since the last reading: power by the mean of the two readings."""
        if self.failure:
            return
        try:
            now, value = self._clock(), self.meter.read()
            if self._last is not None:
                before, old = self._last
                self.joules += self._used(old, value, now - before)
                self.seconds += now - before
            self._last = now, value
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's, which stops no measurement
            self.failure = _why(error)

    def _used(self, old: float, value: float, seconds: float) -> float:
        meter = self.meter
        if meter.watts is not None:
            return (old + value) / 2 * seconds
        if meter.wraps_at is not None:
            return (value - old) % meter.wraps_at
        if value < old:
            raise ValueError(f"its counter went back from {old} to {value} J")
        return value - old


def _why(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "may not be read by this user: run as root, or let it be read (chmod a+r)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def installed_meters() -> tuple[list[EnergyMeter], list[str]]:
    """The meters that plugins find on this machine, and what is wrong with those that failed. Names are unique."""
    from bitrl.core.registry import registry

    found: dict[str, EnergyMeter] = {}
    failed = []
    for entry in registry().entries["energy-meter"]:
        try:
            for meter in entry.record.load()() or ():
                if not isinstance(meter, EnergyMeter):
                    raise TypeError(f"expected bitrl.EnergyMeter objects, got {meter!r}")
                names = (meter.name, *(f"{meter.name} ({number})" for number in range(2, 1000)))
                name = next(each for each in names if each not in found)
                found[name] = attrs.evolve(meter, name=name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's, which stops no measurement
            failed.append(f"{entry.record.name} of package {entry.package}: {_why(error)}")
    return [*found.values()], failed

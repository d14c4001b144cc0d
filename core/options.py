"""Options of components: attrs classes with documented, validated fields.

A component declares `@options class PPOOptions: clip_coef: float = option(0.1, "clip range", above(0))`. This
module converts values from the command line (strings), a TOML file or Python into such an object, and writes the
error messages. It knows nothing of the components themselves.
"""

from __future__ import annotations

import json
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import attrs

from bitrl.core.errors import UsageError, unknown
from bitrl.core.schedules import Schedule

T = TypeVar("T")

MOST_SHOWN = 120
"""Characters of a value that an error message prints."""


class Constraint:
    """An attrs validator that describes what it expects; `None` passes (for optional fields)."""

    def __init__(self, accepts: Callable[[Any], bool], words: str):
        self.accepts, self.words = accepts, words

    def __call__(self, instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        """Raise ValueError, with a message for users, if `value` is not accepted."""
        ends = isinstance(value, Schedule) and value.end != 0 and not self.accepts(value.end)  # all may decay to zero
        if value is not None and (ends or not self.accepts(value)):
            raise ValueError(f"{attribute.name}: expected {_expected(attribute)}, got {_briefly(value)}")


def above(low: float) -> Constraint:
    """Accept numbers greater than `low`."""
    return Constraint(lambda value: value > low, f"above {low:g}")


def at_least(low: float) -> Constraint:
    """Accept numbers not smaller than `low`."""
    return Constraint(lambda value: value >= low, f"of at least {low:g}")


def between(low: float, high: float) -> Constraint:
    """Accept numbers in the closed interval [low, high]."""
    return Constraint(lambda value: low <= value <= high, f"between {low:g} and {high:g}")


def above_up_to(low: float, high: float) -> Constraint:
    """Accept numbers in the half-open interval (low, high]."""
    return Constraint(lambda value: low < value <= high, f"above {low:g} and at most {high:g}")


def each_at_least(low: float) -> Constraint:
    """Accept tuples whose every item is at least `low`."""
    return Constraint(lambda values: all(value >= low for value in values), f"each at least {low:g}")


def option(default: Any, help: str, constraint: Constraint | None = None, *, free: bool = False) -> Any:
    """A documented field of an options class.

    Args:
        default, help, constraint: its default, one line of help, and which values it accepts.
        free: another value changes nothing that is learned (threads, the place of a file), so that a run may be resumed
            with one; of all other options a resumed run keeps the values that it began with.
    """
    return attrs.field(default=default, validator=constraint, metadata={"help": help, "free": free})


def options(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only attrs class whose every field is made by `option`.

    A class may carry `presets: ClassVar[dict[str, dict[str, Any]]]`, named sets of defaults chosen by its `preset`
    field, and `overrides: ClassVar[dict[tuple[str, Any], tuple[str, ...]]]`, {(option, value): other options}: beside
    that value, chosen by the user, an environment's defaults of the others do not hold. A predicate in the place of a
    value stands for all that it accepts.
    """
    made: type[T] = attrs.frozen(cls, kw_only=True)
    attrs.resolve_types(made)  # type: ignore[type-var]
    return made


@options
class NoOptions:
    """For components that have nothing to set."""


def shown(value: Any) -> str:
    """`value` as error messages and option tables print it; None is `none`, as a user types it."""
    if value is None:
        return "none"
    if isinstance(value, Schedule) and value.shape != "constant":
        return f'"{value}"'
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)


def _briefly(value: Any) -> str:
    """`value` as error messages print it: of one that is long, the beginning."""
    try:
        text = shown(value)
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def type_words(kind: Any) -> str:
    """A type as an error message names it: `an integer`, `one of "mean", "last"`."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(shown(value) for value in typing.get_args(kind))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        return " or ".join([*map(type_words, inner), "none"])
    if typing.get_origin(kind) is tuple:
        return f"a list of {({int: 'integers', float: 'numbers'}).get(typing.get_args(kind)[0], 'strings')}"
    return {int: "an integer", float: "a number", Schedule: "a number", bool: "true or false", str: "a string"}.get(
        kind, str(kind)
    )


def _expected(attribute: attrs.Attribute[Any]) -> str:
    words, none, _ = type_words(attribute.type).partition(" or none")
    constraint = attribute.validator
    schedule = " (or linear:START:END, cosine:START:END)" if attribute.type is Schedule else ""
    return (f"{words} {constraint.words}" if isinstance(constraint, Constraint) else words) + none + schedule


def _convert(value: Any, kind: Any, text: bool) -> Any:
    """`value` as `kind`, or ValueError. `text`: it was typed on a command line, where everything is a string."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.strip().lower() in ("none", "")):
            return None
        return _convert(value, next(part for part in args if part is not type(None)), text)
    if origin is Literal:
        for choice in args:
            if value == (str(choice) if text else choice) and (text or type(value) is type(choice)):
                return choice
    elif origin is tuple:
        if text:
            value = [part.strip() for part in value.strip().strip("[]()").split(",") if part.strip()]
        if isinstance(value, (list, tuple)):
            return tuple(_convert(item, args[0], text) for item in value)
    elif kind is bool:
        if text:
            value = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(value.lower())
        if isinstance(value, bool):
            return value
    elif kind is int:
        if text:
            return int(value.replace("_", "")) if "e" not in value.lower() else _whole(float(value))
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):  # NumPy's too
            return int(value)
    elif kind is float:
        number = float(value) if text or (isinstance(value, numbers.Real) and not isinstance(value, bool)) else math.nan
        if math.isfinite(number):
            return number
    elif kind is Schedule:
        if isinstance(value, str) and (text or ":" in value):  # a bare number in a file is written without quotes
            return Schedule.parse(value)
        return Schedule(_convert(value, float, text=False))
    elif kind is str and isinstance(value, str):
        value.encode()  # a path with bytes that are no UTF-8 could not be written to a configuration
        return value
    raise ValueError(value)


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError(number)
    return int(number)


def parse(cls: type[T], values: Mapping[str, Any], path: str, text: frozenset[str] = frozenset()) -> T:
    """Build options `cls` from `values`; `path` ("algo") names the place in errors, `text` the keys typed as strings.

    Raises:
        UsageError: unknown key, wrong type or out of range; one line with the path, the expected and the given value.
    """
    fields = attrs.fields_dict(cls)  # type: ignore[arg-type]
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown("option", key, fields, prefix=f"{path}.")
        try:
            converted[key] = _convert(value, fields[key].type, key in text)
        except UnicodeEncodeError:
            raise UsageError(f"{path}.{key}: {_briefly(value)} is not UTF-8: rename it") from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise UsageError(f"{path}.{key}: expected {_expected(fields[key])}, got {_briefly(value)}") from None
    defaults = {}
    if "preset" in fields:
        defaults = getattr(cls, "presets", {}).get(converted.get("preset", fields["preset"].default), {})
    try:
        return cls(**{**defaults, **converted})
    except ValueError as error:
        raise UsageError(f"{path}.{error}") from None


def default_fault(cls: type) -> str | None:
    """Why the options of a class could not be set, or their defaults not be written to a configuration and read back;
    None if they can.
    """
    for field in attrs.fields(cls):
        if fault := _type_fault(field):
            return f"{field.name} {fault}"
        if field.default is attrs.NOTHING:
            return f"{field.name} has no default: declare it with bitrl.option(DEFAULT, HELP)"
    try:
        values = cls()
    except (ValueError, TypeError) as error:  # out of range
        return str(error)
    for field in attrs.fields(cls):
        try:
            _convert(getattr(values, field.name), field.type, text=False)
        except (ValueError, TypeError, OverflowError):
            return f"{field.name}: expected {_expected(field)} as its default, got {_briefly(field.default)}"
    return None


def _type_fault(field: attrs.Attribute[Any]) -> str | None:
    """What is wrong with an option's type."""
    containers, kind = (list, dict, set), typing.get_origin(field.type) or field.type
    if kind in containers or isinstance(field.default, containers):
        name = (kind if kind in containers else type(field.default)).__name__
        return (
            f"is a {name}, which is mutable and shared: declare a tuple, as "
            f"{field.name}: tuple[int, ...] = bitrl.option((1, 2), …)"
        )
    if type_words(field.type) == str(field.type):
        return (
            f"is of type {field.type}: expected bool, int, float, str, bitrl.Schedule, a Literal, tuple[T, ...], or "
            "one of these | None"
        )
    return None


@attrs.frozen
class OptionRow:
    """One line of an option table: what `bitrl show` prints and the docs hold."""

    name: str
    kind: str
    default: str
    help: str


def describe(cls: type) -> list[OptionRow]:
    """The option table of `cls`; a default that a preset changes is shown for each preset."""
    rows = []
    for field in attrs.fields(cls):
        default = shown(field.default)
        changed = [
            f"{name}: {shown(preset[field.name])}"
            for name, preset in getattr(cls, "presets", {}).items()
            if field.name in preset
        ]
        rows.append(
            OptionRow(field.name, _expected(field), "; ".join([default, *changed]), field.metadata.get("help", ""))
        )
    return rows


def kept(values: Any) -> dict[str, Any]:
    """The options that a resumed run keeps, as plain data: all but the free ones."""
    free = {field.name for field in attrs.fields(type(values)) if field.metadata.get("free")}
    return {name: value for name, value in as_dict(values).items() if name not in free}


def as_dict(values: Any) -> dict[str, Any]:
    """Options as plain data for TOML and JSON, defaults included: tuples become lists, None becomes "none".

    `parse` gives the same options back. Leaving None out would not: the default, or an environment's, need not be None.
    """
    plain = attrs.asdict(values)
    return {
        key: "none" if value is None else list(value) if isinstance(value, tuple) else _plain_number(value)
        for key, value in plain.items()
    }


def _plain_number(value: Any) -> Any:
    if isinstance(value, Schedule):
        return float(value) if value.shape == "constant" else str(value)
    return value

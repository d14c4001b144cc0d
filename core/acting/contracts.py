"""What components hand over, checked while a run uses them, so that the error names the component that was wrong.

A batch costs a comparison of shapes and dtypes and one look for NaN. What costs more is checked for the first `FIRST`
batches alone. Knows nothing of environments. Shapes: n states, k numbers per vector, d features.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from bitrl.core.acting.checkpoints import why_not_saved
from bitrl.core.errors import BitrlError, RunFailed, cause, out_of_memory

FIRST = 16
"""Batches whose every detail is checked: a rollout or two."""


@contextmanager
def calling(who: str) -> Iterator[None]:
    """Within, a component is called: whatever it raises becomes a RunFailed that names it, sys.exit() and the panics of
    extension modules too, which would end the program without a word or with a traceback.
    """
    try:
        yield
    except (BitrlError, KeyboardInterrupt, ModuleNotFoundError):  # they are explained already, or by the program
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise
        raise RunFailed(
            f"{who} failed: {cause(error)}: tell its authors (BITRL_DEBUG=1 shows the traceback)"
        ) from error


def check_inputs(who: str, inputs: Any, count: int, width: int | None) -> None:
    """Refuse what a serializer wrote unless it is `count` strings, or finite float32 [count, width].

    Args:
        who: names the serializer.
        width: that of its vectors; None: it does not say.

    Raises:
        RunFailed: naming the serializer, with what came and what was expected.
    """
    if isinstance(inputs, np.ndarray):
        length = width if width is not None else inputs.shape[-1] if inputs.ndim else 0
        _check_floats(who, "vectors", inputs, (count, length))
        return
    if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
        found = _kind(inputs)
        if isinstance(inputs, list):
            found = f"{_kind(next(text for text in inputs if not isinstance(text, str)))} in its list"
        raise RunFailed(f"{who} wrote {found}: expected a list of strings, or a float32 array of vectors")
    if len(inputs) != count:
        raise RunFailed(f"{who} wrote {len(inputs)} texts for {count} states: expected one for each")
    for index, text in enumerate(inputs):
        if not is_unicode(text):
            raise RunFailed(
                f"{who} wrote {text[:40]!a} for state {index} (counted from 0): it holds half of a surrogate "
                "pair, which is not Unicode text"
            )


def is_unicode(text: str) -> bool:
    """Whether a text holds no half of a surrogate pair, which neither tokenizers nor files take."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def array_fault(found: Any) -> str | None:
    """What a value is that should be an array of numbers, unless it is one: masked arrays and matrices calculate
    otherwise, wherever they get to.
    """
    if not isinstance(found, np.ndarray):
        return _kind(found)
    return f"a {type(found).__name__}" if isinstance(found, (np.ma.MaskedArray, np.matrix)) else None


def check_features(who: str, features: Any, count: int, width: int) -> None:
    """Refuse features of `count` states other than finite float32 [count, width], naming the backbone.

    Raises:
        RunFailed: with what came and what was expected.
    """
    _check_floats(who, "features", features, (count, width))


def check_metrics(who: str, metrics: Any) -> dict[str, float | int]:
    """An algorithm's metrics, as numbers that JSON can hold.

    Raises:
        RunFailed: they are no mapping of names to finite numbers, naming the algorithm and the metric.
    """
    if not isinstance(metrics, Mapping):
        raise RunFailed(f"{who}: update() returned {_kind(metrics)}: expected a dict of metrics, names and numbers")
    plain: dict[str, float | int] = {}
    for name, value in metrics.items():
        if not isinstance(name, str) or name == "step":
            why = "the run counts the steps itself" if name == "step" else "expected a string"
            raise RunFailed(f"{who}: a metric is named {name!r}: {why}")
        number = value if isinstance(value, (int, float)) else _item(value)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise RunFailed(f'{who}: metric "{name}" is {_kind(value)}: expected a number')
        if isinstance(number, float) and not math.isfinite(number):
            raise RunFailed(
                f'{who}: metric "{name}" is {number}: expected a finite number; leave a metric without a value out'
            )
        plain[name] = float(number) if isinstance(number, float) else int(number)
    return plain


def check_state(who: str, state: Any) -> dict[str, np.ndarray]:
    """What a component's state() gave, as arrays that a checkpoint can hold.

    Raises:
        RunFailed: it cannot hold them, naming the component and the array.
    """
    if not isinstance(state, Mapping):
        raise RunFailed(f"{who}: state() returned {_kind(state)}: expected a dict of arrays")
    arrays = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise RunFailed(f"{who}: state() calls an array {_kind(name)}: expected a string")
        try:
            arrays[name] = np.asarray(value)
            why = why_not_saved(arrays[name])
        except (ValueError, TypeError, RuntimeError):
            why = _kind(value)
        if why:
            raise RunFailed(
                f'{who}: state()["{name}"] is {why}: expected numbers, or texts in one dimension, which can be saved'
            )
    return arrays


def check_width(who: str, width: Any) -> None:
    """Raise RunFailed unless a component's `width` is a number of numbers."""
    if isinstance(width, bool) or not isinstance(width, numbers.Integral) or width < 1:
        raise RunFailed(f"{who}: its width is {_kind(width)}: expected an integer above 0")


def plain_identity(who: str, identity: Any) -> dict[str, Any]:
    """An `identity` as a configuration file gives it back: tuples as lists, without what is unset (None).

    Raises:
        RunFailed: it holds something else than strings, numbers, lists and dicts, naming the component and the part.
    """
    if not isinstance(identity, Mapping):
        raise RunFailed(f"{who}: its identity is {_kind(identity)}: expected a dict of what determines its results")
    if not all(isinstance(name, str) for name in identity):
        raise RunFailed(f"{who}: its identity has names that are no strings")
    return {name: _plain(f"{who}: its identity[{name!r}]", each) for name, each in identity.items() if each is not None}


def _plain(place: str, value: Any) -> Any:
    """A value of an identity, and so on within it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(f"{place}[{index}]", each) for index, each in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(f"{place}[{name!r}]", each) for name, each in value.items()}
    raise RunFailed(f"{place} is {_kind(value)}: expected strings, numbers, lists and dicts of these")


def check_unchanged(who: str, before: bytes, observations: np.ndarray) -> None:
    """Raise RunFailed if a serializer changed the observations, whose bytes were `before`."""
    if observations.tobytes() != before:
        raise RunFailed(
            f"{who} changes the observations that it is given, which are stored and learned from: let it work on a copy"
        )


def _check_floats(who: str, what: str, found: Any, shape: tuple[Any, ...]) -> None:
    if kind := array_fault(found):
        raise RunFailed(f"{who} returned {kind} as {what}: expected a float32 array of shape {shape}")
    if found.dtype != np.float32 or found.shape != shape:
        raise RunFailed(
            f"{who} returned {what} of shape {found.shape} and dtype {found.dtype}: expected {shape} and float32"
        )
    if not np.isfinite(found).all():
        row, column = (int(place) for place in np.argwhere(~np.isfinite(found))[0])
        raise RunFailed(
            f"{who} returned {what} with {found[row, column]} as number {column} of state {row} (counted from 0): "
            "expected finite numbers"
        )


def _item(value: Any) -> Any:
    """The number in an array or a tensor of one element without dimensions; else None."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array.item() if array.shape == () and array.dtype.kind in "iuf" else None


def _kind(value: Any) -> str:
    """A value, shortly: `None`, `"text"`, `a list`, `an array of shape (3,)`."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"

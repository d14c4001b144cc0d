"""Checks of what an agent's file says, which may come from anywhere, before anything is built from it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting import factors
from bitrl.core.acting.admissible import COMMANDS, MASK, splits, states_of
from bitrl.core.acting.checkpoints import Checkpoint, with_prefix
from bitrl.core.acting.nested import leaves, name_of, part_at
from bitrl.core.acting.policies import (
    KINDS,
    CodebookPolicy,
    CommandPolicy,
    Continuous,
    Discrete,
    FactoredPolicy,
    Network,
)
from bitrl.core.config import MOST_HISTORY
from bitrl.core.interfaces import Field, ObservationSpec

LEARNER = "learner"
"""Where an agent's file has what another run learns on from (bitrl.core.runs.learn_on); acting needs none of it."""

MOST_DECIMALS = 17
"""Significant digits of a float64."""

_MAY_BE_INFINITE = ("limit", "low", "high")
"""The arrays of a policy that are bounds."""


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse facts with fields missing or of the wrong kind, or with numbers that would take all memory.

    Raises:
        ValueError: the message names the field, what was expected and what came.
    """
    _expect(facts, "serializer", _is_component, "a name and options")
    _expect(facts, "backbone", lambda value: value is None or _is_component(value), "a name and options, or null")
    _expect(facts, "identity", _is_mapping, "names and values")
    _expect(facts, "history", _is_count(1, MOST_HISTORY), f"an integer between 1 and {MOST_HISTORY}")
    _expect(facts, "history_tokens", _is_count(1, 2**31), "an integer above 0")
    _expect(facts, "policy", lambda value: isinstance(value, str) and value in KINDS, f"one of {', '.join(KINDS)}")
    if "bitdelta" in facts:
        _expect(facts, "bitdelta", _is_text, "a checksum")
    _expect(facts, "observation", _is_mapping, "names and values")
    spec = facts["observation"]
    _only(spec, ObservationSpec, "observation")
    _expect(spec, "fields", lambda value: isinstance(value, list) and all(map(_is_mapping, value)), "a list of fields")
    _expect(spec, "texts", lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names")
    parts = {"parts": [], "images": [], **spec}
    _expect(parts, "parts", lambda value: isinstance(value, list) and all(map(_is_path, value)), "a list of paths")
    _expect(parts, "images", lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names")
    _expect(spec, "discrete", lambda value: value is None or _is_count(1, 2**63)(value), "an integer above 0, or null")
    for field in spec["fields"]:
        _only(field, Field, "a field")
        _expect(field, "name", _is_text, "a string")
        for bound in ("low", "high"):
            _expect({bound: None, **field}, bound, _is_bound, "a number or null")
        decimals = {"decimals": None, **field}
        words = f"an integer between 0 and {MOST_DECIMALS}, or null"
        _expect(decimals, "decimals", lambda value: value is None or _is_count(0, MOST_DECIMALS)(value), words)


def check_arrays(file: Checkpoint) -> None:
    """Refuse arrays that are missing, not finite, or do not fit together.

    Raises:
        ValueError: the message names the array.
    """
    if "example" not in file.arrays or file.arrays["example"].shape[:1] != (1,):
        raise ValueError("it holds no example of an observation")
    for name, whole in file.arrays.items():
        if name.startswith(f"{LEARNER}."):  # the algorithm's own matter, as in a checkpoint: its best so far may be −∞
            continue
        for array in (part_at(whole, path) for path, *_ in leaves(whole.dtype)):
            if array.dtype.kind == "f" and name != "example":
                bad = np.isnan(array) if name.rpartition(".")[2] in _MAY_BE_INFINITE else ~np.isfinite(array)
                if bad.any():
                    raise ValueError(f"{name} holds {int(bad.sum()):,} numbers that are NaN or infinite")
    _check_example(file)
    arrays = with_prefix(file.arrays, "policy.")
    kind = KINDS[file.meta["policy"]]
    records = ("low", "high") if kind is FactoredPolicy else ()
    for name, array in arrays.items():
        kinds = {each.kind for _, each, _ in leaves(array.dtype)} if name in records else {array.dtype.kind}
        if not kinds <= {*"fiub"}:
            raise ValueError(f"policy.{name} holds no numbers")
    outputs = set()
    for field in attrs.fields(kind):
        if field.type in ("Network", Network):
            outputs.add(_outputs(with_prefix(arrays, f"{field.name}."), field.name))
        elif field.name not in arrays:
            raise ValueError(f"policy.{field.name} is missing")
    if kind is CommandPolicy:
        if len(outputs) > 1:
            raise ValueError("policy.network and policy.keys do not give equally many numbers")
        if COMMANDS not in (parts := file.arrays["example"].dtype.names or ()) or not splits(parts):
            raise ValueError("its example of an observation has no commands, of which its actions are one")
    if kind is Discrete and (arrays["start"].shape != () or arrays["start"].dtype.kind not in "iu"):
        raise ValueError("policy.start: expected an integer")
    if kind is FactoredPolicy:
        masks: Mapping[str, Any] = file.arrays["example"].dtype.fields or {}
        mask = masks[MASK][0].shape if splits(tuple(masks)) and MASK in masks else None
        _check_factors(arrays["low"], arrays["high"], arrays["kinds"], outputs, mask)
    if kind in (Continuous, CodebookPolicy):
        low, high = arrays["low"], arrays["high"]
        values = arrays["values"] if kind is CodebookPolicy else np.zeros((low.size, 1))
        if values.ndim != 2 or len(values) != low.size or values.shape[1] < 1:
            raise ValueError("policy.values: expected a row of values for each dimension of its low and high")
        if low.shape != high.shape or low.dtype != high.dtype or {values.size} != outputs:
            raise ValueError("policy: its low, high and network do not fit together")


def _check_example(file: Checkpoint) -> None:
    """Refuse an example without the parts of an observation that the serializer is to read."""
    whole = file.arrays["example"]
    if not {each.kind for _, each, _ in leaves(whole.dtype)} <= {*"biufU"}:
        raise ValueError("its example of an observation holds what is neither numbers nor texts")
    example = states_of(whole)
    there = [path for path, *_ in leaves(example.dtype)]
    for path in map(tuple, file.meta["observation"].get("parts", ())):
        if path not in there:
            raise ValueError(f'its example of an observation has no part "{name_of(path)[:80]}"')


def _check_factors(
    low: np.ndarray, high: np.ndarray, kinds: np.ndarray, outputs: set[int], mask: tuple[int, ...] | None
) -> None:
    """Refuse what describes no action space, or one for which a network or a `mask` of this shape has not as many
    numbers.
    """
    count = len([*leaves(low.dtype)])
    alike = low.dtype == high.dtype and low.shape == high.shape and len(low.shape) >= 1 and len(low) == 1
    known = (
        kinds.dtype == np.int8 and kinds.shape == (count,) and (kinds >= 0).all() and (kinds < len(factors.KINDS)).all()
    )
    if not (alike and known and count):
        raise ValueError(
            "policy.low, policy.high, policy.kinds: expected the bounds of an action, and a kind for each part"
        )
    actions, expected = factors.FactoredActions(low, high, kinds), 0
    for factor in actions.factors:
        whole = factor.low.dtype.kind in "iu"
        if factor.kind != "Box" and not (whole and (factor.low <= factor.high).all()):
            raise ValueError("policy.low, policy.high: expected integers, the first at most the second")
        expected += factor.outputs
    if {expected} != outputs or (actions.values and mask not in (None, (actions.values,))):
        raise ValueError("policy: its low, high and network do not fit together")


def _outputs(arrays: Mapping[str, np.ndarray], name: str) -> int:
    """How many outputs a network has, once its arrays fit together."""
    if missing := [each for each in ("mean", "std", "limit", "0.weight") if each not in arrays]:
        raise ValueError(f"policy.{name}.{missing[0]} is missing")
    mean, std = arrays["mean"], arrays["std"]
    width: Any = mean.shape
    if mean.ndim != 1 or std.shape != width or not (std > 0).all() or arrays["limit"].shape != ():
        raise ValueError(f"policy.{name}: its mean, std and limit do not fit together")
    for index in range(sum(each.endswith(".weight") for each in arrays)):
        weight, bias = (arrays.get(f"{index}.{each}", np.zeros(())) for each in ("weight", "bias"))
        if weight.ndim != 2 or weight.shape[1:] != width or bias.shape != weight.shape[:1]:
            raise ValueError(f"policy.{name}.{index}: its shape does not fit the layer before it")
        width = bias.shape
    return int(width[0])


def _expect(facts: Mapping[str, Any], name: str, accepts: Callable[[Any], bool], words: str) -> None:
    if name not in facts:
        raise ValueError(f'"{name}" is missing')
    if not accepts(facts[name]):
        raise ValueError(f'"{name}": expected {words}, got {str(facts[name])[:80]!r}')


def _only(values: Mapping[str, Any], cls: type[Any], what: str) -> None:
    """Refuse what the class has no attribute for."""
    if unknown := sorted(values.keys() - attrs.fields_dict(cls).keys()):
        raise ValueError(f'{what} has "{unknown[0][:80]}", which this version of bitrl does not know')


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_component(value: Any) -> bool:
    return _is_mapping(value) and _is_text(value.get("name")) and _is_mapping(value.get("options"))


def _is_bound(value: Any) -> bool:
    if value is None:
        return True
    # Python compares integers of any length, which NumPy does not.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

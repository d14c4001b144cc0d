"""Options: every type, from text and from values, and what a mistake is told."""

from __future__ import annotations

import tomllib
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bitrl.core.errors import UsageError
from bitrl.core.options import above, as_dict, at_least, between, describe, each_at_least, option, options, parse


@options
class Everything:
    """One option of every type."""

    flag: bool = option(False, "a switch")
    count: int = option(3, "an integer", at_least(0))
    rate: float = option(0.5, "a number", between(0, 1))
    scale: float = option(2.0, "a positive number", above(0))
    word: str = option("plain", "a string")
    mode: Literal["mean", "last"] = option("mean", "a choice")
    size: Literal[8, 16] = option(8, "a choice of numbers")
    widths: tuple[int, ...] = option((64, 64), "integers", each_at_least(1))
    rates: tuple[float, ...] = option((), "numbers")
    words: tuple[str, ...] = option(("a",), "texts")
    limit: int | None = option(None, "perhaps an integer", above(0))
    clip: float | None = option(0.5, "perhaps a number")
    layers: tuple[int, ...] | None = option((1,), "perhaps integers")
    name: str | None = option(None, "perhaps a string")


TYPED = [
    ("flag", "true", True),
    ("flag", "YES", True),
    ("flag", "0", False),
    ("count", "12", 12),
    ("count", "100_000", 100_000),
    ("count", "1e5", 100_000),
    ("rate", "1", 1.0),
    ("rate", "3e-4", 3e-4),
    ("word", "none", "none"),
    ("word", "", ""),
    ("mode", "last", "last"),
    ("size", "16", 16),
    ("widths", "32", (32,)),
    ("widths", "32,16", (32, 16)),
    ("widths", "[32, 16]", (32, 16)),
    ("widths", "", ()),
    ("rates", "0.1, 1", (0.1, 1.0)),
    ("words", "x, y z", ("x", "y z")),
    ("limit", "none", None),
    ("limit", "7", 7),
    ("clip", "None", None),
    ("clip", "", None),
    ("layers", "none", None),
    ("layers", "2,3", (2, 3)),
    ("name", "n", "n"),
]


@pytest.mark.parametrize(("key", "text", "value"), TYPED)
def test_a_typed_text_becomes_a_value_of_the_options_type(key: str, text: str, value: Any):
    found = getattr(parse(Everything, {key: text}, "algo", frozenset({key})), key)
    assert (found, type(found)) == (value, type(value))


VALUES = [
    ("flag", True, True),
    ("count", 12, 12),
    ("rate", 1, 1.0),
    ("widths", [32, 16], (32, 16)),
    ("rates", [1, 0.5], (1.0, 0.5)),
    ("size", 16, 16),
    ("limit", None, None),
    ("clip", "none", None),
    ("layers", [], ()),
]


@pytest.mark.parametrize(("key", "value", "expected"), VALUES)
def test_a_value_from_toml_or_python_keeps_its_meaning(key: str, value: Any, expected: Any):
    found = getattr(parse(Everything, {key: value}, "algo"), key)
    assert (found, type(found)) == (expected, type(expected))


MISTAKES = [
    ("flag", "maybe", True, 'algo.flag: expected true or false, got "maybe"'),
    ("flag", 1, False, "algo.flag: expected true or false, got 1"),
    ("count", "abc", True, 'algo.count: expected an integer of at least 0, got "abc"'),
    ("count", "1.5", True, 'algo.count: expected an integer of at least 0, got "1.5"'),
    ("count", "1.5e0", True, 'algo.count: expected an integer of at least 0, got "1.5e0"'),
    ("count", "1e999", True, 'algo.count: expected an integer of at least 0, got "1e999"'),
    ("count", "-1", True, "algo.count: expected an integer of at least 0, got -1"),
    ("count", True, False, "algo.count: expected an integer of at least 0, got true"),
    ("count", 1.0, False, "algo.count: expected an integer of at least 0, got 1.0"),
    ("count", "3", False, 'algo.count: expected an integer of at least 0, got "3"'),
    ("count", "none", True, 'algo.count: expected an integer of at least 0, got "none"'),
    ("rate", "2", True, "algo.rate: expected a number between 0 and 1, got 2.0"),
    ("rate", "nan", True, 'algo.rate: expected a number between 0 and 1, got "nan"'),
    ("rate", float("inf"), False, "algo.rate: expected a number between 0 and 1, got Infinity"),
    ("scale", 0, False, "algo.scale: expected a number above 0, got 0.0"),
    ("scale", [], False, "algo.scale: expected a number above 0, got []"),
    ("word", 3, False, "algo.word: expected a string, got 3"),
    ("mode", "median", True, 'algo.mode: expected one of "mean", "last", got "median"'),
    ("size", "12", True, 'algo.size: expected one of 8, 16, got "12"'),
    ("widths", "0", True, "algo.widths: expected a list of integers each at least 1, got [0]"),
    ("widths", 64, False, "algo.widths: expected a list of integers each at least 1, got 64"),
    ("widths", "a,b", True, 'algo.widths: expected a list of integers each at least 1, got "a,b"'),
    ("rates", ["x"], False, 'algo.rates: expected a list of numbers, got ["x"]'),
    ("limit", "0", True, "algo.limit: expected an integer above 0 or none, got 0"),
    ("word", None, False, "algo.word: expected a string, got none"),
    ("clip", object, False, "algo.clip: expected a number or none, got <class 'object'>"),
]


@pytest.mark.parametrize(("key", "value", "typed", "message"), MISTAKES)
def test_a_mistake_is_one_line_with_the_path_what_was_expected_and_what_came(
    key: str, value: Any, typed: bool, message: str
):
    with pytest.raises(UsageError) as caught:
        parse(Everything, {key: value}, "algo", frozenset({key} if typed else ()))
    assert str(caught.value) == message


def test_a_misspelt_option_gets_the_nearest_one():
    with pytest.raises(UsageError) as caught:
        parse(Everything, {"cuont": 1}, "algo")
    assert str(caught.value).startswith('unknown option "algo.cuont": did you mean "algo.count"')


VALID = st.fixed_dictionaries(
    {},
    optional={
        "flag": st.booleans(),
        "count": st.integers(0, 2**63 - 1),
        "rate": st.floats(0, 1),
        "scale": st.floats(0, exclude_min=True, allow_infinity=False),
        "word": st.text(st.characters(exclude_categories=["Cs"])),
        "mode": st.sampled_from(["mean", "last"]),
        "size": st.sampled_from([8, 16]),
        "widths": st.lists(st.integers(1, 2**31)),
        "rates": st.lists(st.floats(allow_nan=False, allow_infinity=False)),
        "words": st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
        "limit": st.none() | st.integers(1, 2**31),
        "clip": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "layers": st.none() | st.lists(st.integers(-(2**31), 2**31)),
        "name": st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    },
)


@given(VALID)
def test_options_written_to_toml_are_the_same_when_read(values: dict[str, Any]):
    made = parse(Everything, values, "algo")
    plain = as_dict(made)
    assert set(plain) == {row.name for row in describe(Everything)}, "every option is written out"
    back = tomllib.loads(tomli_w.dumps({"algo": plain}))["algo"]
    assert parse(Everything, back, "algo") == made


@given(VALID)
def test_numbers_and_choices_can_be_typed_as_they_are_written(values: dict[str, Any]):
    plain = {key: str(value) for key, value in values.items() if key not in ("word", "words", "name")}
    typed = parse(Everything, plain, "algo", frozenset(plain))
    for key in plain:
        expected = values[key]
        assert getattr(typed, key) == (tuple(expected) if isinstance(expected, list) else expected)


@options
class WithPresets:
    """Options with named sets of defaults; the default set changes one."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"small": {"width": 8}, "large": {"width": 64, "depth": 4}}

    preset: Literal["small", "large"] = option("small", "a set of defaults")
    width: int = option(1, "a width")
    depth: int = option(1, "a depth")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (8, 1)),
        ({"preset": "large"}, (64, 4)),
        ({"preset": "large", "width": 2}, (2, 4)),
        ({"depth": 3}, (8, 3)),
    ],
)
def test_a_preset_sets_defaults_and_what_is_given_wins(values: dict[str, Any], expected: tuple[int, int]):
    made = parse(WithPresets, values, "algo")
    assert (made.width, made.depth) == expected
    assert parse(WithPresets, as_dict(made), "algo") == made


def test_the_table_of_options_says_type_default_and_what_presets_change():
    rows = {row.name: row for row in describe(Everything)}
    assert (rows["rate"].kind, rows["rate"].default, rows["rate"].help) == (
        "a number between 0 and 1",
        "0.5",
        "a number",
    )
    assert rows["limit"].default == "none"
    assert rows["widths"].default == "[64, 64]"
    assert {row.name: row.default for row in describe(WithPresets)}["depth"] == "1; large: 4"


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        parse(Everything, {}, "algo").count = 4  # type: ignore[misc]


def test_numpys_numbers_are_numbers_and_its_booleans_are_none():
    made = parse(Everything, {"count": np.int64(4), "rate": np.float32(0.25), "widths": (np.uint8(7),)}, "x")
    assert [(type(each), each) for each in (made.count, made.rate, *made.widths)] == [(int, 4), (float, 0.25), (int, 7)]
    with pytest.raises(UsageError, match=r"count: expected an integer of at least 0, got np\.True_"):
        parse(Everything, {"count": np.True_}, "x")

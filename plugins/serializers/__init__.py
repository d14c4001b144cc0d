"""The built-in serializers: their options and records."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import Constraint, above, between, option, options
from bitrl.core.records import SerializerRecord

UNIT = r"e-?([0-2]?[0-9]{1,2}|300)([+-][0-9]+(\.[0-9]+)?)?"
"""How a unit is written (units.py)."""


@options
class TextOptions:
    """Options of the serializers that write numbers as text."""

    decimals: int | None = option(
        None, "digits after the decimal point; unset: 3, more for numbers with narrow bounds", between(0, 9)
    )


@options
class ValuesOptions(TextOptions):
    """Options of the serializer that writes numbers alone."""

    units: tuple[str, ...] | None = option(
        None,
        "unit of each number: e0 as it is, e-5, or e-1+1013 (times 0.1, plus 1013); unset: found by a run in random "
        "play, such that three decimals show size and spread",
        Constraint(lambda units: all(re.fullmatch(UNIT, unit) for unit in units), "such as e-5, e0 or e-1+1013"),
    )


@options
class BinsOptions:
    """Options of the serializer that writes integers."""

    bins: int = option(
        199,
        "bins over a number's range: 199 give the integers -99 to 99, 1999 those to 999",
        Constraint(lambda bins: 3 <= bins <= 1999 and bins % 2 == 1, "that is odd and between 3 and 1999"),
    )
    unbounded: float = option(
        10.0, "range assumed for a number without bounds, plus and minus; values outside it are clipped", above(0)
    )


@options
class CodesOptions:
    """Options of the serializer that writes learned tokens."""

    codes: int = option(256, "size of each token's codebook", between(2, 1000))
    tokens: int | None = option(
        None,
        "tokens per state, at most one per number; unset: one for every two numbers, and at least two",
        above(0),
    )
    states: int = option(4096, "states of a random policy that the codebook is fitted to", above(0))
    states_file: str | None = option(
        None,
        "fit to the states in this file instead, visited by a trained agent (bitrl eval RUN --states FILE)",
        free=True,  # the codebook is in every checkpoint
    )


@options
class TemplateOptions(TextOptions):
    """Options of the serializer that fills in a template of the user's."""

    template: str | None = option(
        None,
        "the text of a state, with fields in braces: pole at {pole_angle:.2f} rad; {{ and }} are literal braces; "
        "unset: the format of compact",
    )


@options
class HashOptions:
    """Options of the serializer that hashes texts."""

    texts: str | None = option(
        None, "serializer whose texts are hashed; unset: grid for grids, prompt for prompts, else compact"
    )
    width: int = option(512, "length of the vectors", above(0))
    ngrams: int = option(3, "length of the character n-grams hashed beside words; 0: words alone", between(0, 16))


@hookimpl
def bitrl_serializers() -> Iterator[SerializerRecord]:
    """json, natural, compact, values, bins, codes, prompt, template, grid, vector and hash."""
    yield SerializerRecord(
        name="json",
        summary='an object of named numbers: {"pole_angle": 0.012, …}',
        target="bitrl.plugins.serializers.json:JSON",
        options=TextOptions,
    )
    yield SerializerRecord(
        name="natural",
        summary="sentences, with units and directions",
        target="bitrl.plugins.serializers.natural:Natural",
        options=TextOptions,
    )
    yield SerializerRecord(
        name="compact",
        summary="short names and numbers: x=0.031 v=-0.520 …",
        target="bitrl.plugins.serializers.compact:Compact",
        options=TextOptions,
    )
    yield SerializerRecord(
        name="values",
        summary="numbers without made-up names: 0.031 -0.520 …, each part named once: place 0.500 -0.250 lamp 1",
        target="bitrl.plugins.serializers.values:Values",
        options=ValuesOptions,
        chooser="bitrl.plugins.serializers.unit_choice:choose",
    )
    yield SerializerRecord(
        name="bins",
        summary="integers from -99 to 99, scaled by the bounds, the shortest format: 1 -17 3 40",
        target="bitrl.plugins.serializers.bins:Bins",
        options=BinsOptions,
    )
    yield SerializerRecord(
        name="codes",
        summary="learned tokens of a codebook (product quantisation), finer where states are frequent: 127 40",
        target="bitrl.plugins.serializers.codes:Codes",
        options=CodesOptions,
        learns=True,
    )
    yield SerializerRecord(
        name="prompt",
        summary="the prompt unchanged, for environments whose observations are text",
        target="bitrl.plugins.serializers.prompt:Prompt",
    )
    yield SerializerRecord(
        name="template",
        summary="your own template with fields (-o serializer.template='pole at {pole_angle:.2f} rad')",
        target="bitrl.plugins.serializers.template:Template",
        options=TemplateOptions,
    )
    yield SerializerRecord(
        name="grid",
        summary="BabyAI and MiniGrid: the mission, the objects in view and where: red ball 2 ahead 1 left",
        target="bitrl.plugins.serializers.grid:Grid",
    )
    yield SerializerRecord(
        name="vector",
        summary="the numbers themselves, scaled to [-1, 1] by their bounds",
        target="bitrl.plugins.serializers.vector:Vector",
        emits="vector",
    )
    yield SerializerRecord(
        name="hash",
        summary="hashed words and n-grams of the text that another serializer writes",
        target="bitrl.plugins.serializers.hash:Hash",
        options=HashOptions,
        emits="vector",
    )

"""The built-in serializers: their options and records."""

from __future__ import annotations

from collections.abc import Iterator

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import Constraint, above, between, option, options
from bitrl.core.records import SerializerRecord


@options
class TextOptions:
    """Options of the serializers that write numbers as text."""

    decimals: int | None = option(
        None, "digits after the point; unset: 3, more for numbers whose bounds are small", between(0, 9)
    )


@options
class BinsOptions:
    """Options of the serializer that writes whole numbers."""

    bins: int = option(
        199,
        "places in a number's range: 199 are the whole numbers -99 to 99, 1999 those to 999",
        Constraint(lambda bins: 3 <= bins <= 1999 and bins % 2 == 1, "that is odd and between 3 and 1999"),
    )
    unbounded: float = option(
        10.0, "a number without bounds is taken to lie within plus and minus this, beyond it to be at the end", above(0)
    )


@options
class CodesOptions:
    """Options of the serializer that writes learned tokens."""

    codes: int = option(256, "codes to choose from for each token", between(2, 1000))
    tokens: int | None = option(
        None,
        "codes that a state is written with, at most one a number; unset: one for two numbers, and at least two",
        above(0),
    )
    states: int = option(4096, "states of random play that the codes are fitted to", above(0))
    states_file: str | None = option(
        None, "fit to the states in this file instead (bitrl eval RUN --states FILE): those that a trained agent meets"
    )


@options
class TemplateOptions(TextOptions):
    """Options of the serializer that writes the user's own sentence."""

    template: str | None = option(
        None,
        "the text of a state, its fields in braces: pole at {pole_angle:.2f} rad; a brace itself is {{ or }}; "
        "unset: as compact writes it",
    )


@hookimpl
def bitrl_serializers() -> Iterator[SerializerRecord]:
    """json, natural, compact, bins, codes, prompt, template, grid and vector."""
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
        name="bins",
        summary="whole numbers from -99 to 99 by the bounds, the shortest form: 1 -17 3 40",
        target="bitrl.plugins.serializers.bins:Bins",
        options=BinsOptions,
    )
    yield SerializerRecord(
        name="codes",
        summary="learned tokens, each for a kind of state, more where states are often: 127 40",
        target="bitrl.plugins.serializers.codes:Codes",
        options=CodesOptions,
        learns=True,
    )
    yield SerializerRecord(
        name="prompt",
        summary="a prompt as it stands, where observations are texts already",
        target="bitrl.plugins.serializers.prompt:Prompt",
    )
    yield SerializerRecord(
        name="template",
        summary="your own sentence with the fields in it (-o serializer.template='pole at {pole_angle:.2f} rad')",
        target="bitrl.plugins.serializers.template:Template",
        options=TemplateOptions,
    )
    yield SerializerRecord(
        name="grid",
        summary="BabyAI and MiniGrid: the mission, what is seen and where: red ball 2 ahead 1 left",
        target="bitrl.plugins.serializers.grid:Grid",
    )
    yield SerializerRecord(
        name="vector",
        summary="the numbers themselves, scaled to [-1, 1] by their bounds",
        target="bitrl.plugins.serializers.vector:Vector",
        emits="vector",
    )

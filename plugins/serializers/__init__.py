"""The built-in serializers: their options and records."""

from __future__ import annotations

from collections.abc import Iterator

from bitrl.core.hookspecs import hookimpl
from bitrl.core.options import between, option, options
from bitrl.core.records import SerializerRecord


@options
class TextOptions:
    """Options of the serializers that write numbers as text."""

    decimals: int | None = option(
        None, "digits after the point; unset: 3, more for numbers whose bounds are small", between(0, 9)
    )


@hookimpl
def bitrl_serializers() -> Iterator[SerializerRecord]:
    """json, natural, compact, grid and vector."""
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

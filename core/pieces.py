"""What a serializer writes, taken apart: pieces of text and formats of numbers, for programs without Python.

A serializer's `form()` gives them (interfaces.PortableSerializer); `bitrl export --c` puts them into an agent's file,
and csrc/agent/writer.c writes by them. Knows no serializer and no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs

FORMAT = re.compile(r"[+ -]?0?[0-9]{0,2}(\.[0-9]{1,2})?[efg%]")
"""Formats of numbers: a sign, a width, a count of digits and a kind."""


_DECIMALS_BELOW = ((99.9, 3), (999.0, 1), (9999.0, 0))
"""Numbers of these sizes are two tokens of the starter's vocabulary with so many decimals."""


@attrs.frozen
class Printed:
    """By one of Python's formats such as ".3f" or "+06.1f" (`FORMAT`), with no sign of zero ("-0.000" is "0.000")."""

    format: str = attrs.field(validator=attrs.validators.matches_re(FORMAT))


@attrs.frozen
class Short:
    """(number - offset) / scale, with at most `decimals` digits after the point, fewer where large: `short`."""

    decimals: int
    offset: float = 0.0
    scale: float = 1.0


@attrs.frozen
class Whole:
    """The digits of an integer."""


@attrs.frozen
class Bin:
    """Clipped to low and high, then (number - middle) · steps, rounded to the nearest integer, ±end at most."""

    low: float
    high: float
    middle: float
    steps: float
    end: int


@attrs.frozen
class Number:
    """One number of a state, by its place: as `form` writes it; without its sign (`show` "size"); or one of two words,
    the first where that is negative, the second where not.
    """

    index: int
    form: Printed | Short | Whole | Bin
    show: Literal["all", "size"] | tuple[str, str] = "all"


@attrs.frozen
class Text:
    """One text part of a state, by its place: as it is, with a full stop at its end, or as JSON in ASCII."""

    index: int
    form: Literal["verbatim", "sentence", "json"] = "verbatim"


@attrs.frozen(eq=False)
class Code:
    """The index of the code that is nearest to some of a state's numbers, standardised: these follow those of the Code
    before.

    Attributes:
        mean, scale: of the numbers, float64 [w].
        codes: float64 [c, w].
    """

    mean: Any
    scale: Any
    codes: Any


Piece = str | Number | Text | Code


@attrs.frozen(eq=False)
class Scaled:
    """No text, but a vector: (number - middle) / half of each number, float64 [k] both."""

    middle: Any
    half: Any


@attrs.frozen
class OneHot:
    """No text, but a vector of so many zeros, with a one at the place of the only number, counted from `start`."""

    start: int
    states: int


def joined(rows: Sequence[Sequence[Piece]], separator: str = " ") -> list[Piece]:
    """The pieces of several texts, with a separator between each and the next."""
    pieces: list[Piece] = []
    for index, row in enumerate(rows):
        pieces += [separator, *row] if index else row
    return pieces


def merged(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The same pieces with neighbouring strings as one, and no empty ones."""
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            yield text
        yield piece
        text = ""
    if text:
        yield text


def written(pieces: Sequence[Piece], numbers: Sequence[float], texts: Sequence[str] = ()) -> str:
    """The text of a state with these numbers and text parts."""
    out, place = [], 0
    for piece in pieces:
        if isinstance(piece, str):
            out.append(piece)
        elif isinstance(piece, Number):
            out.append(_number(piece, numbers[piece.index]))
        elif isinstance(piece, Text):
            out.append(_text(texts[piece.index], piece.form))
        else:
            own = numbers[place : place + len(piece.mean)]
            out.append(str(_nearest(piece, own)))
            place += len(own)
    return "".join(out)


def short(number: float, decimals: int) -> str:
    """A number with at most `decimals` digits after the point, fewer where it is large, and from ten thousand on as
    three digits and an exponent, 123e4: at most three tokens of the starter's vocabulary, two below that.
    """
    for limit, most in _DECIMALS_BELOW:
        if -limit < number < limit:
            return unsigned_zero(f"{number:.{min(decimals, most)}f}")
    digits, e, exponent = f"{number:.2e}".replace(".", "").partition("e")
    return f"{digits}e{int(exponent) - 2}" if e else digits  # nan and inf have none


def unsigned_zero(text: str) -> str:
    """ "-0.000" as "0.000": the sign of zero is noise to a model."""
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def _number(piece: Number, number: float) -> str:
    match piece.form:
        case Printed(format):
            sign = format[0] if format[0] in "+- " else ""
            text = f"{number:{sign}z{format[len(sign) :]}}"
        case Short(decimals, offset, scale):
            text = short((number - offset) / scale, decimals)
        case Bin(low, high, middle, steps):
            text = str(round((min(max(number, low), high) - middle) * steps))
        case Whole():
            text = str(int(number))
    if piece.show == "all":
        return text
    return text.lstrip("-") if piece.show == "size" else piece.show[not text.startswith("-")]


def _text(text: str, form: str) -> str:
    if form == "json":
        return json.dumps(text)
    return f"{text}." if form == "sentence" and not text.endswith(".") else text


def _nearest(piece: Code, numbers: Sequence[float]) -> int:
    standard = [
        min(max((x - mean) / scale, -1e6), 1e6) for x, mean, scale in zip(numbers, piece.mean, piece.scale, strict=True)
    ]
    far = [sum(c * c - 2 * c * x for c, x in zip(code, standard, strict=True)) for code in piece.codes]
    return far.index(min(far))

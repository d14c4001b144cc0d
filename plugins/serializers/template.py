"""States written by a template of the user's: "pole at {pole_angle:.2f} rad" → "pole at 0.01 rad".

Looks like Python's format strings and is a small subset: a field is a known name and optionally a number format, so
that a template from an untrusted source can only write the numbers of a state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from string import Formatter
from typing import Any

from bitrl.core.errors import UsageError
from bitrl.core.interfaces import ObservationSpec
from bitrl.core.pieces import Number, Piece, Printed, Text
from bitrl.plugins.serializers import TemplateOptions
from bitrl.plugins.serializers.compact import Compact
from bitrl.plugins.serializers.numbers import decimals_of, numbers_of, refuse_grid

_PART = re.compile(r"(?P<doubled>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<brace>[{}])")
_FORMAT = re.compile(r"([+ -]?)(0?[0-9]{0,2}(?:\.[0-9])?[efg%])")  # a sign; a width, a count of digits and a kind
_MOST_NAMES = 40  # an error lists


class Template:
    """One text per observation, written by a template; by `compact` where there is none.

    Raises:
        UsageError: the template is wrong: the message says what, where, and which fields there are.
    """

    def __init__(self, options: TemplateOptions, observation: ObservationSpec):
        refuse_grid(observation)
        if not (observation.fields or observation.texts):
            raise UsageError("serializer template needs to know the names of the fields: name an environment")
        self.observation, self.fields = observation, observation.fields
        self.compact = Compact(options, observation) if not options.template else None
        self._form = "".join(_compiled(options.template, options.decimals, observation)) if options.template else ""

    def __call__(self, observation: Any) -> str:
        """One observation → its text."""
        if self.compact is not None:
            return self.compact(observation)
        texts = [observation[name] for name in self.observation.texts]
        return self._form.format(*texts, *numbers_of(self.observation, observation))

    def form(self) -> list[Piece]:
        """What it writes, as pieces."""
        if self.compact is not None:
            return self.compact.form()
        pieces: list[Piece] = []
        texts = len(self.observation.texts)
        for text, place, format, _ in Formatter().parse(self._form):
            pieces.append(text)
            if place is not None:
                index = int(place)
                number = index - texts
                pieces.append(Text(index) if number < 0 else Number(number, Printed((format or "").replace("z", ""))))
        return pieces

    def batch(self, observations: Iterable[Any]) -> list[str]:
        """Observations [n, ...] → n texts."""
        return [self(observation) for observation in observations]


def _compiled(template: str, decimals: int | None, observation: ObservationSpec) -> Iterator[str]:
    """The parts of a format string whose fields are positions among an observation's texts and numbers.

    `str.format` never sees a name or a format that was not looked at here.
    """
    whole = observation.discrete is not None
    formats: dict[str, str | None] = dict.fromkeys(observation.texts)
    for field in observation.fields:
        formats[field.name] = f"z.{0 if whole else decimals_of(field, decimals)}f"
    names = list(formats)

    def wrong(what: str, match: re.Match[str] | None = None) -> UsageError:
        place = f"character {match.start() + 1}, {_quoted(match.group())}: " if match else ""
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        fields = ", ".join(names[:_MOST_NAMES]) + more
        return UsageError(f"serializer.template: {place}{what} (the fields of {observation.env}: {fields})")

    end, found = 0, False
    for match in _PART.finditer(template):
        yield template[end : match.start()]
        end = match.end()
        if match["doubled"]:
            yield match["doubled"]
        elif match["brace"]:
            what = "is not closed" if match["brace"] == "{" else "closes nothing"
            raise wrong(f"this brace {what}: write {match['brace'] * 2} for a literal brace", match)
        else:
            found = True
            name, colon, format = match["field"].partition(":")
            if name not in formats:
                raise wrong(f"there is no field {_quoted(name)}", match)
            default, spec = formats[name], _FORMAT.fullmatch(format)
            if colon and default is None:
                raise wrong(f"{name} is a string, and takes no format", match)
            if colon and not spec:
                raise wrong(f"{_quoted(format)} is not a number format such as .2f, +.1f, 06.2f, .3e or .0%", match)
            # z: "-0.00" is written as "0.00", since the sign of zero is noise to a model.
            yield f"{{{names.index(name)}:{f'{spec[1]}z{spec[2]}' if spec else default or ''}}}"
    if not found:
        raise wrong("expected at least one field, got none: every state would read the same")
    yield template[end:]


def _quoted(text: str) -> str:
    """A piece of a template in an error: in quotes, on one line, and short."""
    return json.dumps(text if len(text) <= 40 else text[:40] + "…", ensure_ascii=not text.isprintable())

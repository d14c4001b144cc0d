"""The kinds of components as a user writes them (`algo`, `environments`), and as the tables head them."""

from __future__ import annotations

from bitrl.core.errors import unknown

PLURALS = {
    "serializer": "serializers",
    "backbone": "backbones",
    "algorithm": "algorithms",
    "environment": "environments",
    "logger": "loggers",
    "command": "commands",
    "doctor-check": "doctor-checks",
    "energy-meter": "energy-meters",
}
"""Kind → its plural, in the order of the data flow; then what else a plugin may bring."""

PART = {kind: kind for kind in PLURALS} | {"algorithm": "algo", "environment": "env"}
"""Kind → its flag in `bitrl run`, and the section that holds its options (a logger's: `section`)."""

WITHOUT_OPTIONS = ("command", "doctor-check", "energy-meter")

_KINDS = {word: kind for kind in PLURALS for word in (kind, PLURALS[kind], PART[kind], f"{PART[kind]}s")}


def section(kind: str, name: str) -> str:
    """The section of a configuration with the options of the component of that name."""
    return f"{PART[kind]}.{name}" if kind == "logger" else PART[kind]


def parse_kind(word: str, others: tuple[str, ...] = ()) -> str:
    """The kind that `word` means; one of `others` stands for itself.

    Raises:
        UsageError: it means none.
    """
    if word in others:
        return word
    if word not in _KINDS:
        raise unknown("kind", word, [*_KINDS, *others])
    return _KINDS[word]

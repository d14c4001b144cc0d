"""The kinds of components as a user writes them (`algo`, `environments`), and as the tables head them."""

from __future__ import annotations

from bitrl.core.errors import unknown

PLURALS = {
    "serializer": "serializers",
    "backbone": "backbones",
    "algorithm": "algorithms",
    "environment": "environments",
}
"""Kind → its plural, in the order of the data's way."""

PART = {"serializer": "serializer", "backbone": "backbone", "algorithm": "algo", "environment": "env"}
"""Kind → the section of a configuration that holds its options, and its flag in `bitrl run`."""

_KINDS = {word: kind for kind in PLURALS for word in (kind, PLURALS[kind], PART[kind], f"{PART[kind]}s")}


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

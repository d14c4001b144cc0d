"""Options that are left to evidence: chosen before a run is built, by what serializers and backbones measure."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from bitrl.core.acting.contracts import calling
from bitrl.core.acting.loading import named
from bitrl.core.config import Config

PARTS = ("serializer", "backbone", "critic_backbone")
"""The serializer comes first: a backbone is judged by the texts that it will read."""


def choose(config: Config, parts: Sequence[str] = PARTS) -> tuple[Config, tuple[str, ...]]:
    """A configuration with the options that the records of these parts choose (`chooser`), and a line about each
    choice.

    Raises:
        UsageError: what is needed to choose cannot be built.
    """
    lines = []
    for part in parts:
        record = getattr(config, part)
        chooser = None if record is None else record.load_chooser()
        if chooser is None:
            continue
        with calling(named(part.removeprefix("critic_"), record)):
            found = chooser(config, part)
        if found is not None:
            options, line = found
            config = attrs.evolve(config, **{f"{part}_options": options})
            if line:
                lines.append(line)
    return config, tuple(dict.fromkeys(lines))

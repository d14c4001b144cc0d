"""Options that are left to evidence: chosen before a run is built, by what its components measure."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from bitrl.core.acting.contracts import calling
from bitrl.core.acting.loading import named
from bitrl.core.config import COMPONENTS, Config
from bitrl.core.terminal import mend_streams

PARTS = ("env", "serializer", "backbone", "critic_backbone")
"""In this order, since a serializer is judged by the states, and a backbone by the texts, that it will read."""


def choose(config: Config, parts: Sequence[str] = PARTS) -> tuple[Config, tuple[str, ...]]:
    """A configuration with the options that the records of these parts choose (`chooser`), and a line about each
    choice.

    Raises:
        UsageError: what is needed to choose cannot be built.
    """
    lines = []
    for part in parts:
        record = config.environment if part == "env" else getattr(config, part)
        chooser = None if record is None else record.load_chooser()
        if chooser is None:
            continue
        with calling(named(COMPONENTS[part], record)):
            found = chooser(config, part)
        mend_streams()  # an environment that was played may have closed them, and files would take their numbers
        if found is not None:
            options, line = found
            config = attrs.evolve(config, **{f"{part}_options": options})
            if line:
                lines.append(line)
    return config, tuple(dict.fromkeys(lines))

"""Options that are left to evidence: chosen before anything is built, by what the backbone's package measures."""

from __future__ import annotations

import attrs

from bitrl.core.acting.contracts import calling
from bitrl.core.acting.loading import named
from bitrl.core.config import Config


def choose(config: Config) -> tuple[Config, tuple[str, ...]]:
    """A configuration with the options that its backbones' records choose (BackboneRecord.chooser), and a line about
    each choice.

    Raises:
        UsageError: what is needed to choose cannot be built.
    """
    lines = []
    for part in ("backbone", "critic_backbone"):
        record = getattr(config, part)
        chooser = None if record is None else record.load_chooser()
        if chooser is None:
            continue
        with calling(named("backbone", record)):
            found = chooser(config, part)
        if found is not None:
            options, line = found
            config = attrs.evolve(config, **{f"{part}_options": options})
            lines.append(line)
    return config, tuple(dict.fromkeys(lines))

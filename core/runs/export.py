"""Exports the trained agent of a run to a standalone file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting import agents
from bitrl.core.acting.contracts import calling
from bitrl.core.acting.history import newest_of
from bitrl.core.runs.compressed_adapters import compressed_adapters
from bitrl.core.runs.listeners import Listener, teller
from bitrl.core.runs.parts import identities, learned_by_serializer
from bitrl.core.runs.progress import progress_display
from bitrl.core.runs.store import read_provenance, require_run
from bitrl.core.runs.trained import trained


def export(
    run: str | Path,
    file: str | Path,
    listeners: tuple[Listener, ...] = (),
    best: bool = False,
    bitdelta: bool = False,
    episodes: int = 10,
) -> dict[str, Any]:
    """Export the newest intact checkpoint of a run as a standalone agent (bitrl.core.acting.agents).

    Args:
        run: its directory.
        file: the agent file, replaced if it exists.
        listeners: called with every event; without any, warnings (of a damaged checkpoint) go to stderr.
        best: take the checkpoint of the best evaluation while training (`run.eval_every`) instead of the newest.
        bitdelta: store what a language model's adapters learned as one bit a weight (bitrl.core.acting.bitdelta), and
            measure what that costs.
        episodes: with `bitdelta`, how many are played to tune its scales on, and to measure the return before and
            after.

    Returns:
        file, bytes, run, env, step, serializer, backbone; with `bitdelta` also its cost, under that name
        (bitrl.core.runs.compressed_adapters).

    Raises:
        UsageError: no run or no checkpoint there, its model is not the one it was trained with, or its algorithm or
            trainable backbone cannot be exported.
        RunFailed: every checkpoint is damaged, or the file cannot be written.
    """
    if not listeners:
        with progress_display(quiet=True) as warned:
            return export(run, file, (warned,), best, bitdelta, episodes)
    directory, path = Path(run), Path(file)
    require_run(directory)
    config, parts, algorithm = trained(directory, teller(listeners), best)
    chosen, sections = config.run, config.as_dict()
    reader, provenance = parts.reader, read_provenance(directory)
    inside = reader.trainable and reader.learner is None  # the trained backbone is part of the policy network
    facts = {
        "env": chosen.env,
        "step": algorithm.step,
        "serializer": {"name": chosen.serializer, "options": sections["serializer"]},
        "backbone": None if inside else {"name": chosen.backbone, "options": sections["backbone"]},
        "identity": {} if inside else identities(parts)["features"],
        "history": chosen.history,
        "history_tokens": chosen.history_tokens,
        "observation": attrs.asdict(parts.environment.observation_spec()),
        "versions": provenance.get("versions", {}),
        **({"plugins": provenance["plugins"]} if "plugins" in provenance else {}),
    }
    example = newest_of(algorithm.task.collector.states.observations, chosen.history)
    learned = {f"serializer.{name}": array for name, array in learned_by_serializer(config, algorithm).items()}
    weights: Mapping[str, np.ndarray] = {} if reader.learner is None else reader.learner.learned()
    cost = {}
    if bitdelta:
        weights, facts["bitdelta"], cost["bitdelta"] = compressed_adapters(
            config, parts, algorithm, directory, episodes
        )
    learned |= {f"backbone.{name}": array for name, array in weights.items()}
    with calling(algorithm.task.collector.who):
        policy = algorithm.plain_policy()
    agents.write(path, facts, policy, learned, example)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "run": str(directory),
        "env": chosen.env,
        "step": algorithm.step,
        "serializer": chosen.serializer,
        "backbone": None if inside else chosen.backbone,
        **cost,
    }

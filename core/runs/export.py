"""Exports what a run learned to a standalone file: its agent, or the language model that it taught."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from bitrl.core.acting import agents, c_agents
from bitrl.core.acting.agent_checks import LEARNER
from bitrl.core.acting.contracts import calling
from bitrl.core.acting.history import newest_of
from bitrl.core.acting.policies import Policy
from bitrl.core.config import Config
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.runs.compressed_adapters import compressed_adapters
from bitrl.core.runs.listeners import Listener, teller
from bitrl.core.runs.parts import identities, learned_by_serializer
from bitrl.core.runs.progress import progress_display
from bitrl.core.runs.store import read_provenance, require_run
from bitrl.core.runs.trained import configuration, trained
from bitrl.core.wording import setting


def export(
    run: str | Path,
    file: str | Path,
    listeners: tuple[Listener, ...] = (),
    best: bool = False,
    bitdelta: bool = False,
    episodes: int = 10,
    with_optimizer: bool = False,
    c: bool = False,
) -> dict[str, Any]:
    """Export the newest intact checkpoint of a run as a standalone agent (bitrl.core.acting.agents); where the
    algorithm learns a language model, as that model (GGUF), which any backbone reads.

    Args:
        run: its directory.
        file: the agent or model file, replaced if it exists; that of a model ends in .gguf.
        listeners: called with every event; without any, warnings (of a damaged checkpoint) go to stderr.
        best: take the checkpoint of the best evaluation while training (`run.eval_every`) instead of the newest.
        bitdelta: store what a language model's adapters learned as one bit a weight (bitrl.core.acting.bitdelta), and
            measure what that costs.
        episodes: with `bitdelta`, how many are played to tune its scales on, and to measure the return before and
            after.
        with_optimizer: keep what the optimizer knows, too, so that `learn_on` goes on as if the agent had never left
            its run.
        c: write the agent for programs without Python (bitrl.core.acting.c_agents), its language model included.

    Returns:
        file, bytes, run, env, step, serializer, backbone; with `bitdelta` also its cost, under that name
        (bitrl.core.runs.compressed_adapters); of a language model also algo, and `unsupported`, what other programs
        miss in it.

    Raises:
        UsageError: no run or no checkpoint there, its model is not the one it was trained with, its algorithm or
            trainable backbone cannot be exported, a part of it cannot run without Python, or the file's name is not
            that of what is exported.
        RunFailed: every checkpoint is damaged, or the file cannot be written.
    """
    if not listeners:
        with progress_display(quiet=True) as warned:
            return export(run, file, (warned,), best, bitdelta, episodes, with_optimizer, c)
    directory, path = Path(run), Path(file)
    require_run(directory)
    config = configuration(directory, loggers=False)
    learns_model = "generation" in config.algorithm.learns_from
    _check_file(path, learns_model, bitdelta, with_optimizer, c)
    config, parts, algorithm, _ = trained(directory, teller(listeners), best)
    if learns_model:
        with calling(algorithm.task.collector.who):
            unsupported = algorithm.language_policy().write(path)
        found = _said_of(config, path, directory, algorithm.step)
        return {**found, "algo": config.run.algo, "unsupported": list(unsupported)}
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
    who = algorithm.task.collector.who
    with calling(who):
        policy: Any = algorithm.plain_policy()
    if not isinstance(policy, Policy):
        raise RunFailed(f"{who}: plain_policy() gave a {type(policy).__name__}: expected a policy of bitrl.learning")
    if c:
        backbone, spec = None if inside else reader.backbone, parts.environment.observation_spec()
        c_agents.write(path, facts, reader.serializer, backbone, spec, policy, example)
        return {**_said_of(config, path, directory, algorithm.step), "backbone": facts["backbone"] and chosen.backbone}
    learned = {f"serializer.{name}": array for name, array in learned_by_serializer(config, algorithm).items()}
    weights: Mapping[str, np.ndarray] = {} if reader.learner is None else reader.learner.learned()
    cost = {}
    if bitdelta:
        weights, facts["bitdelta"], cost["bitdelta"] = compressed_adapters(
            config, parts, algorithm, directory, episodes
        )
    learned |= {f"backbone.{name}": array for name, array in weights.items()}
    with calling(who):
        if not bitdelta:
            learner = algorithm.state() if with_optimizer else algorithm.learned()
            learned |= {f"{LEARNER}.{name}": array for name, array in learner.items()}
            whole = learner.keys() == algorithm.state().keys()
            facts[LEARNER] = {"config": sections, "features": identities(parts), "optimizer": whole}
    try:
        agents.write(path, facts, policy, learned, example)
    except ValueError as error:
        raise RunFailed(f"{who}: plain_policy() makes no whole agent: {error}: tell its authors") from error
    found = _said_of(config, path, directory, algorithm.step)
    return {**found, "backbone": None if inside else chosen.backbone, **cost}


def _said_of(config: Config, path: Path, directory: Path, step: int) -> dict[str, Any]:
    """What is said of any file that was exported."""
    run = config.run
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "run": str(directory),
        "env": run.env,
        "step": step,
        "serializer": run.serializer,
        "backbone": run.backbone,
    }


def _check_file(path: Path, learns_model: bool, bitdelta: bool, with_optimizer: bool, c: bool) -> None:
    """Refuse a file's name, or a setting, that is for something else than what the run learned."""
    if learns_model and bitdelta:
        raise UsageError(
            f"the run taught a language model, which is exported whole: leave out {setting('bitdelta')}, which "
            "compresses what an agent's adapters learned"
        )
    if with_optimizer and (learns_model or bitdelta):
        what = "a language model" if learns_model else f"an agent of {setting('bitdelta')}"
        raise UsageError(f"{what} is exported for use, not to learn on: leave out {setting('with_optimizer')}")
    if c and (learns_model or bitdelta or with_optimizer):
        other = "the language model that the run taught" if learns_model else "adapters of one bit a weight"
        other = "what the optimizer knows" if with_optimizer else other
        raise UsageError(f"an agent that runs without Python is not exported with {other}: leave out {setting('c')}")
    if learns_model and path.suffix != ".gguf":
        raise UsageError(
            f"{path}: the run taught a language model, which is exported as GGUF: choose a name that ends in .gguf"
        )
    if c and path.suffix != ".gguf":
        raise UsageError(f"{path}: agents for C are GGUF files: choose a name that ends in .gguf")
    if not learns_model and not c and path.suffix == ".gguf":
        raise UsageError(
            f"{path}: the run trained an agent, not a language model: choose a name that ends in .safetensors"
        )

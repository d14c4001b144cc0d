"""Exported agents: one file that acts, with what reads states and a trained policy, and nothing of learning.

Acting needs neither torch nor Gymnasium nor the environment: observations come from wherever the agent is at work. The
language model stays a file of its own, and must be the one that the agent was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitrl.core.acting import checkpoints
from bitrl.core.acting.checkpoints import Checkpoint, DamagedCheckpoint, with_prefix
from bitrl.core.acting.choices import states_of
from bitrl.core.acting.features import FeatureExtractor
from bitrl.core.acting.history import Memory
from bitrl.core.acting.loading import build_backbone, build_serializer
from bitrl.core.acting.plain_observations import as_array, as_plain
from bitrl.core.acting.policies import Policy, arrays_of, policy_of
from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.core.options import parse
from bitrl.core.registry import registry

FORMAT = 1
"""Of agents' files; one that is not known is refused."""


class Agent:
    """A trained agent that only acts, always as it thinks best.

    Attributes:
        facts: what it is: format, env, step, serializer, backbone, history, observation, versions …
        features: how it sees.
        policy: how it decides.
    """

    def __init__(self, file: Checkpoint, options: Mapping[str, Any], typed: bool = False):
        """Of the contents of a file, with backbone `options` in place of its own (`typed`: on a command line).

        Raises:
            UsageError: a component or the model is missing, or another one than the agent was trained with.
        """
        self.facts = file.meta
        spec = _spec_of(self.facts["observation"])
        record = registry().find("serializer", self.facts["serializer"]["name"])
        serializer = build_serializer(
            record, parse(record.options, self.facts["serializer"]["options"], "serializer"), spec, self.history
        )
        if learnt := with_prefix(file.arrays, "serializer."):
            serializer.load_state(learnt)
        self.features = FeatureExtractor(serializer, self._backbone(record, serializer, spec, options, typed))
        if self.history > 1:
            serializer.limit(self.features.backbone, self.facts["history_tokens"])
        self.policy = policy_of(self.facts["policy"], with_prefix(file.arrays, "policy."))
        self._example = file.arrays["example"]
        self._memory = Memory(self.history)

    @property
    def history(self) -> int:
        """How many states of an episode it looks at."""
        return int(self.facts["history"])

    @property
    def example(self) -> Any:
        """An observation as plain data: what `act` may be given."""
        return as_plain(self._example[0])

    def reset(self) -> None:
        """An episode begins: forget the one before. Only an agent that looks at several states remembers any."""
        self._memory.clear()

    def act(self, observation: Any) -> int | np.ndarray:
        """The best action for an observation, as the environment takes it: a whole number, or float32 [...].

        Args:
            observation: as the environment gives it, or as plain data; where not everything can be done in every state,
                {"observation": …, "commands": [texts]}, of which the action is an index, or {…, "action_mask": [0, 1]}.

        Raises:
            UsageError: it is not of the kind or shape that this agent reads.
        """
        seen = as_array(observation, like=self._example)
        states = states_of(seen)
        if self.history > 1:
            written = [self.features.serializer(self._memory.add(states[0]))]
            inputs = written if isinstance(written[0], str) else np.stack(written)
        else:
            inputs = self.features.serializer.batch(states)
        features, choices = self.features.encode(inputs), self.features.choices(seen)
        [action] = self.policy(features, choices, self.features.choices.features)
        chosen: int | np.ndarray = action if np.ndim(action) else action.item()
        return chosen

    def _backbone(
        self, serializer_record: Any, serializer: Any, spec: ObservationSpec, given: Mapping[str, Any], typed: bool
    ) -> Any:
        if self.facts["backbone"] is None:
            if given:
                raise UsageError("this agent reads no model, so it has no options of a backbone: leave them out")
            return _Vectors(serializer.width)
        name, options = self.facts["backbone"]["name"], self.facts["backbone"]["options"]
        record = registry().find("backbone", name)
        values = parse(record.options, {**options, **given}, "backbone", frozenset(given) if typed else frozenset())
        try:
            backbone = build_backbone(record, values, serializer_record, serializer, spec)
        except UsageError as error:
            if getattr(values, "model", None) is None or "model" in given:
                raise
            raise UsageError(f"{error} (if it is elsewhere now: -o backbone.model=FILE)") from None
        old, new = self.facts["identity"], {key: each for key, each in backbone.identity.items() if each is not None}
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if changed:
            remedy = "name its model's file (model=FILE)" if "model_sha256" in changed else "leave out what sets that"
            raise UsageError(
                f"the agent's backbone is not the one it was trained with ({', '.join(changed)} changed): {remedy}"
            )
        return backbone


class _Vectors:
    """Stands for a backbone that was trained, and is now part of the policy's network."""

    identity: Mapping[str, Any] = {}

    def __init__(self, width: int):
        self.width = width

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        """Vectors float32 [n, k], as they are."""
        return inputs


def load_agent(path: str | Path, **backbone_options: Any) -> Agent:
    """An agent that `bitrl export` wrote; `.act(observation)` gives its action. It needs no torch.

    Args:
        path: its file.
        backbone_options: in place of the run's, as `threads=1`, or `model=FILE` where the model's file is elsewhere.

    Raises:
        UsageError: no such file, no agent, or its model is not there or another one.
    """
    return Agent(read(Path(path)), backbone_options)


def read(path: Path) -> Checkpoint:
    """The contents of an agent's file.

    Raises:
        UsageError: no such file, damaged, or no agent.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: if it holds a run, make an agent of it first with bitrl export")
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    try:
        found = checkpoints.read(path)
    except DamagedCheckpoint as error:
        raise UsageError(f"{path}: no agent, or a damaged one: {error}") from None
    if not isinstance(found.meta, dict) or "agent" not in found.meta:
        raise UsageError(f"{path}: a checkpoint and no agent: make one of its run with bitrl export")
    if found.meta["agent"] != FORMAT:
        raise UsageError(f"{path}: written by another version of bitrl (format {found.meta['agent']}, not {FORMAT})")
    return found


def write(
    path: Path, facts: Mapping[str, Any], policy: Policy, learnt: Mapping[str, np.ndarray], seen: np.ndarray
) -> None:
    """Write an agent's file.

    Args:
        path: of the file, which is replaced if it is there.
        facts: see `Agent`; "agent" and "policy" are added.
        policy: one of bitrl.core.acting.policies.
        learnt: by the serializer, as its `state()` has it.
        seen: observations [n, ...] as the environment gives them, one at least.

    Raises:
        RunFailed: it cannot be written; nothing is left behind.
    """
    facts = {"agent": FORMAT, **facts, "policy": policy.kind}
    arrays = {f"policy.{name}": array for name, array in arrays_of(policy).items()}
    arrays |= {f"serializer.{name}": array for name, array in learnt.items()}
    write_atomically(path, checkpoints.as_bytes(Checkpoint({**arrays, "example": seen[:1]}, facts)))


def _spec_of(data: Mapping[str, Any]) -> ObservationSpec:
    """The specification that `attrs.asdict` took apart, after its way through JSON."""
    fields, texts = tuple(Field(**field) for field in data["fields"]), tuple(data["texts"])
    return ObservationSpec(**{**data, "fields": fields, "texts": texts})

"""Exported agents: one file with a trained policy and what reads its states, without anything used for training.

Acting needs neither torch nor Gymnasium nor the environment: observations come from wherever the agent is deployed. The
language model stays in a separate file, and must be the one that the agent was trained with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitrl.core.acting import bitdelta, c_agents, checkpoints
from bitrl.core.acting.admissible import COMMANDS, MASK, splits, states_of
from bitrl.core.acting.agent_checks import check_arrays, check_facts
from bitrl.core.acting.checkpoints import Checkpoint, DamagedCheckpoint, with_prefix
from bitrl.core.acting.contracts import plain_identity
from bitrl.core.acting.explanation import Explanation, explained
from bitrl.core.acting.history import StateHistory
from bitrl.core.acting.loading import build_backbone, build_serializer, named
from bitrl.core.acting.nested import leaves, part_at, taken_apart
from bitrl.core.acting.plain_observations import as_array, as_plain
from bitrl.core.acting.policies import FactoredPolicy, Policy, arrays_of, policy_of
from bitrl.core.acting.states import StateReader, States, identity_changes
from bitrl.core.errors import UsageError
from bitrl.core.files import write_atomically
from bitrl.core.interfaces import Field, ObservationSpec, TokenizingBackbone
from bitrl.core.options import parse
from bitrl.core.provided import check_provided
from bitrl.core.registry import registry
from bitrl.core.wording import program, setting

FORMAT = 1
"""The version of the file format; any other is refused."""

REMEDIES = {
    "model_sha256": "give its model file (model=FILE)",
    "first_token": "train and export it again: texts were read without the first token that this file asks for",
    "last_token": "train and export it again: texts were read without the last token that this file asks for",
}
"""What to do where the backbone is another one, by what has changed of its identity."""


class Agent:
    """A trained agent that only acts, with greedy actions. Any number of threads and episodes may share it.

    Attributes:
        facts: what it is: format, env, step, serializer, backbone, history, observation, versions …
        reader: reads states.
        policy: chooses actions.
    """

    def __init__(self, file: Checkpoint, options: Mapping[str, Any], typed: bool = False):
        """From the contents of a file, with backbone `options` overriding its own (`typed`: from a command line).

        Raises:
            UsageError: a component or the model is missing, or is not the one that the agent was trained with.
        """
        self.facts = file.meta
        names = {part: (self.facts[part] or {}).get("name") for part in ("serializer", "backbone")}
        check_provided("the agent", names, self.facts)
        spec = _spec_of(self.facts["observation"])
        record = registry().find("serializer", self.facts["serializer"]["name"], built_in_first=True)
        serializer = build_serializer(
            record,
            parse(record.options, self.facts["serializer"]["options"], "the agent's serializer"),
            spec,
            self.history,
        )
        if record.learns:
            _restore(serializer.load_state, file, "serializer")
        backbone = self._backbone(record, serializer, spec, options, typed)
        if with_prefix(file.arrays, "backbone."):
            _restore(lambda arrays: backbone.load_learned(self._learned(backbone, arrays)), file, "backbone")
        if self.history > 1 and isinstance(backbone, TokenizingBackbone):
            serializer.limit(backbone.token_counts, self.facts["history_tokens"])
        called = {"serializer": named("serializer", record)}
        if names["backbone"] is not None:
            called["backbone"] = named("backbone", registry().find("backbone", names["backbone"], built_in_first=True))
        self.reader = StateReader(serializer, backbone, names=called)
        self.policy = policy_of(self.facts["policy"], with_prefix(file.arrays, "policy."))
        for name, width in (("network", self.reader.width), ("keys", self.reader.command_width)):
            network = getattr(self.policy, name, None)
            if network is not None and len(network.mean) != width:
                raise UsageError(
                    f"the agent's {name} takes {len(network.mean)} features, but its states have {width}: export it "
                    f"again with {program()} export"
                )
        self._example = file.arrays["example"]

    @property
    def history(self) -> int:
        """How many of the latest states of an episode it reads."""
        return int(self.facts["history"])

    @property
    def examples(self) -> list[Any]:
        """Observations as plain data, at least one: examples of the input of `act`."""
        return [as_plain(each) for each in self._example]

    @property
    def example(self) -> Any:
        """The first of `examples`."""
        return as_plain(self._example[0])

    @property
    def observation_dtype(self) -> np.dtype:
        """Of an observation as an array; a record where it has several parts."""
        return self._example.dtype

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of an observation as an array."""
        return self._example.shape[1:]

    @property
    def commanded(self) -> bool:
        """Whether its observations have commands, of which its actions are one."""
        names = self.observation_dtype.names
        return splits(names) and names is not None and COMMANDS in names

    def remembers_alike(self, other: Agent) -> bool:
        """Whether an episode that `other` began can go on with this agent: its history has as many states, of the same
        kind.
        """
        own, others = states_of(self._example), states_of(other._example)
        return self.history == other.history and (own.dtype, own.shape) == (others.dtype, others.shape)

    def episode(self) -> Episode:
        """Start an episode, which holds the history of its states."""
        return Episode(self)

    def act(self, observation: Any) -> Any:
        """The greedy action for an observation, as the environment takes it: an integer, an array [...], or dicts and
        tuples of these.

        Args:
            observation: as the environment gives it, or as plain data; where not all actions are always admissible,
                {"observation": …, "commands": [strings]} (the action is an index), or {…, "action_mask": [0, 1]}: of
                several factors, all their masks one after another, or as the environment's own `info` has it.

        Raises:
            UsageError: the observation has the wrong type or shape, or the agent reads several states of an episode
                (then use `episode().act`).
        """
        return self.act_batch([observation])[0]

    def act_batch(self, observations: Sequence[Any], episodes: Sequence[Episode] | None = None) -> list[Any]:
        """The greedy actions for n observations, all encoded in one batch.

        Args:
            observations: each as in `act`.
            episodes: the episode that each observation belongs to, all different; an agent that reads one state at
                a time needs none.

        Raises:
            UsageError: as `act`. Then, as after any other error, no episode has recorded its observation.
        """
        return self.act_rows(self.rows(observations), episodes)

    def explain(self, observations: Sequence[Any], episodes: Sequence[Episode] | None = None) -> list[Explanation]:
        """As `act_batch`, with what the agent read of each observation and how probable each action was."""
        return self.explain_rows(self.rows(observations), episodes)

    def rows(self, observations: Sequence[Any]) -> np.ndarray:
        """Observations, each as in `act`, as an array [n, ...] for `act_rows`.

        Raises:
            UsageError: one of them has the wrong type or shape.
        """
        arrays = [as_array(self._with_flat_mask(each), like=self._example) for each in observations]
        return np.concatenate(arrays) if arrays else self._example[:0]

    def act_rows(self, rows: np.ndarray, episodes: Sequence[Episode] | None = None) -> list[Any]:
        """As `act_batch`, of an array that `rows` made."""
        if not len(rows):
            return []
        states, memories = self._states(rows, episodes)
        actions = self._actions(states)
        _remember(episodes, memories)
        return actions

    def explain_rows(self, rows: np.ndarray, episodes: Sequence[Episode] | None = None) -> list[Explanation]:
        """As `explain`, of an array that `rows` made."""
        if not len(rows):
            return []
        states, memories = self._states(rows, episodes)
        found = explained(self.policy, states, self._actions(states))
        _remember(episodes, memories)
        return found

    def _states(self, rows: np.ndarray, episodes: Sequence[Episode] | None) -> tuple[States, list[StateHistory]]:
        """The states that observations lead to, and the history that each episode then has; none of them has yet."""
        if self.history > 1 and episodes is None:
            raise UsageError(
                f"this agent reads the last {self.history} states of an episode: start one with agent.episode(), "
                "and pass it the observations: episode.act(observation)"
            )
        if episodes is not None and len(episodes) != len(rows):
            raise UsageError(f"expected an episode for each of {len(rows)} observations, got {len(episodes)}")
        if self.history == 1:
            return States(rows, self.reader), []
        memories = [episode.memory.copy() for episode in episodes or ()]
        newest = states_of(rows)
        written = [self.reader.write_window(memory.add(state)) for memory, state in zip(memories, newest, strict=True)]
        return States(rows, self.reader, written if isinstance(written[0], str) else np.stack(written)), memories

    def _actions(self, states: States) -> list[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            chosen = self.policy(states)
        for path, *_ in leaves(chosen.dtype):
            numbers = part_at(chosen, path)
            if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
                raise UsageError(
                    "the agent's network gives numbers beyond float32 for this observation, which is not like those "
                    f"that it was trained on, or its weights are damaged: export it again with {program()} export"
                )
        return [_as_taken(action) for action in chosen]

    def _with_flat_mask(self, observation: Any) -> Any:
        """The observation with its action mask as `FactoredActions.flat_mask` makes it, where actions have factors."""
        policy = self.policy
        masked = isinstance(policy, FactoredPolicy) and policy.actions.values and splits(self._example.dtype.names)
        if not isinstance(policy, FactoredPolicy) or not masked:
            return observation
        if not isinstance(observation, Mapping) or MASK not in observation:
            return observation
        try:
            return {**observation, MASK: policy.actions.flat_mask(observation[MASK])}
        except ValueError as error:
            raise UsageError(f'"{MASK}"{error}') from None

    def _learned(self, backbone: Any, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What the backbone learned, which the file may have as signs and scales of its change."""
        if "bitdelta" not in self.facts:
            return arrays
        base = backbone.learned()
        if bitdelta.digest(base) != self.facts["bitdelta"]:
            raise UsageError(
                "the agent's adapters are stored as changes of initial weights other than its backbone has here: "
                f"export it again with {program()} export"
            )
        return bitdelta.restore(base, arrays)

    def _backbone(
        self, serializer_record: Any, serializer: Any, spec: ObservationSpec, given: Mapping[str, Any], typed: bool
    ) -> Any:
        if self.facts["backbone"] is None:
            if given:
                raise UsageError("this agent uses no language model, so it has no backbone options: remove them")
            if serializer_record.emits != "vector":
                raise UsageError(
                    f"the agent's serializer, {serializer_record.name}, writes texts, which it has no backbone to "
                    f"read: export it again with {program()} export"
                )
            return _Vectors(serializer.width)
        name, options = self.facts["backbone"]["name"], self.facts["backbone"]["options"]
        record = registry().find("backbone", name, built_in_first=True)
        values = parse(record.options, {**options, **given}, "backbone", frozenset(given) if typed else frozenset())
        try:
            backbone = build_backbone(record, values, serializer_record, serializer, spec)
        except UsageError as error:
            if getattr(values, "model", None) is None or "model" in given:
                raise
            where = "-o backbone.model=FILE" if typed else "load_agent(..., model=FILE)"
            raise UsageError(f"{error} (if the model file has moved: {where})") from None
        old, new = self.facts["identity"], plain_identity(named("backbone", record), backbone.identity)
        if changed := identity_changes(old, new):
            remedy = next((REMEDIES[each] for each in changed if each in REMEDIES), "remove the options that set it")
            raise UsageError(
                f"the agent's backbone is not the one it was trained with ({', '.join(changed)} changed): {remedy}"
            )
        return backbone


class Episode:
    """One episode of a deployed agent, with the history of its last states. Not to be shared between threads."""

    def __init__(self, agent: Agent):
        self.agent, self.memory = agent, StateHistory(agent.history)

    def act(self, observation: Any) -> Any:
        """The greedy action for the episode's newest observation; see `Agent.act`."""
        return self.agent.act_batch([observation], [self])[0]

    def reset(self) -> None:
        """Start another episode: forget the history."""
        self.memory.clear()


class _Vectors:
    """Placeholder for a trained backbone, which is part of the policy network."""

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
        backbone_options: override the run's, for example `threads=1`, or `model=FILE` where the model file has moved.

    Raises:
        UsageError: no such file, not an agent, or its model is missing or a different one.
    """
    return Agent(read(Path(path)), backbone_options)


def read(path: Path) -> Checkpoint:
    """The contents of an agent file.

    Raises:
        UsageError: no such file, damaged, not an agent, or one whose facts or weights cannot be.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: if it holds a run, export it first with {program()} export")
    if not path.is_file():
        raise UsageError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    try:
        found = checkpoints.read(path)
    except DamagedCheckpoint as error:
        with contextlib.suppress(OSError):  # what could not be read may not be readable now
            _refuse_gguf(path)
        raise UsageError(f"{path}: not an agent, or damaged: {error}") from None
    if not isinstance(found.meta, dict) or "agent" not in found.meta:
        raise UsageError(f"{path}: a checkpoint, not an agent: export its run with {program()} export")
    if found.meta["agent"] != FORMAT:
        other = str(found.meta["agent"])[:40]
        raise UsageError(f"{path}: written by another version of bitrl (expected format {FORMAT}, got {other})")
    try:
        check_facts(found.meta)
        check_arrays(found)
    except ValueError as error:
        raise UsageError(f"{path}: not a whole agent: {error}: export it again with {program()} export") from None
    return found


def _refuse_gguf(path: Path) -> None:
    """Raises UsageError, with what it is for, where a file begins as an agent for C or a model file does."""
    if c_agents.is_one(path):
        raise UsageError(
            f"{path}: an agent for programs without Python: run it with build/bitrl-act (make act, docs/c.md), or "
            f"export its run without {setting('c')}"
        )
    with open(path, "rb") as file:
        if file.read(4) == b"GGUF":
            raise UsageError(
                f"{path}: a language model (GGUF), not an agent: llama.cpp completes prompts by it, and in Python "
                f'bitrl.load_backbone("fp32", model="{path}").language_policy().generate(prompts, max_tokens)'
            )


def write(
    path: Path, facts: Mapping[str, Any], policy: Policy, learned: Mapping[str, np.ndarray], example: np.ndarray
) -> None:
    """Write an agent file.

    Args:
        path: the file, replaced if it exists.
        facts: see `Agent`; "agent" and "policy" are added.
        policy: one of bitrl.core.acting.policies.
        learned: the learned arrays of the serializer (its `state()`, prefixed "serializer.") and the backbone (its
            `learned()`, prefixed "backbone.").
        example: observations [n, ...] as the environment gives them, at least one.

    Raises:
        ValueError: the policy's arrays do not fit together, as nobody could read it then.
        RunFailed: it cannot be written; nothing is left behind.
    """
    facts = {"agent": FORMAT, **facts, "policy": policy.kind}
    arrays = {f"policy.{name}": array for name, array in arrays_of(policy).items()}
    arrays |= {**learned, "example": example[:1]}
    whole = Checkpoint(arrays, facts)
    check_arrays(whole)
    write_atomically(path, checkpoints.as_bytes(whole), "name another file")


def _restore(load: Callable[[Mapping[str, np.ndarray]], None], file: Checkpoint, part: str) -> None:
    """Have a component `load` what it learned. Raises UsageError if the file does not hold what it expects."""
    try:
        load(with_prefix(file.arrays, f"{part}."))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the agent's {part} cannot be restored ({type(error).__name__}: {error}): export it again with "
            f"{program()} export"
        ) from error


def _remember(episodes: Sequence[Episode] | None, memories: Sequence[StateHistory]) -> None:
    """Let episodes have the histories that they have after an action."""
    for episode, memory in zip(episodes or (), memories, strict=False):
        episode.memory = memory


def _spec_of(data: Mapping[str, Any]) -> ObservationSpec:
    """The specification that `attrs.asdict` took apart, after its way through JSON."""
    fields, texts = tuple(Field(**field) for field in data["fields"]), tuple(data["texts"])
    parts, images = tuple(map(tuple, data.get("parts", ()))), tuple(data.get("images", ()))
    return ObservationSpec(**{**data, "fields": fields, "texts": texts, "parts": parts, "images": images})


def _as_taken(action: Any) -> Any:
    """A policy's action as an environment takes it: a number as Python's own, a record as dicts and tuples."""
    if isinstance(action, np.void):
        action = taken_apart(action)
    if isinstance(action, dict):
        return {name: _as_taken(part) for name, part in action.items()}
    if isinstance(action, tuple):
        return tuple(map(_as_taken, action))
    return action if np.ndim(action) else action.item()

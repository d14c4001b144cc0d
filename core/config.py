"""What a run is: the chosen components and their options, resolved from TOML, the command line or Python.

Resolving reads records and options classes only, so a mistake is found before anything heavy is imported or built.
"""

from __future__ import annotations

import contextlib
import importlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import attrs

from bitrl.core.errors import UsageError, unknown
from bitrl.core.options import above, as_dict, at_least, option, options, parse
from bitrl.core.records import (
    AlgorithmRecord,
    BackboneRecord,
    EnvironmentRecord,
    LearnsFrom,
    LoggerRecord,
    SerializerRecord,
)
from bitrl.core.registry import registry
from bitrl.core.wording import setting

PARTS = ("run", "env", "serializer", "backbone", "critic_backbone", "algo")
"""The sections of a configuration; `-o algo.clip_coef=0.2` sets `clip_coef` in `[algo]`."""

COMPONENTS = {
    "env": "environment",
    "backbone": "backbone",
    "critic_backbone": "backbone",
    "serializer": "serializer",
    "algo": "algorithm",
}
"""The options of the run that name a component, each with a section of its own, and of which kind."""

LOGGER = "logger."
"""What the section of a logger's options begins with: `-o logger.csv.NAME=VALUE` sets `NAME` in `[logger.csv]`."""

ANY_GYMNASIUM_ID = "gymnasium"
"""The environment record that stands for every id that no plugin has registered."""


REGISTERED_BY = {"BabyAI-": "minigrid", "MiniGrid-": "minigrid"}
"""Packages whose Gymnasium ids exist once they are imported, by how the ids begin."""


@options
class RunOptions:
    """The run itself: which components, how long, which seed."""

    env: str = option("CartPole-v1", "environment: a name from `bitrl list` or any Gymnasium id")
    backbone: str = option("bitnet", "what turns states into features")
    critic_backbone: str | None = option(
        None, "backbone of the critic (the value function), which reads the same texts; unset: the policy's"
    )
    serializer: str | None = option(None, "how a state is written down; unset: json for texts, vector for vectors")
    algo: str = option("ppo", "what learns from the features")
    steps: int = option(100_000, "environment steps to train for, over all environments", at_least(0))
    seed: int = option(0, "seed of everything random", at_least(0))
    num_envs: int = option(16, "environments stepped side by side", above(0))
    eval_episodes: int = option(100, "episodes of the evaluation after training", at_least(0))
    checkpoint_every: int = option(5, "updates between two checkpoints", above(0))
    history: int = option(1, "states of the episode that are read at once, the newest last", above(0))
    history_tokens: int = option(
        256, "tokens that the text of several states may have: the oldest are left out", above(0)
    )
    loggers: tuple[str, ...] = option((), "loggers that are told the metrics, beside metrics.jsonl")


@attrs.frozen
class ChosenLogger:
    """A logger of a run: the name that it was chosen by, its record and its options."""

    name: str
    record: LoggerRecord
    options: Any


@attrs.frozen
class Config:
    """A resolved run: the records of its components and an options object for each part.

    `critic_backbone` and its options are None where the critic reads the policy's backbone.
    """

    run: RunOptions
    environment: EnvironmentRecord
    serializer: SerializerRecord
    backbone: BackboneRecord
    critic_backbone: BackboneRecord | None
    algorithm: AlgorithmRecord
    env_options: Any
    serializer_options: Any
    backbone_options: Any
    critic_backbone_options: Any
    algo_options: Any
    loggers: tuple[ChosenLogger, ...] = ()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The configuration as plain data, every option written out: what `config.toml` holds."""
        parts = (self.run, *(getattr(self, f"{name}_options") for name in PARTS[1:]))
        plain = {name: as_dict(values) for name, values in zip(PARTS, parts, strict=True) if values is not None}
        if self.loggers:
            plain["logger"] = {logger.name: as_dict(logger.options) for logger in self.loggers}
        return plain


def resolve(values: Mapping[str, Mapping[str, Any]], text: Mapping[str, frozenset[str]] | None = None) -> Config:
    """Find the components that `values` names and build their options.

    Args:
        values: part → option → value. What is unset comes from the environment's record, then from the options classes.
            The options of a logger are in a part `logger.NAME`, or in `logger` by its name.
        text: part → the options whose value was typed on a command line and is a string.

    Raises:
        UsageError: unknown part, component or option, an ill-typed value, or components that do not fit.
    """
    text, values = text or {}, _flat(values)
    for part in values:
        check_part(part, "options are written part.option=value")
    chosen = parse(RunOptions, values.get("run", {}), "run", text.get("run", frozenset()))
    environment = find_environment(chosen.env)
    run_values = {**_defaults(environment, "run", values), **values.get("run", {})}
    run = parse(RunOptions, run_values, "run", text.get("run", frozenset()))
    backbone: BackboneRecord = registry().find("backbone", run.backbone)
    critic: BackboneRecord | None = registry().find("backbone", run.critic_backbone) if run.critic_backbone else None
    if run.serializer is None:
        forms = [form for form in backbone.accepts if critic is None or form in critic.accepts] or backbone.accepts
        run_values["serializer"] = "json" if "text" in forms else "vector"
        run = parse(RunOptions, run_values, "run", text.get("run", frozenset()))
    serializer: SerializerRecord = registry().find("serializer", str(run.serializer))
    run = _with_current_names(run)
    algorithm: AlgorithmRecord = registry().find("algorithm", run.algo)
    check_fit(serializer, backbone)
    if critic is not None:
        check_critic(algorithm, critic, backbone, serializer)
    elif values.get("critic_backbone"):
        raise UsageError(
            f"critic_backbone.{next(iter(values['critic_backbone']))}: the critic has no backbone of its own to set it "
            f"for: name one with {setting('critic_backbone')}, or leave that part out"
        )

    loggers = []
    for name in run.loggers:
        logger: LoggerRecord = registry().find("logger", name)
        logger.check_needs()
        part = LOGGER + name
        own: Any = parse(logger.options, values.get(part, {}), part, text.get(part, frozenset()))
        loggers.append(ChosenLogger(name, logger, own))
    if len(set(run.loggers)) < len(run.loggers):
        raise UsageError(f"run.loggers: one is named twice in {', '.join(run.loggers)}: name each once")
    for part in values:
        if part.startswith(LOGGER) and part.removeprefix(LOGGER) not in run.loggers:
            raise UsageError(
                f"{part} has options, but the run has no such logger: name it in run.loggers, or leave them out"
            )

    def options_of(part: str, cls: type) -> Any:
        # The environment's defaults may be meant for another component than the chosen one.
        own = attrs.fields_dict(cls)
        # What an environment asks of a backbone, it asks of the critic's too.
        tuned = _defaults(environment, part.removeprefix("critic_"), values) | _defaults(environment, part, values)
        defaults = {key: value for key, value in tuned.items() if key in own}
        return parse(cls, {**defaults, **values.get(part, {})}, part, text.get(part, frozenset()))

    config = Config(
        run=run,
        environment=environment,
        serializer=serializer,
        backbone=backbone,
        critic_backbone=critic,
        algorithm=algorithm,
        env_options=options_of("env", environment.options),
        serializer_options=options_of("serializer", serializer.options),
        backbone_options=options_of("backbone", backbone.options),
        critic_backbone_options=options_of("critic_backbone", critic.options) if critic is not None else None,
        algo_options=options_of("algo", algorithm.options),
        loggers=tuple(loggers),
    )
    check_learning(config)
    check_critic_learning(config)
    return config


def _with_current_names(run: RunOptions) -> RunOptions:
    """The run's options with components called as they are now: configurations of old runs may hold aliases."""
    named = {part: getattr(run, part) for part in COMPONENTS if part != "env" and getattr(run, part) is not None}
    current = {part: registry().current_name(COMPONENTS[part], name) for part, name in named.items()}
    options: Any = run  # its decorator hides from type checkers that it is an attrs class
    evolved: RunOptions = attrs.evolve(options, **current)
    return evolved


def overlay(
    below: Mapping[str, Mapping[str, Any]], above: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The settings of a file with others laid over them, and which of the file's options were left out: where another
    component is named than the file's, those that it does not have.

    Raises:
        UsageError: there is no such component.
    """
    left_out = []
    values = {part: dict(section) for part, section in below.items()}
    for part, kind in COMPONENTS.items():
        old, before, chosen = values.get(part), below.get("run", {}).get(part), above.get("run", {}).get(part)
        if not old or chosen is None or before in (None, chosen):  # a file that names none means whichever it is
            continue
        known: Mapping[str, Any] = {}
        if str(chosen).strip().lower() not in ("none", ""):
            record = find_environment(chosen) if part == "env" else registry().find(kind, chosen)
            known = attrs.fields_dict(record.options)
        left_out += [f"{part}.{name}" for name in old if name not in known]
        values[part] = {name: value for name, value in old.items() if name in known}
    if "loggers" in above.get("run", {}):
        chosen = above["run"]["loggers"]
        names = [name.strip() for name in chosen.split(",")] if isinstance(chosen, str) else chosen
        for part in [part for part in values if part.startswith(LOGGER) and part.removeprefix(LOGGER) not in names]:
            left_out += [f"{part}.{name}" for name in values.pop(part)]
    for part, section in above.items():
        values[part] = {**values.get(part, {}), **section}
    return values, left_out


def find_environment(name: str) -> EnvironmentRecord:
    """The record of an environment; a name no plugin has registered is taken as a Gymnasium id.

    Raises:
        UsageError: Gymnasium does not know it either; names the nearest ids.
    """
    names = {entry.record.name for entry in registry().entries["environment"]}
    if name in names or (":" in name and name.partition(":")[2] in names):
        named: EnvironmentRecord = registry().find("environment", name)
        return named
    import gymnasium

    for beginning, package in REGISTERED_BY.items():
        if name.startswith(beginning):
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
    if ":" not in name and name not in gymnasium.registry:
        raise unknown("environment", name, (names | set(gymnasium.registry)) - {ANY_GYMNASIUM_ID})
    any_id: EnvironmentRecord = registry().find("environment", ANY_GYMNASIUM_ID)
    return any_id


def check_fit(serializer: SerializerRecord, backbone: BackboneRecord) -> None:
    """Refuse a serializer whose output the backbone does not read, and name those that fit."""
    if serializer.emits in backbone.accepts:
        return
    entries = registry().entries
    serializers = [e.record.name for e in entries["serializer"] if e.record.emits in backbone.accepts]  # type: ignore[attr-defined]
    backbones = [e.record.name for e in entries["backbone"] if serializer.emits in e.record.accepts]  # type: ignore[attr-defined]
    raise UsageError(
        f'serializer "{serializer.name}" emits {serializer.emits}, but backbone "{backbone.name}" reads '
        f"{' or '.join(backbone.accepts)}: use {setting('serializer', *sorted(serializers))}, "
        f"or {setting('backbone', *sorted(backbones))}"
    )


def check_learning(config: Config) -> None:
    """Refuse a backbone that does not provide, by its record and options, what the algorithm learns from, and name
    those that fit.
    """
    algorithm, backbone = config.algorithm, config.backbone
    learns_from = " or ".join(algorithm.learns_from)
    trains = backbone.trains(config.backbone_options)
    lacking = "features" if trains else "gradients"  # what is trained has no features that stay the same
    offered = [each for each in backbone.provides if each in get_args(LearnsFrom) and each != lacking]
    if set(offered) & set(algorithm.learns_from):
        return
    entries = registry().entries
    option = backbone.needs_option.get("gradients")
    if "gradients" in algorithm.learns_from and option is not None:
        raise UsageError(
            f'algorithm "{algorithm.name}" learns from {learns_from}, and backbone "{backbone.name}" provides that if '
            f"an option asks for it: set {setting(f'backbone.{option}', 'VALUE')}"
        )
    backbones = sorted(
        entry.record.name
        for entry in entries["backbone"]
        if set(entry.record.provides) & set(algorithm.learns_from)  # type: ignore[attr-defined]
    )
    algorithms = sorted(
        entry.record.name
        for entry in entries["algorithm"]
        if set(entry.record.learns_from) & set(offered)  # type: ignore[attr-defined]
    )
    others = [
        *([setting("backbone", *backbones)] if backbones else []),
        *([setting("algo", *algorithms)] if algorithms else []),
    ]
    remedies = [f"leave out backbone.{option}"] if trains and option and "features" in algorithm.learns_from else []
    remedies += [f"use {', or '.join(others)}"] if others else []
    provided = " and ".join(offered) or "neither features nor gradients"
    raise UsageError(
        f'algorithm "{algorithm.name}" learns from {learns_from}, but backbone "{backbone.name}" provides {provided}'
        + (f": {', or '.join(remedies)}" if remedies else "")
    )


def check_critic_learning(config: Config) -> None:
    """Refuse a language model of the critic's own that learns: only one shared with the policy does."""
    record, options = config.critic_backbone, config.critic_backbone_options
    if record is None or (record, options) == (config.backbone, config.backbone_options):
        return
    if record.trains(options) and config.serializer.emits == "text":
        raise UsageError(
            f"critic_backbone.{record.needs_option.get('gradients', 'name')}: a critic's own language model stays "
            f"frozen: leave that out, or let policy and critic share one (leave out {setting('critic_backbone')})"
        )


def check_critic(
    algorithm: AlgorithmRecord, critic: BackboneRecord, backbone: BackboneRecord, serializer: SerializerRecord
) -> None:
    """Refuse a critic's backbone that the algorithm has no use for, or that does not read what the policy's reads."""
    entries = registry().entries
    if not algorithm.critic_backbone:
        able = [e.record.name for e in entries["algorithm"] if e.record.critic_backbone]  # type: ignore[attr-defined]
        raise UsageError(
            f'algorithm "{algorithm.name}" has no critic that could read a backbone of its own: '
            f"leave out {setting('critic_backbone')}, or use {setting('algo', *sorted(able))}"
        )
    if serializer.emits in critic.accepts:
        return
    critics = [e.record.name for e in entries["backbone"] if serializer.emits in e.record.accepts]  # type: ignore[attr-defined]
    both = set(critic.accepts) & set(backbone.accepts)
    serializers = [e.record.name for e in entries["serializer"] if e.record.emits in both]  # type: ignore[attr-defined]
    raise UsageError(
        f'critic backbone "{critic.name}" reads {" or ".join(critic.accepts)}, but serializer "{serializer.name}", '
        f'which also writes for backbone "{backbone.name}", emits {serializer.emits}: '
        f"use {setting('critic_backbone', *sorted(critics))}"
        + (f", or {setting('serializer', *sorted(serializers))}" if both else "")
    )


def check_commands(config: Config) -> None:
    """Refuse an algorithm that cannot choose among texts, in an environment whose actions are texts."""
    if not config.algorithm.commands:
        entries = registry().entries["algorithm"]
        able = [e.record.name for e in entries if e.record.commands]  # type: ignore[attr-defined]
        raise UsageError(
            f'algorithm "{config.algorithm.name}" cannot choose among texts, which are the actions of '
            f"{config.run.env}: use {setting('algo', *sorted(able))}"
        )


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """The configuration in a TOML file; sections other than the parts (versions, identity) are left out.

    Raises:
        UsageError: no such file, not TOML, or not made of sections.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    data.pop("provenance", None)
    for part, section in data.items():
        if not isinstance(section, dict):
            raise UsageError(
                f"{path}: {part} stands outside a section: write it under one of {', '.join(f'[{p}]' for p in PARTS)}"
            )
        if part not in (*PARTS, "logger"):
            raise UsageError(f"{path}: unknown section [{part}]: the sections are {', '.join(f'[{p}]' for p in PARTS)}")
    return _flat(data)


def _flat(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`values` with the options of each logger, which TOML nests in `logger`, in a part of their own."""
    flat = {part: dict(section) for part, section in values.items() if part != "logger"}
    for name, section in values.get("logger", {}).items():
        if not isinstance(section, Mapping):
            raise UsageError(f"logger.{name} stands outside a section: write it under [logger.NAME], as [logger.csv]")
        flat[LOGGER + name] = dict(section)
    return flat


def check_part(part: str, hint: str) -> None:
    """Raise UsageError for a part of a configuration that does not exist."""
    if part not in PARTS and not part.startswith(LOGGER):
        raise unknown("part", part, (*PARTS, f"{LOGGER}NAME"), hint)


def without_loggers(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of a run that is not to be trained on: its loggers need not be installed here."""
    kept = {part: dict(section) for part, section in values.items() if not part.startswith(LOGGER)}
    kept.get("run", {}).pop("loggers", None)
    return kept


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """`("algo.clip_coef=0.2", …)` → `{"algo": {"clip_coef": "0.2"}}`.

    Raises:
        UsageError: one is not of the form part.option=value, or its part does not exist.
    """
    values: dict[str, dict[str, str]] = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        part, dot, name = path.strip().rpartition(".")
        if not (equals and dot and name):
            raise UsageError(f'-o "{assignment}": write it as part.option=value, for example -o algo.clip_coef=0.2')
        check_part(part, f'in -o "{assignment}"')
        values.setdefault(part, {})[name] = value
    return values


def _defaults(environment: EnvironmentRecord, part: str, values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is set in `part` unless the user sets it: by the environment's record for every algorithm, by it for the
    chosen algorithm, and by the algorithm's record for this environment; the later wins.

    A preset that the user chose wins in what presets are about; the others, such as how to explore this environment,
    stay.
    """
    chosen = values.get("run", {})
    name = str(chosen.get("algo", environment.defaults.get("run.algo", RunOptions().algo)))
    algorithm: AlgorithmRecord = registry().find("algorithm", name)
    id = environment.name if environment.name != ANY_GYMNASIUM_ID else chosen.get("env", RunOptions().env)
    layers = (environment.defaults, environment.tuned.get(algorithm.name, {}), algorithm.tuned.get(id, {}))
    merged = {path: value for layer in layers for path, value in layer.items()}
    prefix = f"{part}."
    found = {path.removeprefix(prefix): value for path, value in merged.items() if path.startswith(prefix)}
    if part == "algo" and "preset" in values.get("algo", {}):
        presets = getattr(algorithm.options, "presets", {})
        return {key: value for key, value in found.items() if not any(key in preset for preset in presets.values())}
    return found

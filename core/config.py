"""The configuration of a run: components and their options, resolved from TOML, the command line or Python.

Resolving reads records and options classes only, so mistakes are found before anything heavy is imported or built.
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
from bitrl.core.options import Constraint, above, as_dict, at_least, between, kept, option, options, parse, shown
from bitrl.core.process_memory import parse_size
from bitrl.core.records import (
    AlgorithmRecord,
    BackboneRecord,
    EnvironmentRecord,
    LearnsFrom,
    LoggerRecord,
    SerializerRecord,
)
from bitrl.core.registry import BUILT_IN, registry
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
"""The run's options that name a component (each has its own section) → the kind of component."""

LOGGER = "logger."
"""The prefix of a logger's section: `-o logger.csv.NAME=VALUE` sets `NAME` in `[logger.csv]`."""

ANY_GYMNASIUM_ID = "gymnasium"
"""The environment record used for every id that no plugin has registered."""


REGISTERED_BY = {"ALE/": "ale_py", "BabyAI-": "minigrid", "MiniGrid-": "minigrid"}
"""Prefix of Gymnasium ids → the package that registers them on import."""


MOST_STEPS = 10**12
"""More than any machine takes: a slip of the keyboard."""

MOST_HISTORY = 1000
"""States read together: far more than a model's context holds."""


@options
class RunOptions:
    """The run itself: components, length and seed."""

    env: str = option("CartPole-v1", "environment: a name from `bitrl list` or any Gymnasium id")
    backbone: str = option("bitnet", "computes features from states")
    critic_backbone: str | None = option(
        None, "backbone of the critic (value function), given the same texts; unset: the policy's"
    )
    serializer: str | None = option(
        None,
        "how states are written as text or vectors; unset: the environment's, or json for text (prompt where the "
        "algorithm's actions are texts), vector for vectors (hash where the environment's states are texts)",
    )
    algo: str = option("ppo", "learning algorithm")
    steps: int = option(
        100_000,
        "environment steps to train for, summed over all parallel environments",
        Constraint(lambda steps: 0 <= steps <= MOST_STEPS, f"between 0 and {MOST_STEPS:,}"),
        free=True,
    )
    seed: int = option(0, "random seed", at_least(0))
    num_envs: int = option(16, "parallel environments", above(0))
    eval_episodes: int = option(100, "episodes in the evaluation after training", at_least(0), free=True)
    eval_max_steps: int | None = option(
        None,
        "steps after which an evaluation episode is cut off, counting with its return so far; unset: never",
        above(0),
        free=True,
    )
    eval_every: int | None = option(
        None,
        "steps between evaluations while training (evaluations.jsonl; the best checkpoint is kept); unset: only at the "
        "end",
        above(0),
        free=True,
    )
    eval_every_episodes: int = option(10, "episodes of each of those", above(0), free=True)
    memory_limit: str | None = option(
        None,
        "resident memory that the process may take: planned for before the start, kept to while running; unset: any",
        Constraint(lambda size: parse_size(size) is not None, 'such as "300MB" or "1.5GB"'),
        free=True,
    )
    checkpoint_every: int = option(5, "updates between checkpoints", above(0), free=True)
    history: int = option(
        1,
        "how many of the latest states of the episode are read together, newest last",
        between(1, MOST_HISTORY),
    )
    history_tokens: int = option(256, "token limit for the text of several states: the oldest are dropped", above(0))
    loggers: tuple[str, ...] = option((), "loggers that receive the metrics, in addition to metrics.jsonl", free=True)


@attrs.frozen
class ChosenLogger:
    """A logger of a run: the name it was chosen by, its record and its options."""

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

    def _parts(self) -> dict[str, Any]:
        """The options object of each part that there is."""
        found = {"run": self.run, **{name: getattr(self, f"{name}_options") for name in PARTS[1:]}}
        return {name: values for name, values in found.items() if values is not None}

    def kept(self) -> dict[str, dict[str, Any]]:
        """What a resumed run keeps of the configuration, as plain data: all options but the free ones (`option`)."""
        return {name: kept(values) for name, values in self._parts().items()}

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The configuration as plain data, defaults included: the contents of `config.toml`."""
        plain = {name: as_dict(values) for name, values in self._parts().items()}
        if self.loggers:
            plain["logger"] = {logger.name: as_dict(logger.options) for logger in self.loggers}
        return plain


def resolve(
    values: Mapping[str, Mapping[str, Any]], text: Mapping[str, frozenset[str]] | None = None, *, saved: bool = False
) -> Config:
    """Find the components that `values` names and build their options.

    Args:
        values: part → option → value. What is unset comes from the environment's record, then from the options classes.
            The options of a logger are in a part `logger.NAME`, or in `logger` by its name.
        text: part → the options whose value was typed on a command line and is a string.
        saved: `values` are the configuration that a run was started with, not chosen now.

    Raises:
        UsageError: unknown part, component or option, a value of the wrong type, or incompatible components.
    """
    text, values = text or {}, by_part(values)
    for part in values:
        check_part(part, "options are written part.option=value")
    chosen = parse(RunOptions, values.get("run", {}), "run", text.get("run", frozenset()))
    named = {} if saved else values.get("run", {})

    def find(part: str, name: str) -> Any:
        return registry().find(COMPONENTS[part], name, built_in_first=part not in named)

    environment = find_environment(chosen.env, built_in_first="env" not in named)
    run_values = {**_defaults(environment, "run", values), **values.get("run", {})}
    run = parse(RunOptions, run_values, "run", text.get("run", frozenset()))
    backbone: BackboneRecord = find("backbone", run.backbone)
    critic: BackboneRecord | None = find("critic_backbone", run.critic_backbone) if run.critic_backbone else None
    if run.serializer is not None and values.get("run", {}).get("serializer") is None:
        tuned: SerializerRecord = find("serializer", run.serializer)
        if tuned.emits not in backbone.accepts:  # a backbone of vectors, which reads numbers, or else hashed texts
            run_values["serializer"] = "vector" if environment.name == ANY_GYMNASIUM_ID else "hash"
            run = parse(RunOptions, run_values, "run", text.get("run", frozenset()))
    algorithm: AlgorithmRecord = find("algo", run.algo)
    answers = set(algorithm.actions or ()) == {"Text"}
    unnamed = environment.name == ANY_GYMNASIUM_ID and values.get("run", {}).get("serializer") is None
    if run.serializer is None or (answers and unnamed):
        forms = [form for form in backbone.accepts if critic is None or form in critic.accepts] or backbone.accepts
        run_values["serializer"] = ("prompt" if answers else "json") if "text" in forms else "vector"
        run = parse(RunOptions, run_values, "run", text.get("run", frozenset()))
    serializer: SerializerRecord = find("serializer", str(run.serializer))
    run = _with_current_names(run)
    check_fit(serializer, backbone)
    if critic is not None:
        check_critic(algorithm, critic, backbone, serializer)
    elif values.get("critic_backbone"):
        raise UsageError(
            f"critic_backbone.{next(iter(values['critic_backbone']))}: no critic backbone is chosen: choose one with "
            f"{setting('critic_backbone')}, or remove this option"
        )

    loggers = []
    for name in run.loggers:
        logger: LoggerRecord = registry().find("logger", name, built_in_first=saved)
        logger.check_needs()
        part = LOGGER + name
        own: Any = parse(logger.options, values.get(part, {}), part, text.get(part, frozenset()))
        loggers.append(ChosenLogger(name, logger, own))
    if len(set(run.loggers)) < len(run.loggers):
        raise UsageError(f"run.loggers: duplicate name in {', '.join(run.loggers)}: name each logger once")
    for part in values:
        if part.startswith(LOGGER) and part.removeprefix(LOGGER) not in run.loggers:
            raise UsageError(
                f"{part} has options, but the run does not use this logger: "
                "add it to run.loggers, or remove the options"
            )

    def options_of(part: str, cls: type) -> Any:
        # The environment's defaults may be for a component other than the chosen one.
        own = attrs.fields_dict(cls)
        # An environment's backbone defaults also apply to the critic's backbone.
        tuned = _defaults(environment, part.removeprefix("critic_"), values) | _defaults(environment, part, values)
        without = own.keys() - _overridden(cls, values.get(part, {}))
        defaults = {key: value for key, value in tuned.items() if key in without}
        silent = saved or registry().package(environment) == BUILT_IN  # those are tuned for the defaults of bitrl
        for key in sorted(tuned.keys() - own.keys()) if not silent else ():
            component = run.env if part == "env" else getattr(run, part)
            registry().report(
                f"environment {run.env} sets {part}.{key}, an option that {component} does not have: it is ignored"
            )
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
    """The run's options with current component names: configurations of old runs may contain aliases."""
    named = {part: getattr(run, part) for part in COMPONENTS if part != "env" and getattr(run, part) is not None}
    current = {part: registry().current_name(COMPONENTS[part], name) for part, name in named.items()}
    options: Any = run  # type checkers do not see that it is an attrs class
    evolved: RunOptions = attrs.evolve(options, **current)
    return evolved


def overlay(
    below: Mapping[str, Mapping[str, Any]], above: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Merge two sets of settings, `above` taking precedence. Where `above` names another component than `below`, the
    options that the new component does not have are dropped.

    Returns:
        The merged settings, and the dropped options.

    Raises:
        UsageError: there is no such component.
    """
    left_out = []
    values = {part: dict(section) for part, section in below.items()}
    for part, kind in COMPONENTS.items():
        old, before, chosen = values.get(part), below.get("run", {}).get(part), above.get("run", {}).get(part)
        if not old or chosen is None or before in (None, chosen):  # a file that names none fits any
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


def find_environment(name: str, *, built_in_first: bool = False) -> EnvironmentRecord:
    """The record of an environment; a name that no plugin has registered is taken to be a Gymnasium id.

    `built_in_first`: see `Registry.find`.

    Raises:
        UsageError: Gymnasium does not know it either; the message suggests similar ids.
    """
    # `package:name` is a plugin's only if such a package is one: a fork's `module:CartPole-v1` is Gymnasium's to make.
    if registry().knows("environment", name):
        named: EnvironmentRecord = registry().find("environment", name, built_in_first=built_in_first)
        return named
    import gymnasium

    for beginning, package in REGISTERED_BY.items():
        if name.startswith(beginning):
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
    if ":" not in name and name not in gymnasium.registry:
        from bitrl.core.foreign_ids import not_registered

        if (known_elsewhere := not_registered(name)) is not None:
            raise known_elsewhere
        names = {entry.record.name for entry in registry().entries["environment"]}
        raise unknown("environment", name, (names | set(gymnasium.registry)) - {ANY_GYMNASIUM_ID})
    any_id: EnvironmentRecord = registry().find("environment", ANY_GYMNASIUM_ID, built_in_first=True)
    return any_id


def check_fit(serializer: SerializerRecord, backbone: BackboneRecord) -> None:
    """Refuse a serializer whose output the backbone does not accept, and name compatible ones."""
    if serializer.emits in backbone.accepts:
        return
    entries = registry().entries
    serializers = [e.record.name for e in entries["serializer"] if e.record.emits in backbone.accepts]  # type: ignore[attr-defined]
    backbones = [e.record.name for e in entries["backbone"] if serializer.emits in e.record.accepts]  # type: ignore[attr-defined]
    raise UsageError(
        f'serializer "{serializer.name}" emits {serializer.emits}, but backbone "{backbone.name}" accepts '
        f"{' or '.join(backbone.accepts)}: use {setting('serializer', *sorted(serializers))}, "
        f"or {setting('backbone', *sorted(backbones))}"
    )


def check_learning(config: Config) -> None:
    """Refuse a backbone that does not provide (by its record and options) what the algorithm learns from, and name
    compatible ones.
    """
    algorithm, backbone = config.algorithm, config.backbone
    learns_from = " or ".join(algorithm.learns_from)
    trains = backbone.trains(config.backbone_options)
    lacking = "features" if trains else "gradients"  # the features of a trained backbone change
    offered = [each for each in backbone.provides if each in get_args(LearnsFrom) and each != lacking]
    if found := set(offered) & set(algorithm.learns_from):
        if found == {"generation"}:
            _check_no_features(config)
        return
    entries = registry().entries
    option = backbone.needs_option.get("gradients")
    if "gradients" in algorithm.learns_from and option is not None:
        raise UsageError(
            f'algorithm "{algorithm.name}" learns from {learns_from}, which backbone "{backbone.name}" provides only '
            f"with an option: set {setting(f'backbone.{option}', 'VALUE')}"
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
    remedies = [f"remove backbone.{option}"] if trains and option and "features" in algorithm.learns_from else []
    remedies += [f"use {', or '.join(others)}"] if others else []
    provided = " and ".join(offered) or "neither features nor gradients"
    raise UsageError(
        f'algorithm "{algorithm.name}" learns from {learns_from}, but backbone "{backbone.name}" provides {provided}'
        + (f": {', or '.join(remedies)}" if remedies else "")
    )


def _check_no_features(config: Config) -> None:
    """Refuse options of the features that nothing reads beside an algorithm that learns from generation."""
    fields = attrs.fields_dict(type(config.backbone_options))
    for name in config.backbone.feature_options:
        if getattr(config.backbone_options, name) != fields[name].default:
            raise UsageError(
                f'backbone.{name} shapes the features of a text, and algorithm "{config.algorithm.name}" learns from '
                "texts that the model generates, not from features: leave it out"
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
    """Refuse a critic backbone that the algorithm does not support, or that does not accept the policy's inputs."""
    entries = registry().entries
    if not algorithm.critic_backbone:
        able = [e.record.name for e in entries["algorithm"] if e.record.critic_backbone]  # type: ignore[attr-defined]
        raise UsageError(
            f'algorithm "{algorithm.name}" does not support a separate critic backbone: '
            f"remove {setting('critic_backbone')}, or use {setting('algo', *sorted(able))}"
        )
    if serializer.emits in critic.accepts:
        return
    critics = [e.record.name for e in entries["backbone"] if serializer.emits in e.record.accepts]  # type: ignore[attr-defined]
    both = set(critic.accepts) & set(backbone.accepts)
    serializers = [e.record.name for e in entries["serializer"] if e.record.emits in both]  # type: ignore[attr-defined]
    raise UsageError(
        f'critic backbone "{critic.name}" accepts {" or ".join(critic.accepts)}, but serializer "{serializer.name}", '
        f'also used by backbone "{backbone.name}", emits {serializer.emits}: '
        f"use {setting('critic_backbone', *sorted(critics))}"
        + (f", or {setting('serializer', *sorted(serializers))}" if both else "")
    )


def check_commands(config: Config) -> None:
    """Refuse an algorithm that cannot choose among text commands, in an environment whose actions are commands."""
    if not config.algorithm.commands:
        entries = registry().entries["algorithm"]
        able = [e.record.name for e in entries if e.record.commands]  # type: ignore[attr-defined]
        raise UsageError(
            f'algorithm "{config.algorithm.name}" does not support text commands, the actions of '
            f"{config.run.env}: use {setting('algo', *sorted(able))}"
        )
    if getattr(config.backbone_options, "pooling", None) == "field":
        raise UsageError(
            f'backbone.pooling "field" reads the numbers of a state, and the actions of {config.run.env} are commands, '
            'which have none: choose "mean" or "last"'
        )


def check_actions(config: Config, space: str) -> None:
    """Refuse an algorithm that does not support the environment's action space, called as Gymnasium's class."""
    supported = config.algorithm.actions
    if supported is None or space in supported:
        return
    algorithms = [
        entry.record.name
        for entry in registry().entries["algorithm"]
        if space in (entry.record.actions or ())  # type: ignore[attr-defined]
    ]
    remedy = (
        f"use {setting('algo', *sorted(algorithms))}"
        if algorithms
        else "no installed algorithm supports them in this version"
    )
    raise UsageError(
        f'algorithm "{config.algorithm.name}" supports {" and ".join(supported)} actions, but those of '
        f"{config.run.env} are {space}: {remedy}"
    )


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    """The configuration in a TOML file; the section of provenance is ignored.

    Raises:
        UsageError: no such file, not TOML, or not made of sections.
    """
    data = load_toml(path)
    data.pop("provenance", None)
    for part, section in data.items():
        if not isinstance(section, dict):
            raise UsageError(
                f"{path}: {part} is outside any section: put it under one of {', '.join(f'[{p}]' for p in PARTS)}"
            )
        if part not in (*PARTS, "logger"):
            raise UsageError(f"{path}: unknown section [{part}]: the sections are {', '.join(f'[{p}]' for p in PARTS)}")
    return by_part(data)


def provenance_in(path: Path) -> dict[str, Any]:
    """The `[provenance]` of a run's config.toml; empty in a file without one.

    Raises:
        UsageError: as `read_toml`, or a part of it was edited to be no table.
    """
    provenance = load_toml(path).get("provenance", {})
    if not isinstance(provenance, dict):
        return {}
    for part in ("versions", "plugins", "features", "critic_features"):
        if not isinstance(provenance.get(part, {}), dict):
            raise UsageError(
                f"{path}: provenance.{part}: expected a table, got {shown(provenance[part])}: write back what was there"
            )
    return provenance


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file as it is.

    Raises:
        UsageError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte-order mark
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UsageError(f"{path}: not a configuration: it nests lists or tables too deeply") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, an integer of thousands of digits
        raise UsageError(f"{path}: not a TOML file: {error}") from None


def by_part(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`values` with each logger's options, which TOML nests in `logger`, as a part of their own."""
    flat = {part: dict(section) for part, section in values.items() if part != "logger"}
    for name, section in values.get("logger", {}).items():
        if not isinstance(section, Mapping):
            raise UsageError(
                f"logger.{name} is not a section: options go under [logger.NAME], for example [logger.csv]"
            )
        flat[LOGGER + name] = dict(section)
    return flat


def check_part(part: str, hint: str) -> None:
    """Raise UsageError for a part of a configuration that does not exist."""
    if part not in PARTS and not part.startswith(LOGGER):
        raise unknown("part", part, (*PARTS, f"{LOGGER}NAME"), hint)


def without_loggers(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of a run that will not be trained further: its loggers need not be installed."""
    kept = {part: dict(section) for part, section in values.items() if not part.startswith(LOGGER)}
    kept.get("run", {}).pop("loggers", None)
    return kept


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """`("algo.clip_coef=0.2", …)` → `{"algo": {"clip_coef": "0.2"}}`.

    Raises:
        UsageError: one does not have the form part.option=value, or its part does not exist.
    """
    values: dict[str, dict[str, str]] = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        part, dot, name = path.strip().rpartition(".")
        if not (equals and dot and name):
            raise UsageError(f'-o "{assignment}": expected part.option=value, for example -o algo.clip_coef=0.2')
        check_part(part, f'in -o "{assignment}"')
        values.setdefault(part, {})[name] = value
    return values


def _overridden(cls: type, chosen: Mapping[str, Any]) -> set[str]:
    """Options of a component whose defaults by an environment do not hold beside what the user has chosen: its options
    class says so in `overrides`, {(option, value or predicate): other options}.
    """
    overrides: Mapping[tuple[str, Any], tuple[str, ...]] = getattr(cls, "overrides", {})

    def holds(name: str, value: Any) -> bool:
        return name in chosen and (value(chosen[name]) if callable(value) else chosen[name] == value)

    return {other for (name, value), others in overrides.items() if holds(name, value) for other in others}


def _defaults(environment: EnvironmentRecord, part: str, values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The defaults of `part` for this environment. Precedence, highest first: the algorithm's record (`tuned`), the
    environment's record for this algorithm (`tuned`), the environment's record for all algorithms (`defaults`).

    A preset that the user chose takes precedence over these for every option that any preset sets.
    """
    chosen = values.get("run", {})
    name = str(chosen.get("algo", environment.defaults.get("run.algo", RunOptions().algo)))
    algorithm: AlgorithmRecord = registry().find("algorithm", name, built_in_first=True)
    id = environment.name if environment.name != ANY_GYMNASIUM_ID else chosen.get("env", RunOptions().env)
    layers = (environment.defaults, environment.tuned.get(algorithm.name, {}), algorithm.tuned.get(id, {}))
    merged = {path: value for layer in layers for path, value in layer.items()}
    prefix = f"{part}."
    found = {path.removeprefix(prefix): value for path, value in merged.items() if path.startswith(prefix)}
    if part == "algo" and "preset" in values.get("algo", {}):
        presets = getattr(algorithm.options, "presets", {})
        return {key: value for key, value in found.items() if not any(key in preset for preset in presets.values())}
    return found

"""What a study compares: a TOML file → its arms (configurations) and cells (an arm with a seed).

The file has settings that all cells share, axes of which every combination is an arm, changes that are made one at a
time, and arms with names:

    [study]
    seeds = "0-4"

    [base.run]                          # sections and options as in a run's config.toml
    steps = 50_000

    [grid]                              # every combination
    env = ["CartPole-v1", "Acrobot-v1"]
    backbone = ["bitnet", "bf16", { name = "hybrid", backbone = "bitnet", critic_backbone = "int8" }]

    [one-at-a-time]                     # each value alone, beside the unchanged combination
    "algo.ent_coef" = [0.0, 0.01]

    [arms.no-clipping]                  # an arm by name, in each combination of the grid
    "algo.max_grad_norm" = 1e9
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

import attrs

from bitrl.core.config import COMPONENTS, Config, RunOptions, check_part, resolve
from bitrl.core.errors import UsageError, unknown

SECTIONS = ("study", "base", "grid", "one-at-a-time", "arms")
SHORT = (*COMPONENTS, "steps")
"""Options of the run that are written without their part: `backbone` is `run.backbone`."""

Settings = Mapping[str, Any]
"""Option paths → values, for example {"run.backbone": "bitnet", "algo.clip_coef": 0.2}."""

Parts = Mapping[str, Mapping[str, Any]]
"""The same by part, as a configuration has them: {"run": {"backbone": "bitnet"}, "algo": {"clip_coef": 0.2}}."""


@attrs.frozen
class Choice:
    """A value of an axis: what it is called, and the settings that it stands for."""

    label: str
    settings: Settings

    @property
    def of_task(self) -> bool:
        """Whether it says what the environment is, and nothing of what is compared there."""
        return bool(self.settings) and all(path == "run.env" or path.startswith("env.") for path in self.settings)


@attrs.frozen
class Arm:
    """A configuration that is compared, to be trained with several seeds.

    Attributes:
        label: what distinguishes it from the others of its task, for example "backbone=int8"; "base" if nothing does.
        env: the environment.
        values: its settings by part, without the seed.
        title: its label with the options of the environment that are varied, which make another task of it.
        folder: the name of its directory: readable, and another one if any setting is another. An arm that was called
            otherwise before keeps the one that it had.
    """

    label: str
    env: str
    values: Parts = attrs.field(eq=False)
    title: str
    folder: str = attrs.field()

    @folder.default
    def _folder(self) -> str:
        text = json.dumps(self.values, sort_keys=True)
        slug = re.sub(r"[^A-Za-z0-9_.=-]+", "_", self.name)[:80]
        return f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def digest(self) -> str:
        """The end of its directory's name, which is of its settings alone."""
        return self.folder.rpartition("-")[2]

    @property
    def name(self) -> str:
        """Its environment and its title."""
        return f"{self.env} {self.title}"

    def config(self, seed: int) -> Config:
        """Its resolved configuration with a seed.

        Raises:
            UsageError: it cannot be composed; the message names the arm.
        """
        values = {**self.values, "run": {**self.values.get("run", {}), "seed": seed}}
        # A text is read as one typed on a command line: "8" for a number, "64,64" for a list.
        typed = {
            part: frozenset(name for name, value in section.items() if isinstance(value, str))
            for part, section in values.items()
        }
        try:
            return resolve(values, typed)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from None


@attrs.frozen
class Cell:
    """One run of a study: an arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """As tables and messages show it."""
        return f"{self.arm.name} seed {self.seed}"

    @property
    def path(self) -> Path:
        """Its run's directory, below the study's."""
        return Path("runs", self.arm.folder, f"seed{self.seed}")


@attrs.frozen
class Design:
    """The arms of a study and the seeds of each.

    `ignored` are settings of the base that an arm has no use for, `same` arms that are another one by another name:
    lines that say so.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    baseline: str | None = None
    ignored: tuple[str, ...] = ()
    same: tuple[str, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """Every arm with every seed. All arms with the first seed come first, so that a table fills early."""
        return [Cell(arm, seed) for seed in self.seeds for arm in self.arms]


def read_design(path: Path) -> dict[str, Any]:
    """The contents of a study's file.

    Raises:
        UsageError: no such file, not TOML, or an unknown section.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    for section, content in data.items():
        if section not in SECTIONS:
            raise unknown("section", section, SECTIONS, f"in {path}")
        if not isinstance(content, dict):
            raise UsageError(f"{path}: expected [{section}] to be a section, got {content!r}")
    for name, value in _leaves(data):
        if _has_time(value):
            raise UsageError(f"{path}: {name}: no option is a date or a time")
    return data


def build_design(data: Mapping[str, Any]) -> Design:
    """The arms and seeds of a study's file, each arm resolved: what cannot be composed is found before anything runs.

    Raises:
        UsageError: an unknown option, an empty axis, or an arm that cannot be composed, named.
    """
    study = dict(data.get("study", {}))
    seeds = parse_seeds(study.pop("seeds", [0]))
    baseline = None if (named := study.pop("baseline", None)) is None else str(named)  # 5 names the arm of [arms.5]
    if study:
        raise unknown("option", next(iter(study)), ("seeds", "baseline"), "of a study", prefix="study.")
    base = _parts(_settings(data.get("base", {})))
    axes = _axes(data.get("grid", {}))
    axes = [[attrs.evolve(each, label="") for each in axis] if len(axis) == 1 else axis for axis in axes]
    named = [_named(name, settings) for name, settings in data.get("arms", {}).items()]
    changes = [each for axis in _axes(data.get("one-at-a-time", {})) for each in axis]
    if changes or not named:
        changes.insert(0, Choice("", {}))

    arms, ignored, twins = [], [], []
    found: dict[str, Arm] = {}
    for combination in itertools.product(*axes):
        for change in (*changes, *named):
            choices = [each for each in combination if each.settings.keys() != {"run.env"}]
            choices = [each for each in (*choices, change) if each.label]
            # An environment and its options are a task, no part of a label: arms are compared in each task.
            title = " ".join(each.label for each in choices) or "base"
            label = " ".join(each.label for each in choices if not each.of_task) or "base"
            settings: dict[str, Any] = {}
            for choice in (*combination, change):
                settings |= choice.settings
            arm, dropped = _arm(label, title, base, _parts(settings))
            other = found.setdefault(json.dumps(arm.config(0).as_dict(), sort_keys=True, default=str), arm)
            if other is not arm:
                if other.label == arm.label and other.name != arm.name:
                    raise UsageError(f"{arm.name}: is the same as {other.name}: remove one of the two")
                twins.append(f"{arm.name} is the same configuration as {other.name}: both are trained")
            arms.append(arm)
            ignored.append(dropped)
    unused = set.intersection(*map(set, ignored)) if arms else set()
    if unused:
        raise UsageError(f"base.{min(unused)}: no arm has a component with this option")
    if len({arm.folder for arm in arms}) < len(arms):
        twice = next(arm.name for arm in arms if [each.folder for each in arms].count(arm.folder) > 1)
        raise UsageError(f"{twice}: is in the study twice: remove one of the two")
    names = [arm.name for arm in arms]
    if same := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{same[0]}: two arms of the study are called so: rename one of them")
    labels = {arm.label for arm in arms}
    if baseline is not None and baseline not in labels:  # said now, not when all is trained
        raise unknown("arm", baseline, labels, "as study.baseline")
    words = [f"{arm.name}: {', '.join(dropped)}" for arm, dropped in zip(arms, ignored, strict=True) if dropped]
    return Design(tuple(arms), seeds, baseline, tuple(words), tuple(twins))


def parse_seeds(seeds: Any) -> tuple[int, ...]:
    """Seeds as a list of integers, or as text: "0-4" or "0,3,5-7".

    Raises:
        UsageError: neither, or none.
    """
    found: list[int] = []
    if isinstance(seeds, str):
        for part in seeds.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()) or len(first + last) > 20:
                raise UsageError(f'seeds: expected integers such as "0-4" or "0,1,2", got "{seeds}"')
            few = range(int(first), int(last if dash else first) + 1)
            if not few:
                raise UsageError(
                    f'seeds: expected the smaller number first, as in "{last}-{first}", got "{part.strip()}"'
                )
            if len(found) + (few[-1] - few[0]) >= 10_000:
                raise UsageError(f'seeds: expected at most 10,000, got "{seeds}"')
            found += few
    elif isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds):
        found = [*seeds]
    elif type(seeds) is int and seeds >= 0:
        found = [seeds]
    else:
        raise UsageError(f'seeds: expected a list of integers, or text such as "0-4", got {seeds!r}')
    if not found:
        raise UsageError("seeds: expected at least one, got none")
    if len(set(found)) < len(found):
        raise UsageError(f"seeds: each seed can be given once, got {seeds!r}")
    return tuple(found)


def parse_variation(text: str) -> tuple[str, list[str]]:
    """`"backbone=bitnet,int8"` → ("backbone", ["bitnet", "int8"]); commas inside brackets belong to a value.

    Raises:
        UsageError: it does not have the form OPTION=VALUE,VALUE, or a bracket is not closed.
    """
    path, equals, values = text.partition("=")
    if not equals or not path.strip():
        raise UsageError(f'--vary "{text}": expected OPTION=VALUE,VALUE, for example --vary backbone=bitnet,int8')
    if re.search(r"[\[\]]", re.sub(r"\[[^\[\]]*\]", "", values)):
        raise UsageError(f'--vary "{text}": its brackets do not match: a list is written [64,64]')
    parts = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", values)
    return path.strip(), [part.strip() for part in parts if part.strip()]


def _arm(label: str, title: str, base: Parts, own: Parts) -> tuple[Arm, list[str]]:
    """An arm with its `own` settings above those of the base, and the options of the base that its components do not
    have.
    """
    run = {**base.get("run", {}), **own.get("run", {})}
    env = str(run.get("env", RunOptions().env))
    # Which components there are does not depend on their options.
    chosen = Arm(label, env, {**own, "run": run}, title).config(0)
    records = {
        "env": chosen.environment,
        "serializer": chosen.serializer,
        "backbone": chosen.backbone,
        "critic_backbone": chosen.critic_backbone,
        "algo": chosen.algorithm,
    }
    values, dropped = {**own, "run": run}, []
    for part, options in base.items():
        if part == "run":
            continue
        record = records.get(part)
        known = attrs.fields_dict(record.options) if record is not None else {}
        dropped += [f"{part}.{name}" for name in options if name not in known]
        kept = {name: value for name, value in options.items() if name in known} | dict(own.get(part, {}))
        if kept:
            values[part] = kept
    arm = Arm(label, env, values, title)
    if not arm.config(0).run.eval_episodes:
        raise UsageError(f"{arm.name}: run.eval_episodes: a study compares evaluations: expected at least 1, got 0")
    return arm, dropped


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as paths: {"algo": {"gamma": [0.9]}} → ("algo.gamma", [0.9])."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _has_time(value: Any) -> bool:
    """Whether a value is or holds a date or a time, at any depth."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    return any(map(_has_time, value)) if isinstance(value, list) else isinstance(value, (date, time))


def _path(name: str) -> str:
    """The full path of an option: `backbone` is `run.backbone`."""
    path = f"run.{name}" if name in SHORT else name
    part, dot, option = path.rpartition(".")
    if not dot or not option:
        raise UsageError(f'"{name}": expected part.option, for example algo.clip_coef, or one of {", ".join(SHORT)}')
    check_part(part, f'in "{name}"')
    if path == "run.seed":
        raise UsageError("run.seed: seeds are those of [study], or --seeds")
    return path


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a table, by their full paths."""
    settings: dict[str, Any] = {}
    for name, value in _leaves(table):
        path = _path(name)
        if path in settings:
            raise UsageError(f"{path}: is set twice, once without its part: remove one of the two")
        settings[path] = value
    return settings


def _axes(table: Mapping[str, Any]) -> list[list[Choice]]:
    """The axes of a section."""
    names: dict[str, str] = {}
    for name, _ in _leaves(table):
        if (first := names.setdefault(f"run.{name}" if name in SHORT else name, name)) != name:
            raise UsageError(f"{name}: is varied as {first}, too: give all values at once")
    return [_axis(name, values) for name, values in _leaves(table)]


def _axis(name: str, values: Any) -> list[Choice]:
    """The choices of an axis."""
    if not isinstance(values, list) or not values:
        got = "an empty list" if values == [] else repr(values)
        raise UsageError(f"{name}: expected a list of values to compare, got {got}")
    choices = []
    for value in values:
        if isinstance(value, Mapping):
            bundle = dict(value)
            label = bundle.pop("name", None)
            if not isinstance(label, str) or not label.strip() or not bundle:
                raise UsageError(f"{name}: expected a name and settings, got {dict(value)!r}")
            choices.append(Choice(label, _settings(bundle)))
        else:
            choices.append(Choice(f"{name.removeprefix('run.')}={_words(value)}", {_path(name): value}))
    labels = [choice.label for choice in choices]
    if len(set(labels)) < len(labels):
        raise UsageError(f"{name}: each value can be given once, got {', '.join(labels)}")
    return choices


def _named(name: str, settings: Any) -> Choice:
    """An arm of [arms.NAME]."""
    if not isinstance(settings, Mapping):
        raise UsageError(f"arms.{name}: expected a section [arms.{name}] of settings, got {settings!r}")
    if not name.strip():
        raise UsageError("arms: an arm needs a name")
    return Choice(name, _settings(settings))


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parts(settings: Settings) -> Parts:
    parts: dict[str, dict[str, Any]] = {}
    for path, value in settings.items():
        part, _, option = path.rpartition(".")
        parts.setdefault(part, {})[option] = value
    return parts

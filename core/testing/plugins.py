"""Checks of a whole plugin: its hooks, then every component it brings."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any

import attrs

from bitrl.core.environments.environment import Environment
from bitrl.core.environments.random_play import observations_of
from bitrl.core.errors import UsageError, unknown
from bitrl.core.hookspecs import PROJECT
from bitrl.core.installing import normalised
from bitrl.core.options import parse
from bitrl.core.records import Record
from bitrl.core.registry import Registry, registry
from bitrl.testing.algorithms import algorithm_outcomes
from bitrl.testing.backbones import backbone_outcomes
from bitrl.testing.environments import environment_outcomes
from bitrl.testing.extras import command_outcomes, doctor_check_outcomes, energy_meter_outcomes
from bitrl.testing.loggers import logger_outcomes
from bitrl.testing.outcomes import Check, Outcome, demand, expect, run_checks
from bitrl.testing.record_checks import check_light
from bitrl.testing.serializers import ENVIRONMENTS, serializer_outcomes

ANY_ID = {"gymnasium": "CartPole-v1"}
"""The environment that stands for every Gymnasium id, and the id it is tried with."""


@attrs.frozen
class Plugin:
    """A plugin: its name, its entry points' references (`module` or `module:object`), and what it registers."""

    package: str
    references: list[str]
    registered: Registry
    conflicts: list[str]


def check_plugin(package: str) -> None:
    """Check every component of an installed package, or of `module:object`.

    Raises:
        UsageError: there is no such package, or it has no entry point in the group `bitrl`.
        ConformanceError: a contract is broken; one line for each check that failed.
    """
    demand(plugin_outcomes(package))


def plugin_outcomes(package: str) -> Iterator[Outcome]:
    """The outcome of every check of every component, one after the other.

    Raises:
        UsageError: there is no such package or object.
    """
    plugin = find_plugin(package)

    yield from run_checks(f'plugin "{plugin.package}"', plugin, CHECKS)
    entries = plugin.registered.entries
    own = [entry.record for entry in entries["environment"] if entry.record.name not in ANY_ID]
    envs: list[str | Environment] = [*ENVIRONMENTS, *_environments_that_work(own)]
    outcomes_of: dict[str, Callable[[Any], Iterator[Outcome]]] = {
        "serializer": lambda record: serializer_outcomes(record, envs),
        "backbone": backbone_outcomes,
        "algorithm": algorithm_outcomes,
        "environment": lambda record: environment_outcomes(record, ANY_ID.get(record.name, record.name)),
        "logger": logger_outcomes,
        "command": command_outcomes,
        "doctor-check": doctor_check_outcomes,
        "energy-meter": energy_meter_outcomes,
    }
    for kind, found in entries.items():
        for entry in found:
            yield from outcomes_of[kind](entry.record)


def _environments_that_work(records: Sequence[Record]) -> Iterator[Environment]:
    """The plugin's environments that a serializer can be tried in; what is wrong with another is found by its own
    checks.
    """
    for record in records:
        try:
            environment: Environment = record.load()(parse(record.options, {}, "env"), record.name)
            environment.observation_spec()
            observations_of(environment)
        except KeyboardInterrupt:
            raise
        except BaseException:
            continue
        yield environment


def find_plugin(package: str) -> Plugin:
    """The plugin that an installed distribution declares, or the object that `module:object` names.

    Raises:
        UsageError: there is none.
    """
    registered = Registry()
    if ":" in package:
        registered.add(_object(package), package)
        return Plugin(package, [package], registered, _conflicts(registered, package))
    points = [point for point in entry_points(group=PROJECT) if point.dist is not None]
    names = {normalised(point.dist.name): point.dist.name for point in points if point.dist is not None}
    if normalised(package) not in names:
        raise unknown("plugin", package, names.values(), "an installed package with an entry point in the group bitrl")
    name = names[normalised(package)]
    chosen = sorted(
        (point for point in points if point.dist is not None and point.dist.name == name), key=lambda p: p.name
    )
    registered.add_installed(name)
    return Plugin(name, [point.value for point in chosen], registered, _conflicts(registered, name))


def has_no_problems(plugin: Plugin) -> None:
    """It imports without an error, and every hook is spelt and marked correctly and yields records."""
    problems = [problem.message for problem in plugin.registered.problems]
    expect(not problems, "; ".join(problems))


def brings_something(plugin: Plugin) -> None:
    """It provides a component, or listens to events."""
    listens = plugin.registered.manager.hook.bitrl_event.get_hookimpls()
    expect(any(plugin.registered.entries.values()) or listens, "no hook yields a record, and none is bitrl_event")


def has_names_of_its_own(plugin: Plugin) -> None:
    """No other package provides a component of the same kind and name."""
    conflicts = [problem.message for problem in plugin.registered.conflicts()] + plugin.conflicts
    expect(not conflicts, "; ".join(conflicts))


def is_light_to_read(plugin: Plugin) -> None:
    """Importing its hooks and reading its records imports nothing heavy."""
    for reference in plugin.references:
        check_light(reference)


def _object(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        found = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:
        raise UsageError(
            f"{reference} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None
    return found


def _conflicts(registered: Registry, package: str) -> list[str]:
    """Names that packages other than `package` have taken."""
    return [
        f'{kind} "{entry.record.name}" is also provided by {other.package}'
        for kind, entries in registered.entries.items()
        for entry in entries
        for other in registry().entries[kind]
        if other.package != package and other.record.name == entry.record.name and other.record != entry.record
    ]


CHECKS: tuple[Check[Plugin], ...] = (has_no_problems, brings_something, has_names_of_its_own, is_light_to_read)

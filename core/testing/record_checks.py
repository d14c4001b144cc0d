"""Checks of records and options classes, the same for every kind, and of what it costs to read them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from bitrl.core.config import COMPONENTS, PARTS, RunOptions, find_environment
from bitrl.core.errors import UsageError
from bitrl.core.options import describe, parse
from bitrl.core.records import AlgorithmRecord, EnvironmentRecord, Record
from bitrl.core.registry import HEAVY, HOOKS, one_line_of, registry
from bitrl.testing.outcomes import Check, ConformanceError, expect

R = TypeVar("R", bound=Record)

_PROBE = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
from bitrl.core.registry import Registry
module, _, attribute = sys.argv[2].partition(":")
plugin = importlib.import_module(module)
for name in filter(None, attribute.split(".")):
    plugin = getattr(plugin, name)
Registry().add(plugin, module)
print()
print(json.dumps(sorted(set(sys.argv[3:]) & set(sys.modules))))
"""


def resolve(expected: type[R], component: str | Record) -> R:
    """The record called `component` of the kind that `expected` stands for, or `component` itself if it is a record.

    Raises:
        UsageError: there is no such component. ConformanceError: the record is of another kind.
    """
    if isinstance(component, str):
        [kind] = [kind for kind, (_, record_class) in HOOKS.items() if record_class is expected]
        component = registry().find(kind, component)
    if not isinstance(component, expected):
        raise ConformanceError(f"expected a {expected.__name__}, got {component!r}")
    return component


def check_light(reference: str) -> None:
    """Importing its hooks and reading its records imports nothing heavy.

    `reference` is `module` or `module:object`, as in an entry point. It is read in a fresh process.
    """
    command = [sys.executable, "-c", _PROBE, json.dumps(sys.path), reference, *HEAVY]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["it exited without a message"])[-1]
        raise ConformanceError(f"{reference} cannot be imported: {last}")
    *printed, last = answer.stdout.splitlines()
    expect(
        not "".join(printed).strip(),
        f"reading {reference} prints {one_line_of(' '.join(printed))!r}, as every command would: remove that",
    )
    heavy = json.loads(last)
    expect(
        not heavy, f"reading {reference} imports {', '.join(heavy)}: move the code that needs it to the target's module"
    )


def is_named_in_one_word(record: Record) -> None:
    """Its name is one word, and its summary one line."""
    allowed = re.fullmatch(r"[\w.+/-]+", record.name)
    expect(
        allowed,
        f'the name "{record.name}" must be letters, digits and _ . + / - only (":" stands between package and name)',
    )
    expect(record.summary.strip() and "\n" not in record.summary, "the summary must be one line, and not empty")
    expect(len(record.summary) <= 100, f"expected a summary of at most 100 characters, got {len(record.summary)}")


def documents_every_option(record: Record) -> None:
    """Every option has a help text and a default."""
    for field, row in zip(attrs.fields(record.options), describe(record.options), strict=True):
        expect(row.help.strip(), f"option {row.name} has no help text: declare it with bitrl.option(default, help)")
        expect(field.default is not attrs.NOTHING, f"option {row.name} has no default")


def has_valid_defaults(record: Record) -> None:
    """The defaults of its options, and each preset, are values it accepts itself."""
    _parse(record.options, {field.name: field.default for field in attrs.fields(record.options)}, "default")
    presets = getattr(record.options, "presets", {})
    expect(not presets or "preset" in attrs.fields_dict(record.options), "it has presets, but no option called preset")
    for name, values in presets.items():
        _parse(record.options, {"preset": name, **values}, f"preset {name}")


def sets_options_that_exist(record: EnvironmentRecord | AlgorithmRecord) -> None:
    """The defaults that it sets are options of the components they are for, with valid values."""
    layers: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
    if isinstance(record, EnvironmentRecord):
        layers.append(("defaults", record.defaults, record.defaults))
        for algorithm, settings in record.tuned.items():
            layers.append((f"tuned for {algorithm}", settings, {**record.defaults, "run.algo": algorithm, **settings}))
    else:
        for environment, settings in record.tuned.items():
            layers.append((f"tuned for {environment}", settings, settings))
    for what, settings, chosen in layers:
        for path, value in settings.items():
            part, _, name = path.partition(".")
            expect(
                part in PARTS and name,
                f'{what}: "{path}" is not of the form part.option, with a part of {", ".join(PARTS)}',
            )
            if part == "run" and name in COMPONENTS and value not in (None, "none"):
                _expect_component(name, value, what)
            _expect_some(_option_classes(record, part, chosen, what), name, value, what, part)


def _option_classes(
    record: EnvironmentRecord | AlgorithmRecord, part: str, chosen: Mapping[str, Any], what: str
) -> list[type]:
    """The options classes that a setting of `part` may be for."""
    if part == "run":
        return [RunOptions]
    own = "env" if isinstance(record, EnvironmentRecord) else "algo"
    if part == own:
        return [record.options]
    named = chosen.get(f"run.{part}", chosen.get("run.backbone") if part == "critic_backbone" else None)
    entries = registry().entries[COMPONENTS[part]]
    if named is None:
        return [entry.record.options for entry in entries]
    if part == "algo" and what != "defaults" and all(named != entry.record.name for entry in entries):
        return []  # that of a package which is not installed
    return [_expect_component(part, named, what).options]


def _expect_component(part: str, name: object, what: str) -> Record:
    try:
        if part == "env":
            return find_environment(str(name))
        found: Record = registry().find(COMPONENTS[part], str(name), built_in_first=True)
        return found
    except UsageError as error:
        raise ConformanceError(f"{what}: run.{part}: {error}") from None


def _expect_some(classes: list[type], name: str, value: object, what: str, part: str) -> None:
    """Expect that one of these options classes takes the value."""
    failures = []
    for options in sorted(classes, key=lambda each: name not in attrs.fields_dict(each)):
        try:
            _parse(options, {name: value}, what, part)
        except ConformanceError as error:
            failures.append(error)
        else:
            return
    if failures:
        raise failures[0]


def _parse(options: type, values: dict[str, object], what: str, part: str = "options") -> None:
    try:
        parse(options, values, part)
    except UsageError as error:
        raise ConformanceError(f"{what}: {error}") from None


RECORD_CHECKS: tuple[Check[Record], ...] = (
    is_named_in_one_word,
    documents_every_option,
    has_valid_defaults,
)

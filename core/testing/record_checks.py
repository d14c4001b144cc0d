"""Checks of records and options classes, the same for every kind, and of what it costs to read them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TypeVar

import attrs

from bitrl.core.config import PARTS, RunOptions
from bitrl.core.errors import UsageError
from bitrl.core.options import describe, parse
from bitrl.core.records import EnvironmentRecord, Record
from bitrl.core.registry import HEAVY, HOOKS, registry
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
        last = (answer.stderr.strip().splitlines() or ["it exited without a word"])[-1]
        raise ConformanceError(f"{reference} cannot be imported: {last}")
    heavy = json.loads(answer.stdout.splitlines()[-1])
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
    expect(len(record.summary) <= 100, f"the summary has {len(record.summary)} characters, and lists have room for 100")


def documents_every_option(record: Record) -> None:
    """Every option has a help text and a default."""
    for field, row in zip(attrs.fields(record.options), describe(record.options), strict=True):
        expect(row.help.strip(), f"option {row.name} has no help text: declare it with bitrl.option(default, help)")
        expect(field.default is not attrs.NOTHING, f"option {row.name} has no default")


def has_valid_defaults(record: Record) -> None:
    """The defaults of its options, and each preset, are values it accepts itself."""
    fields = attrs.fields(record.options)
    _parse(record.options, {field.name: field.default for field in fields}, "default")
    presets = getattr(record.options, "presets", {})
    expect(not presets or "preset" in attrs.fields_dict(record.options), "it has presets, but no option called preset")
    for name, values in presets.items():
        _parse(record.options, {"preset": name, **values}, f"preset {name}")


def sets_options_that_exist(record: EnvironmentRecord) -> None:
    """The defaults that it sets are options with valid values."""
    known = {"run": RunOptions, "env": record.options}
    for path, value in [item for layer in (record.defaults, *record.tuned.values()) for item in layer.items()]:
        part, _, name = path.partition(".")
        expect(
            part in PARTS and name,
            f'defaults: "{path}" is not of the form part.option, with a part of {", ".join(PARTS)}',
        )
        if part in known:
            _parse(known[part], {name: value}, "defaults", part)


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

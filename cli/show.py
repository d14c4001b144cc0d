"""`bitrl show`: one component, or the run itself, with its options."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import click

from bitrl.cli import completion
from bitrl.cli.kinds import PART, WITHOUT_OPTIONS, parse_kind, section
from bitrl.cli.list import facts
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.config import ANY_GYMNASIUM_ID, RunOptions, find_environment
from bitrl.core.errors import BitrlError, UsageError
from bitrl.core.options import describe
from bitrl.core.records import EnvironmentRecord, Record, SerializerRecord
from bitrl.core.registry import Entry, registry
from bitrl.core.wording import program

if TYPE_CHECKING:
    from bitrl.cli.show_samples import Sample


FACTS = ("package", "target", "aliases", "emits", "accepts", "provides", "learns_from", "actions", "critic_backbone")
"""What is shown of a component, where it has it."""


@click.command
@click.argument("kind", shell_complete=completion.kinds)
@click.argument("name", required=False, shell_complete=completion.names_of_kind)
@click.option(
    "--env",
    "envs",
    multiple=True,
    shell_complete=completion.components("environment"),
    help="With a serializer: show a state of this environment as it writes it; repeatable.",
)
@click.option("-o", "assignments", metavar="serializer.OPTION=VALUE", multiple=True, help="For --env; repeatable.")
@json_option
def show(kind: str, name: str | None, envs: tuple[str, ...], assignments: tuple[str, ...], as_json: bool) -> None:
    """Show a component and its options.

    KIND is a heading of `bitrl list`, and NAME as `bitrl list` prints it. `bitrl show run` shows the options of the
    run itself. An environment is shown with its observations and actions. `bitrl show serializer NAME --env E` also
    shows how a state of E reads, and its number of tokens for the starter model.
    """
    stdout = claim_stdout() if as_json else None
    kind = parse_kind(kind, others=("run",))
    if envs and kind != "serializer":
        raise UsageError(f"--env: expected KIND serializer, got {kind}")
    if assignments and not envs:
        raise UsageError("-o changes how a state of an environment is written: name one with --env")
    options: type = RunOptions
    described: dict[str, Any] = {"kind": "run", "summary": "the run itself"}
    part, defaults = "run", {}
    samples: list[Sample] = []
    if kind == "run":
        if name is not None:
            raise UsageError(f'show run takes no name, got "{name}"')
    else:
        entry = _find(kind, name)
        record = entry.record
        part, options = section(kind, record.name), record.options
        defaults = dict(record.defaults) if isinstance(record, EnvironmentRecord) else {}
        described = {"kind": kind, **facts(entry), "target": record.target}
        if isinstance(record, EnvironmentRecord):
            described["defaults"] = defaults
            described["tuned"] = {algorithm: dict(settings) for algorithm, settings in record.tuned.items()}
            described |= _environment(record, str(name))
        if envs and isinstance(record, SerializerRecord):
            from bitrl.cli.show_samples import sample

            samples = [sample(record, env, assignments) for env in envs]
            described["samples"] = [attrs.asdict(each) for each in samples]
    if as_json:
        print_json({**described, "options": option_facts(options)}, stdout)
        return
    title = described.get("name", "run")
    echo(f"{title}: {described['summary']}\n")
    facts_of = described if kind != "environment" else {**described, "actions": None}  # those stand below
    lines = [(key, _words(facts_of[key])) for key in FACTS if facts_of.get(key) is not None]
    if lines:
        echo(table(lines) + "\n")
    if described.get("about"):
        echo(textwrap.indent(described["about"], "  ") + "\n")
    if "observation" in described:
        from bitrl.cli.show_environment import environment_rows

        echo(f"observations and actions\n{table(environment_rows(described))}\n")
    elif "problem" in described:
        echo(f"observations and actions\n  {described['problem']}\n")
    if defaults:
        rows = [(path, _words(value)) for path, value in defaults.items()]
        echo(f"defaults it sets\n{table(rows)}\n")
    for algorithm, settings in described.get("tuned", {}).items():
        rows = [(path, _words(value)) for path, value in settings.items()]
        echo(f"tuned for {algorithm}\n{table(rows)}\n")
    if kind in WITHOUT_OPTIONS:
        return
    rows = option_rows(part, options)
    echo(f"options (set one with -o {rows[0][0]}=VALUE)\n{table(rows)}" if rows else "It has no options.")
    for each in samples:
        echo(f"\n{each}")


def _environment(record: EnvironmentRecord, name: str) -> dict[str, Any]:
    """An environment's observations and actions; where it cannot be made, its options are shown all the same."""
    from bitrl.cli.show_environment import about, environment_facts

    if name == ANY_GYMNASIUM_ID:
        return {}
    try:
        return {"about": about(record), **environment_facts(name)}
    except BitrlError as error:
        return {"problem": str(error)}
    except Exception as error:  # whatever an environment of a plugin raises
        return {"problem": " ".join(f"cannot be made: {type(error).__name__}: {error}".split())}


def option_rows(part: str, options: type) -> list[tuple[str, str]]:
    """The option table of an options class for a terminal: path, and what it is, takes and is by default."""
    return [(f"{part}.{row.name}", f"{row.help} [{row.kind}; default: {row.default}]") for row in describe(options)]


def option_facts(options: type) -> list[dict[str, Any]]:
    """The options of an options class as JSON: name, type, default, what presets change it to, and help."""
    presets: Mapping[str, Mapping[str, Any]] = getattr(options, "presets", {})
    return [
        {
            "name": row.name,
            "type": row.kind,
            "default": field.default,
            "presets": {preset: values[row.name] for preset, values in presets.items() if row.name in values},
            "help": row.help,
        }
        for row, field in zip(describe(options), attrs.fields(options), strict=True)
    ]


def _find(kind: str, name: str | None) -> Entry:
    entries = registry().entries[kind]
    if name is None:
        names = ", ".join(entry.record.name for entry in entries)
        raise UsageError(f"which {kind}? {program()} show {PART[kind]} NAME, where NAME is one of {names}")
    record: Record = find_environment(name) if kind == "environment" else registry().find(kind, name)
    return next(entry for entry in entries if entry.record is record)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " or ".join(value) if isinstance(value, list) else str(value)

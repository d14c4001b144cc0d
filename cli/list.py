"""`bitrl list`: the components of every installed plugin, and the problems of those that failed."""

from __future__ import annotations

import attrs
import click

from bitrl.cli.kinds import PLURALS, parse_kind
from bitrl.cli.output import claim_stdout, json_option, print_json, table
from bitrl.core.records import AlgorithmRecord, BackboneRecord, Record, SerializerRecord
from bitrl.core.registry import Entry, registry


@click.command("list")
@click.argument("kind", required=False, metavar="[KIND]")
@json_option
def list_components(kind: str | None, as_json: bool) -> None:
    """List the installed components.

    KIND is serializers, backbones, algorithms, environments, loggers, commands or doctor-checks; all of them if
    left out.
    """
    stdout = claim_stdout() if as_json else None
    kinds = list(PLURALS) if kind is None else [parse_kind(kind)]
    problems = [*registry().problems, *registry().costs, *registry().conflicts()]
    if as_json:
        found = {PLURALS[each]: [facts(entry) for entry in registry().entries[each]] for each in kinds}
        print_json({**found, "problems": [attrs.asdict(problem) for problem in problems]}, stdout)
        return
    for each in kinds:
        entries = registry().entries[each]
        rows = [(entry.record.name, entry.package, *_fit(entry.record), entry.record.summary) for entry in entries]
        click.echo(f"{PLURALS[each]}\n{table(rows)}\n")
    if problems:
        click.echo(f"problems\n{table([(problem.package, problem.message) for problem in problems])}\n")
    click.echo("Options of one: bitrl show KIND NAME. Any Gymnasium id is an environment too.")


def provided(record: BackboneRecord) -> str:
    """What a backbone provides, in words, with the options that it takes."""
    return ", ".join(
        f"{each} ({record.needs_option[each]})" if each in record.needs_option else each for each in record.provides
    )


def _fit(record: Record) -> tuple[str, ...]:
    """What a component fits together with."""
    if isinstance(record, SerializerRecord):
        return (f"→ {record.emits}",)
    if isinstance(record, BackboneRecord):
        return (f"{' or '.join(record.accepts)} → {provided(record)}",)
    if isinstance(record, AlgorithmRecord):
        return (f"{' or '.join(record.learns_from)} → {' or '.join(record.actions or ())}".rstrip(),)
    return ()


def facts(entry: Entry) -> dict[str, object]:
    """A component as JSON: name, summary, package, and what it fits together with."""
    record = entry.record
    found: dict[str, object] = {"name": record.name, "summary": record.summary, "package": entry.package}
    if record.aliases:
        found["aliases"] = list(record.aliases)
    if isinstance(record, SerializerRecord):
        found["emits"] = record.emits
    if isinstance(record, BackboneRecord):
        found["accepts"] = list(record.accepts)
        found["provides"] = list(record.provides)
        found["needs_option"] = dict(record.needs_option)
    if isinstance(record, AlgorithmRecord):
        found["learns_from"] = list(record.learns_from)
        found["critic_backbone"] = record.critic_backbone
        found["actions"] = None if record.actions is None else list(record.actions)
    return found

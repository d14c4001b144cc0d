"""`bitrl list`: the components of every installed plugin, and the problems of those that failed; or runs."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import attrs
import click

from bitrl.cli import completion
from bitrl.cli.kinds import PLURALS, parse_kind
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.errors import UsageError
from bitrl.core.options import MOST_SHOWN, shown
from bitrl.core.records import AlgorithmRecord, BackboneRecord, Record, SerializerRecord
from bitrl.core.registry import Entry, registry
from bitrl.core.runs.display import score
from bitrl.core.terminal import shell_word
from bitrl.core.wording import program

RUNS = "runs"


@click.command("list")
@click.argument("kind", required=False, metavar="[KIND]", shell_complete=completion.kinds)
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@json_option
def list_components(kind: str | None, directory: Path | None, as_json: bool) -> None:
    """List the installed components, or runs.

    KIND is serializers, backbones, algorithms, environments, loggers, commands, doctor-checks or energy-meters;
    all of them if left out. `bitrl list runs [DIR]` lists the runs in DIR (runs/ if left out): their status, their
    result, and the options in which they differ.
    """
    stdout = claim_stdout() if as_json else None
    if kind in ("run", RUNS):
        _list_runs(directory if directory is not None else Path(RUNS), stdout)
        return
    if directory is not None:
        raise UsageError(
            f"{directory}: only runs are listed by directory: {program()} list runs {shell_word(directory)}"
        )
    kinds = list(PLURALS) if kind is None else [parse_kind(kind, (RUNS,))]
    problems = [*registry().problems, *registry().costs, *registry().conflicts()]
    if as_json:
        found = {PLURALS[each]: [facts(entry) for entry in registry().entries[each]] for each in kinds}
        print_json({**found, "problems": [attrs.asdict(problem) for problem in problems]}, stdout)
        return
    for each in kinds:
        entries = registry().entries[each]
        rows = [(entry.record.name, entry.package, *_fit(entry.record), entry.record.summary) for entry in entries]
        echo(f"{PLURALS[each]}\n{table(rows)}\n")
    if problems:
        echo(f"problems\n{table([(problem.package, problem.message) for problem in problems])}\n")
    echo(f"Options of one: {program()} show KIND NAME. Any Gymnasium id is an environment too.")


def _list_runs(directory: Path, stdout: IO[str] | None) -> None:
    from bitrl.core.runs.listing import list_runs

    runs = list_runs(directory)
    if stdout is not None:
        print_json({"runs": runs}, stdout)
    elif not runs:
        echo(f"{directory}: holds no runs: train one with {program()} run")
    else:
        echo(table([("run", "status", "steps", "mean return", "differs in"), *map(_run_row, runs)]))


def _run_row(run: dict[str, Any]) -> tuple[str, ...]:
    """`runs/a  finished  4,096 of 4,096  487.1 ± 22.4  seed=1 algo.gamma=0.98`."""
    steps = f"{run['step']:,}" + (f" of {run['steps']:,}" if isinstance(run["steps"], int) else "")
    mean, std = run["mean_return"], run["std_return"]
    result = "–" if mean is None else score(mean) + ("" if std is None else f" ± {score(std, beside=mean)}")
    differs = " ".join(f"{path.removeprefix('run.')}={_value(value)}" for path, value in run["differs"].items())
    return run["run"], run["status"], steps, result, run.get("problem") or differs or "–"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else shown(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


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

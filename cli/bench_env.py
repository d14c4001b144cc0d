"""`bitrl bench env`: training speed, end to end, and where the time goes.

Knows the command and how results are shown; `bitrl.plugins.backbones.benchmark.run_speed` measures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitrl.cli import completion
from bitrl.cli.measurement import check_out, made_by, out_option, print_table, save
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.runs.display import announce

if TYPE_CHECKING:
    from bitrl.core.config import Config


@click.command("env")
@click.argument("names", nargs=-1, shell_complete=completion.components("environment"))
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=16_384,
    show_default=True,
    metavar="N",
    help="Environment steps to measure in each, after one warm-up update; rounded up to whole updates.",
)
@click.option("--backbone", metavar="NAME", help="Backbone.  [default: the environment's]")
@click.option("--serializer", metavar="NAME", help="Serializer.  [default: the environment's]")
@click.option(
    "--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads of the engine.  [default: the number of CPUs]"
)
@click.option("-o", "assignments", metavar="PART.OPTION=VALUE", multiple=True, help="As in `bitrl run`.")
@out_option
@json_option
@click.pass_context
def env(
    ctx: click.Context,
    names: tuple[str, ...],
    steps: int,
    backbone: str | None,
    serializer: str | None,
    threads: int | None,
    assignments: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure training, end to end, and where its time goes.

    NAMES are environments, as in `bitrl run --env`; without any, all built-in ones that can be made here. Each trains
    with its own defaults. Time is divided among stepping the environments, writing texts, looking features up in the
    cache, the tokenizer, the encoder, and the learner, which is everything else. The encoder's speed in training is
    compared with its speed alone, on the same texts; the cache with computing all features anew.
    """
    from bitrl.core.errors import UsageError
    from bitrl.plugins.backbones.benchmark.run_speed import measure

    check_out(out)
    stdout = claim_stdout() if as_json else None
    chosen = list(dict.fromkeys(names)) or _built_in()
    found: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    configs: list[Config] = []
    for name in chosen:  # a mistake is reported before anything is measured
        try:
            configs.append(_config(name, backbone, serializer, threads, assignments))
        except UsageError as error:
            if names:
                raise
            left_out[name] = str(error)
    for config in configs:
        announce(config.run.env)
        try:
            found.append(measure(config, steps))
        except UsageError as error:
            if names:
                raise
            left_out[config.run.env] = str(error)
    if not found:
        raise UsageError(next(iter(left_out.values())))
    record = made_by() | {"results": {"environments": found, "left_out": left_out}}
    save(record, out)
    if as_json:
        print_json(record, stdout)
    else:
        _show(found, left_out)


def _built_in() -> list[str]:
    """The environments that bitrl brings, by name."""
    from bitrl.core.config import ANY_GYMNASIUM_ID
    from bitrl.core.registry import registry

    names = [entry.record.name for entry in registry().entries["environment"] if entry.package == "bitrl"]
    return [name for name in names if name != ANY_GYMNASIUM_ID]


def _config(
    name: str, backbone: str | None, serializer: str | None, threads: int | None, assignments: tuple[str, ...]
) -> Config:
    """A run in the environment `name`, with its own defaults but for what was asked for."""
    from bitrl.core.config import parse_assignments, resolve

    values: dict[str, dict[str, Any]] = {**parse_assignments(assignments)}
    typed = {part: frozenset(section) for part, section in values.items()}
    run = {"env": name, "backbone": backbone, "serializer": serializer}
    values["run"] = values.get("run", {}) | {key: value for key, value in run.items() if value is not None}
    if threads is not None:
        values["backbone"] = values.get("backbone", {}) | {"threads": threads}
        typed["backbone"] = typed.get("backbone", frozenset()) - {"threads"}
    return resolve(values, typed)


def _show(found: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    parts = list(found[0]["seconds"])
    training: list[tuple[str, ...]] = [("environment", "serializer", "steps/s", *parts)]
    encoding: list[tuple[str, ...]] = [
        (
            "environment",
            "texts/s standalone",
            "in training",
            "% of standalone",
            "% of training",
            "cache hit rate",
            "gain",
        )
    ]
    for row in found:
        total = sum(row["seconds"].values())
        shares = (f"{row['seconds'][part] / total:.0%}" for part in parts)
        training.append((row["env"], row["serializer"], f"{row['steps_per_second']:,.0f}", *shares))
        encoder, cache = row["encoder"], row["cache"]
        cells: tuple[str, ...] = ("",) * 4
        if encoder is not None:
            speeds = (f"{encoder[name]:,.0f}" for name in ("texts_per_second_alone", "texts_per_second"))
            cells = (*speeds, *(f"{encoder[name]:.0%}" for name in ("share_of_alone", "share_of_training")))
        kept = (f"{cache['hit_rate']:.1%}", f"{cache['gain']:.2f} ×") if cache is not None else ("", "")
        encoding.append((row["env"], *cells, *kept))
    print_table("training, and where its time goes", training)
    if any(row["encoder"] or row["cache"] for row in found):
        print_table("tokenizer and encoder, and the cache before them", encoding)
        echo(
            "% of standalone: speed in training relative to the encoder's standalone speed on the same texts. "
            "% of training: its standalone time relative to all training time. Gain: features/s with the cache "
            "relative to without."
        )
    if left_out:
        echo(f"\nskipped\n{table(list(left_out.items()))}")

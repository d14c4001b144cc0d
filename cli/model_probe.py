"""`bitrl model probe`: the R² table by block and pooling, for choosing `layers` and `pooling` from evidence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.core.runs.display import display

if TYPE_CHECKING:
    from bitrl.core.config import Config
    from bitrl.plugins.backbones.tools.probe import Reading, Setting
    from bitrl.plugins.backbones.tools.readout import MeasuredReadout

KINDS = {"uniform": "uniform in their bounds", "random": "visited by a random policy"}


@click.command()
@click.argument("model", required=False, shell_complete=completion.models)
@click.option(
    "--env", "envs", multiple=True, default=["CartPole-v1"], show_default=True, help="Environment; repeat for more."
)
@click.option(
    "--serializer", "serializers", multiple=True, default=["json"], show_default=True, help="Repeat for more."
)
@click.option("--backbone", default="bitnet", show_default=True, help="The model's format: bitnet, int8, int4 or bf16.")
@click.option("-o", "assignments", metavar="PART.OPTION=VALUE", multiple=True, help="As in `bitrl run`.")
@click.option(
    "--states",
    type=click.Choice([*KINDS, "both"]),
    default="both",
    show_default=True,
    help="Uniform in the observation's bounds, or visited by a random policy.",
)
@click.option(
    "--pooling",
    "poolings",
    type=click.Choice(["mean", "last", "field"]),
    multiple=True,
    help="Only this one; repeat for more.  [default: all]",
)
@click.option(
    "--count",
    type=click.IntRange(40),
    default=4000,
    show_default=True,
    help="States of each kind; a quarter is for judging.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the states.")
@click.option("--fields", is_flag=True, help="Show every number's R², too.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curves into this file (PNG).")
@json_option
def probe(
    model: str | None, envs: tuple[str, ...], serializers: tuple[str, ...], backbone: str,
    assignments: tuple[str, ...], states: str, poolings: tuple[str, ...], count: int, seed: int, fields: bool,
    out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure how well state variables can be linearly decoded from a model's features, by block and pooling.

    MODEL is what -o backbone.model takes; without it, the starter model. R² is that of ridge regression from
    features to numbers (1: decoded exactly, 0: not at all), fitted to three quarters of the states.
    """
    stdout = claim_stdout() if as_json else None
    configs = _configs(model, envs, serializers, backbone, assignments)
    if out is not None:
        from bitrl.cli.probe_picture import check_picture

        check_picture(out)

    from bitrl.core.environments.evidence import choose
    from bitrl.core.runs.parts import build
    from bitrl.plugins.backbones.tools.probe import POOLINGS, as_dict, best
    from bitrl.plugins.backbones.tools.probe import probe as read
    from bitrl.plugins.backbones.tools.readout import readouts

    kinds = list(KINDS) if states == "both" else [states]
    chosen = list(dict.fromkeys(poolings)) or list(POOLINGS)
    readings = []
    with display(transient=True) as shown:
        configs = [choose(config, ("serializer",))[0] for config in configs]
        for config in configs:
            parts = build(config)
            names = config.run.env, str(config.run.serializer)
            for kind in kinds:
                task = ", ".join((*names, kind))
                show = partial(shown.show, task, total=count, unit="states", tenths=False)
                readings.append(read(parts, names, kind, chosen, count, seed, show))
        found_readouts = {}
        for config in configs if "random" in kinds and not poolings else ():
            found_readouts[config.run.env, str(config.run.serializer)] = list(readouts(config))
    settings = best(readings)
    if out is not None:
        from bitrl.cli.probe_picture import draw_picture

        draw_picture(readings, out)
    if as_json:
        top = None if settings is None else _setting(settings[0])
        cheaper = None if settings is None or settings[1] == settings[0] else _setting(settings[1])
        found = {"model": model or "starter", "backbone": backbone, "count": count, "seed": seed}
        found |= {"readings": [as_dict(reading) for reading in readings], "best": top, "fewer_blocks": cheaper}
        found["readouts"] = [
            {"env": env, "serializer": serializer, "tried": [attrs.asdict(each) for each in tried]}
            for (env, serializer), tried in found_readouts.items()
        ]
        print_json(found, stdout)
        return
    for reading in readings:
        echo(_shown(reading, fields) + "\n")
    for names, tried in found_readouts.items():
        if tried:
            echo(_readouts(names, tried) + "\n")
    echo(_advice(settings))
    if out is not None:
        echo(f"picture: {out}")


def _configs(
    model: str | None, envs: Sequence[str], serializers: Sequence[str], backbone: str, assignments: tuple[str, ...]
) -> list[Config]:
    """Every environment with every serializer, resolved: a mistake is found before anything is loaded."""
    from bitrl.core.config import parse_assignments, resolve
    from bitrl.core.errors import UsageError

    # All blocks, however many the environment sets: which of them to read is the question.
    values = parse_assignments(("backbone.layers=none", *assignments))
    for name in ("pooling", "projection", "directions", "chunk"):
        if name in values.get("backbone", {}):
            raise UsageError(
                f"-o backbone.{name}: the probe reads what the blocks give: leave it out, or see --pooling"
            )
    typed = {part: frozenset(section) for part, section in values.items()}
    if model is not None:
        values["backbone"] = values.get("backbone", {}) | {"model": model}
    return [
        resolve({**values, "run": {"env": env, "serializer": serializer, "backbone": backbone}}, typed)
        for env in envs
        for serializer in serializers
    ]


def _setting(setting: Setting) -> dict[str, object]:
    return {
        "layers": setting.block,
        "pooling": setting.pooling,
        "mean": setting.mean,
        "options": setting.options,
    }


def _shown(reading: Reading, fields: bool) -> str:
    """One reading as a table: a row for each block, a column for each pooling."""
    head = f"{reading.env}, {reading.serializer}, states {KINDS[reading.states]}"
    lines = [f"{head} ({reading.tokens:.1f} tokens a text)"]
    if reading.constant:
        lines.append(f"  left out, since they are constant: {', '.join(reading.constant)}")
    lines += [f"  {note}" for note in reading.notes]
    if not reading.scores:
        return "\n".join([*lines, "  nothing to decode"])
    poolings = list(dict.fromkeys(score.pooling for score in reading.scores))
    top = max(reading.scores, key=lambda score: score.mean)
    rows = [["block", *(f"{pooling}: R² (worst)" for pooling in poolings)]]
    for block in sorted({score.block for score in reading.scores}):
        row = [str(block)]
        for score in (s for p in poolings for s in reading.scores if (s.block, s.pooling) == (block, p)):
            mark = " *" if score is top else ""
            row.append(f"{score.mean:.4f} ({score.worst} {score.fields[score.worst]:.4f}){mark}")
        rows.append(row)
    lines.append(table(rows))
    if fields:
        names = list(reading.scores[0].fields)
        rows = [["block", "pooling", *names]]
        rows += [[str(s.block), s.pooling, *(f"{s.fields[name]:.4f}" for name in names)] for s in reading.scores]
        lines += ["", table(rows)]
    return "\n".join(lines)


def _readouts(names: tuple[str, str], tried: Sequence[MeasuredReadout]) -> str:
    """What a run with backbone.readout=auto tries, in its order; what it takes is marked."""
    from bitrl.plugins.backbones.tools.readout import best_of

    taken = best_of(tried)
    rows = [["block", "pooling", "features", "R² (worst)"]]
    for each in tried:
        mark = " *" if each is taken else ""
        to = f"{each.features:,}" + (" in directions" if each.directions else " projected" if each.projection else "")
        pooling = each.pooling if each.chunk is None else f"{each.pooling}, chunks of {each.chunk}"
        rows.append([str(each.layers), pooling, to, f"{each.mean:.4f} ({each.worst} {each.least:.4f}){mark}"])
    head = f"{', '.join(names)}: readouts that backbone.readout=auto tries, by {taken.states:,} states of random play"
    return f"{head}\n{table(rows)}"


def _advice(settings: tuple[Setting, Setting] | None) -> str:
    if settings is None:
        return "no setting can be compared: no number varies, or no pooling fits every text"
    top, cheaper = settings
    lines = [f"best (mean R² {top.mean:.4f} over all tables): {top.options}"]
    if cheaper.block < top.block:
        lines.append(f"nearly as good with fewer blocks ({cheaper.mean:.4f}): {cheaper.options}")
    return "\n".join(lines)

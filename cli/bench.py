"""`bitrl bench`: the engine's speed, and the fraction of the machine's limits.

Knows the command and how results are shown; `bitrl.plugins.backbones.benchmark` measures.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from bitrl.cli.bench_env import env
from bitrl.cli.measurement import check_out, made_by, out_option, print_table, save
from bitrl.cli.output import Group, claim_stdout, echo, json_option, print_json
from bitrl.core.errors import UsageError, unknown
from bitrl.core.runs.display import announce
from bitrl.core.wording import program


@click.group(cls=Group, invoke_without_command=True, subcommand_metavar="[COMMAND [ARGS]...]")
@click.option(
    "--model",
    default="starter",
    show_default=True,
    metavar="MODEL",
    help="A GGUF file; a name of `bitrl model list`; or random weights in a shape: random:bitnet-2b-4t, "
    "random:smollm2-135m, random:starter, random:WIDTHxFFNxBLOCKS. These are written to a temporary folder "
    "and removed afterwards.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="FORMAT",
    help="Run the model in this format, or in all; repeatable.  [default: the file's]",
)
@click.option("--threads", metavar="N,N,…", help="Numbers of threads.  [default: 1 and the number of CPUs]")
@click.option("--isa", default="auto", show_default=True, help="The instruction set; auto takes the best.")
@click.option("--quick", is_flag=True, help="Measure briefly, as a smoke test: not for quoting.")
@out_option
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    model: str,
    formats: tuple[str, ...],
    threads: str | None,
    isa: str,
    quick: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure the engine against the limits of this machine.

    The limits (multiply-adds a second in int8, bf16 and fp32, bytes read from memory) are measured again beside every
    result. Encoding is compared with the arithmetic of its format, decoding with memory. A token counts as one
    multiply-add for each weight of the matrices.
    """
    if ctx.invoked_subcommand is not None:
        _refuse_before_command(ctx)
        return
    from bitrl.plugins.backbones.benchmark.engine_speed import FULL, QUICK, Bench
    from bitrl.plugins.backbones.benchmark.random_model import random_model, random_shape
    from bitrl.plugins.backbones.catalogue import resolve
    from bitrl.plugins.backbones.engine.engine import formats as known_formats
    from bitrl.plugins.backbones.engine.engine import instruction_sets

    wanted = _formats(formats)
    counts = _threads(threads)
    if isa != "auto" and isa not in instruction_sets():
        raise unknown("instruction set", isa, instruction_sets(), "of those that this CPU has")
    check_out(out)
    stdout = claim_stdout() if as_json else None
    kind, _, shape = model.partition(":")
    place: AbstractContextManager[Path]
    if kind == "random":
        place = random_model(random_shape(shape))
        announce("writing the random model")
    else:
        place = nullcontext(resolve(model))
    with place as path:
        measured = Bench(path, counts, QUICK if quick else FULL, isa, announce)
        runs = [measured.run(format, states=model == "starter") for format in wanted]
        if not formats and runs[0][1]["format"] == "ternary":  # the same weights, packed otherwise
            runs += [measured.run(format) for format in known_formats() if format.startswith("ternary-")]
    rows = [row for found, _ in runs for row in found]
    record = _record(ctx, rows) | {
        "results": {
            "model": model,
            "weights": measured.weights,
            "quick": quick,
            "limits": measured.machine(),
            "memory_buffer_mb": measured.limits.buffer_bytes / 2**20,
            "cases": rows,
            "load": [load for _, load in runs],
        }
    }
    save(record, out)
    if as_json:
        print_json(record, stdout)
    else:
        _show(record)


def _formats(names: tuple[str, ...]) -> list[str | None]:
    from bitrl.plugins.backbones.engine.engine import formats

    known = formats()
    for name in names:
        if name not in (*known, "all"):
            raise unknown("format", name, [*known, "all"])
    if "all" in names:
        return [*known]
    return list(dict.fromkeys(names)) or [None]


def _threads(text: str | None) -> list[int]:
    from bitrl.plugins.backbones.engine.engine import available_cpus

    cpus = available_cpus()
    if text is None:
        return sorted({1, cpus})
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--threads {text}: expected comma-separated numbers, as in --threads 1,2") from None
    if not all(1 <= count <= 1024 for count in counts):
        raise UsageError(f"--threads {text}: expected numbers from 1 to 1024")
    if max(counts) > cpus:
        echo(f"Warning: {max(counts)} threads share {cpus} CPUs: results will be poor and uneven", err=True)
    return sorted(set(counts))


def _record(ctx: click.Context, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What made the results, and the first case's numbers with the most threads: the figure to quote."""
    quoted = max((row for row in rows if row["case"] == rows[0]["case"]), key=lambda row: row["threads"])
    return {
        **made_by(),
        **{key: quoted[key] for key in ("case", "format", "threads", "tokens_per_second", "peak_fraction")},
        "peak_rss_mb": quoted["peak_rss_mb"],
    }


def _show(record: dict[str, Any]) -> None:
    found = record["results"]
    counts = [*found["limits"][0]["per_second"]]
    limits = [("limit", "instructions", *(f"{count} thread{'s' * (count != '1')}" for count in counts))]
    for limit in found["limits"]:
        unit = "GB/s" if limit["unit"] == "bytes" else "GMAC/s"
        speeds = (f"{limit['per_second'][count] / 1e9:,.0f} {unit}" for count in counts)
        limits.append((limit["limit"], limit["instructions"], *speeds))
    with_amx = any("amx_fraction" in row for row in found["cases"])
    cases = [("case", "format", "threads", "tokens/s", "% of limit", *["% of AMX"] * with_amx, "limit")]
    for row in found["cases"]:
        amx = [f"{row['amx_fraction']:.0%}" if "amx_fraction" in row else ""] * with_amx
        speed = (
            f"{row['tokens_per_second']:,.0f}" if row["tokens_per_second"] >= 100 else f"{row['tokens_per_second']:.1f}"
        )
        cases.append(
            (row["case"], row["format"], str(row["threads"]), speed, f"{row['peak_fraction']:.0%}", *amx, row["limit"])
        )
    loads = [("format", "load", "peak memory")]
    loads += [(row["format"], f"{row['load_seconds']:.2f} s", f"{row['peak_rss_mb']:,.0f} MB") for row in found["load"]]
    print_table("limits of this machine", limits)
    print_table(f"{found['model']}, {found['weights']:,} weights, {found['cases'][0]['isa']}", cases)
    print_table("loading and encoding 32 tokens, in a process of its own", loads)
    for row in found["cases"]:
        if "states_per_second" in row:
            split = ", ".join(f"{name} {spent:.0f} µs" for name, spent in row["microseconds_per_state"].items())
            echo(
                f"CartPole states, {row['format']}, threads: {row['threads']}: {row['states_per_second']:,.0f} "
                f"states/s, tokenising included; each takes: {split}"
            )
    echo(
        f"Limits are measured beside each result; memory by reading {found['memory_buffer_mb']:,.0f} MB. Decoding "
        "reads all weights and the output head for each token."
    )
    if with_amx:
        echo(
            "The int8 and bf16 limits are those of vector instructions: with AMX, which has a column of its own, more "
            "than 100% is possible."
        )
    if found["quick"]:
        echo("Measured briefly (--quick): not for quoting.")


def _refuse_before_command(ctx: click.Context) -> None:
    """Refuse options before a command's name: they are those of `bitrl bench` itself."""
    default = click.core.ParameterSource.DEFAULT
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if ctx.get_parameter_source(parameter.name or "") is not default
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} before {ctx.invoked_subcommand}: options of a command go after its name "
            f"({program()} bench {ctx.invoked_subcommand} --help)"
        )


bench.add_command(env)

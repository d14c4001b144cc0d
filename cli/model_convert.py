"""`bitrl model convert`: write a model as a GGUF file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from bitrl.cli import completion
from bitrl.cli.model_out import check_paths, model_out_option
from bitrl.cli.output import claim_stdout, echo, json_option, print_json
from bitrl.core.runs.display import display, show_bytes
from bitrl.core.wording import program


@click.command()
@click.argument("source", shell_complete=completion.models)
@model_out_option
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    help="Type of the blocks' matrices: f32, f16, bf16, or of quantised ones q8_0, q4_0, q4_1, tq2_0, tq1_0."
    "  [default: as in SOURCE]",
)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@click.option("--activation", help="The feed-forward network's, for a source that does not name it.")
@click.option("--linear-class", help="As -o backbone.linear_class, for packed safetensors that do not say.")
@click.option("--i2s-packing", default="x86", show_default=True, help="As -o backbone.i2s_packing: x86 or arm.")
@json_option
def convert(
    source: str, out: Path, kind: str | None, force: bool, activation: str | None, linear_class: str | None,
    i2s_packing: str, as_json: bool,
) -> None:  # fmt: skip
    """Write a model as a GGUF file, with its tokenizer.

    SOURCE is a Hugging Face checkpoint (a directory with config.json and safetensors), a GGUF file, or a name of
    `bitrl model list`. Ternary weights that GGUF has no type for become tq2_0. llama.cpp reads the file, too, if it
    knows the architecture.
    """
    from bitrl.core.errors import UsageError, unknown
    from bitrl.plugins.backbones.catalogue import hints, resolve

    path, known = resolve(source), hints(source)
    activation, linear_class = activation or known["activation"], linear_class or known["linear_class"]
    check_paths(path, out, force)

    from bitrl.plugins.backbones.tools.convert import TYPES
    from bitrl.plugins.backbones.tools.convert import convert as write
    from bitrl.plugins.backbones.tools.quantize import loses

    if kind is not None and kind not in TYPES:
        raise unknown("type", kind, TYPES)
    if kind is not None and loses(path, kind, activation, linear_class):
        raise UsageError(
            f"--type {kind} would lose precision of {source}: {program()} model quantize does that, and reports "
            "how much"
        )
    stdout = claim_stdout() if as_json else None
    with display(transient=True) as shown:
        lacks = write(path, out, kind, activation, linear_class, i2s_packing, partial(show_bytes, shown))
    if as_json:
        print_json({"file": str(out), "bytes": out.stat().st_size, "unsupported": list(lacks)}, stdout)
        return
    for lack in lacks:
        echo(f"{out}: {lack}", err=True)
    echo(f"{out}: {out.stat().st_size:,} bytes")

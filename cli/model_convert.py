"""`bitrl model convert`: write a model as a GGUF file."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("source")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The model file to write (GGUF)."
)
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    help="Of the blocks' matrices: f32, f16, bf16, or of quantised ones q8_0, q4_0, q4_1, tq2_0, tq1_0."
    "  [default: as in SOURCE]",
)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@click.option("--activation", help="The feed-forward network's, for a source that does not name it.")
@click.option("--linear-class", help="As -o backbone.linear_class, for packed safetensors that do not say.")
@click.option("--i2s-packing", default="x86", show_default=True, help="As -o backbone.i2s_packing: x86 or arm.")
def convert(
    source: str, out: Path, kind: str | None, force: bool, activation: str | None, linear_class: str | None,
    i2s_packing: str,
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
            f"--type {kind} would lose precision that {source} has: bitrl model quantize does that, and says how much"
        )
    terminal = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r\x1b[K{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", err=True, nl=done == total)

    for lack in write(path, out, kind, activation, linear_class, i2s_packing, tell):
        click.echo(f"{out}: {lack}", err=True)
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


def check_paths(source: Path, out: Path, force: bool) -> None:
    """Raises UsageError unless `out` may be written, made of `source`."""
    from bitrl.core.errors import UsageError

    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.parent}: make it first")
    if out.exists() and (not force or out.samefile(source)):
        way = "choose another" if out.samefile(source) else "choose another, or --force to replace it"
        raise UsageError(f"--out {out}: there is such a file: {way}")

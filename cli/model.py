"""`bitrl model`: train a language model, convert one, and look into a model file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitrl.cli.model_distill import distill
from bitrl.cli.output import duration, json_option, print_json, table

if TYPE_CHECKING:
    from bitrl.plugins.backbones.pretraining.train import Progress


@click.group()
def model() -> None:
    """Train, distil, convert and inspect language models."""


model.add_command(distill)


@model.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The model file to write (GGUF)."
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A text file to train on (plain, .gz or .dz); repeat for more.",
)
@click.option("--steps", type=click.IntRange(1), help="How long to train, in steps.  [default: 3000]")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="How long to train, roughly, instead of --steps."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@click.option("--width", type=click.IntRange(256), default=256, show_default=True, help="Width of the features.")
@click.option("--blocks", type=click.IntRange(1), default=4, show_default=True, help="Transformer blocks.")
@click.option(
    "--ffn", type=click.IntRange(256), default=768, show_default=True, help="Width inside a feed-forward network."
)
@click.option(
    "--vocab", type=click.IntRange(512, 32768), default=4096, show_default=True, help="At most this many tokens."
)
@click.option(
    "--envs",
    default="CartPole-v1,Acrobot-v1,MountainCar-v0",
    show_default=True,
    help="Environments whose states it is to read best, commas between; the first is seen most.",
)
@click.option("--batch", type=click.IntRange(64), default=1024, show_default=True, help="Tokens of a step.")
@click.option(
    "--note", multiple=True, help="A line for the model card, such as where the text came from; repeat for more."
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of a killed training by the same command.")
def train(
    out: Path, text: tuple[Path, ...], steps: int | None, minutes: float | None, seed: int, width: int, blocks: int,
    ffn: int, vocab: int, envs: str, batch: int, note: tuple[str, ...], resume: bool,
) -> None:  # fmt: skip
    """Train a BitNet b1.58 language model that reads the numbers in states.

    Writes the model file, and beside it a model card (.md) with what was measured. With --steps, the same command
    on the same machine writes the same file.
    """
    from bitrl.core.errors import UsageError
    from bitrl.plugins.backbones.pretraining.command import Request, check_shape, train_model
    from bitrl.plugins.backbones.pretraining.model import Shape

    if steps is not None and minutes is not None:
        raise UsageError("--steps and --minutes: give one of them")
    if minutes is not None and resume:
        raise UsageError("--resume: give the --steps that the interrupted training was told, instead of --minutes")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.parent}: make it first")
    shape = Shape(vocab=vocab, width=width, blocks=blocks, heads=width // 64, kv_heads=width // 128, ffn=ffn)
    check_shape(shape)
    request = Request(
        out=out, text=text, envs=[env for env in envs.split(",") if env], shape=shape, tokens_per_batch=batch,
        seed=seed, steps=None if minutes else steps or 3000, minutes=minutes, resume=resume, notes=note,
        command=shlex.join(["bitrl", "model", "train", *_arguments()]),
    )  # fmt: skip
    made = train_model(request, lambda line: click.echo(line, err=True), _progress_line())
    losses = "  ".join(f"{name} {value:.3f}" for name, value in sorted(made.progress.means.items()))
    click.echo(
        f"{out}: {out.stat().st_size:,} bytes after {made.progress.tokens:,} tokens; card: {out.with_suffix('.md')}"
    )
    click.echo(f"losses: {losses}")
    if made.bits_per_byte is not None:
        click.echo(f"unseen prose: {made.bits_per_byte:.3f} bits per byte")
    rows = [("environment", "serializer", "tokens", "R² whole bounds", "R² inner tenth")]
    rows += [(r.env, r.format, f"{r.tokens:.1f}", f"{r.whole[-1]:.4f}", f"{r.near[-1]:.4f}") for r in made.readings]
    if made.readings:
        click.echo(table(rows))


def _arguments() -> list[str]:
    context = click.get_current_context()
    arguments: list[str] = []
    for parameter in context.command.params:
        value = context.params[parameter.name or ""]
        given = context.get_parameter_source(parameter.name or "") is not click.core.ParameterSource.DEFAULT
        if not given or parameter.name == "resume":
            continue
        for item in value if isinstance(value, tuple) else (value,):
            shown = item.name if parameter.name in ("text", "out") else str(item)
            arguments += [parameter.opts[0], shown]
    return arguments


def _progress_line() -> Callable[[Progress, int], None]:
    terminal = sys.stderr.isatty()
    told = {"tenth": 0}

    def report(progress: Progress, steps: int) -> None:
        left = progress.seconds / progress.step * (steps - progress.step)
        losses = " ".join(f"{name} {value:.2f}" for name, value in progress.means.items())
        speed = f"{progress.tokens / progress.seconds:,.0f} tokens/s"
        line = f"{progress.step:,} of {steps:,} steps   {speed}   {losses}   {duration(left)} left"
        if terminal:
            click.echo(f"\r\x1b[K{line}", err=True, nl=progress.step == steps)
        elif (tenth := 10 * progress.step // steps) > told["tenth"]:
            told["tenth"] = tenth
            click.echo(line, err=True)

    return report


@model.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The model file to write (GGUF)."
)
@click.option(
    "--type",
    "kind",
    metavar="TYPE",
    help="Of the blocks' matrices: f32, f16, bf16, q8_0, q4_0, q4_1, tq2_0 or tq1_0.  [default: as in SOURCE]",
)
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@click.option("--activation", help="The feed-forward network's, for a source that does not name it.")
@click.option("--linear-class", help="As -o backbone.linear_class, for packed safetensors that do not say.")
@click.option("--i2s-packing", default="x86", show_default=True, help="As -o backbone.i2s_packing: x86 or arm.")
def convert(
    source: Path, out: Path, kind: str | None, force: bool, activation: str | None, linear_class: str | None,
    i2s_packing: str,
) -> None:  # fmt: skip
    """Write a model as a GGUF file, with its tokenizer.

    SOURCE is a Hugging Face checkpoint (a directory with config.json and safetensors) or a GGUF file. Ternary weights
    that GGUF has no type for become tq2_0. llama.cpp reads the file, too, if it knows the architecture.
    """
    from bitrl.core.errors import UsageError, unknown

    if not source.exists():
        raise UsageError(f"{source}: no such file or directory: name a GGUF file or a directory with safetensors")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.parent}: make it first")
    if out.exists() and (not force or out.samefile(source)):
        way = "choose another" if out.samefile(source) else "choose another, or --force to replace it"
        raise UsageError(f"--out {out}: there is such a file: {way}")

    from bitrl.plugins.backbones.convert import TYPES
    from bitrl.plugins.backbones.convert import convert as write

    if kind is not None and kind not in TYPES:
        raise unknown("type", kind, TYPES)
    terminal = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r\x1b[K{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", err=True, nl=done == total)

    for lack in write(source, out, kind, activation, linear_class, i2s_packing, tell):
        click.echo(f"{out}: {lack}", err=True)
    click.echo(f"{out}: {out.stat().st_size:,} bytes")


@model.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Show what is in a model file: architecture, tensors, tokenizer, checksum."""
    from bitrl.core.errors import UsageError

    if not file.exists():
        raise UsageError(f"{file}: no such file: name a GGUF file or a directory with safetensors")
    found = _facts(file)
    if as_json:
        print_json(found)
        return
    sizes = [(key, f"{found[key]:,}") for key in ("bytes", "weights", "ternary_weights")]
    click.echo(table([("architecture", found["architecture"]), *sizes, ("checksum", found["checksum"])], indent=""))
    click.echo(f"\nhyper-parameters\n{table([(key, str(value)) for key, value in found['parameters'].items()])}")
    click.echo(f"\ntokenizer\n{table([(key, str(value)) for key, value in found['tokenizer'].items()])}")
    rows = [(t["name"], t["type"], "x".join(map(str, t["shape"])), f"{t['bytes']:,} bytes") for t in found["tensors"]]
    click.echo(f"\ntensors\n{table(rows)}")


def _facts(path: Path) -> dict[str, Any]:
    import math

    from bitrl.plugins.backbones.engine import open_model

    file = open_model(path)
    checksum = file.verify(largest=None)
    metadata, tensors = file.metadata(), file.tensors()
    architecture = metadata.get("general.architecture", "unknown")
    prefix = f"{architecture}."
    ternary = {"TQ1_0", "TQ2_0", "I2_S", "HF_PACKED"}
    return {
        "file": str(path),
        "architecture": architecture,
        "bytes": file.size,
        "weights": sum(math.prod(tensor.shape) for tensor in tensors),
        "ternary_weights": sum(math.prod(tensor.shape) for tensor in tensors if tensor.type in ternary),
        "checksum": checksum,
        "parameters": {
            key.removeprefix(prefix): _plain(value) for key, value in metadata.items() if key.startswith(prefix)
        },
        "tokenizer": {
            key.removeprefix("tokenizer.ggml."): _plain(value)
            for key, value in metadata.items()
            if key.startswith("tokenizer.")
        },
        "tensors": [
            {"name": tensor.name, "type": tensor.type, "shape": list(tensor.shape), "bytes": tensor.bytes}
            for tensor in tensors
        ],
    }


def _plain(value: Any) -> Any:
    """Lists (a vocabulary) as their length; numbers and short texts as they are."""
    return value if isinstance(value, (str, int, float, bool)) else f"{len(value)} entries"

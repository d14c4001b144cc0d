"""`bitrl model train`: train a language model on states and texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from bitrl.cli.model_out import check_directory, model_out_option
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.cli.quoted_command import quoted_command
from bitrl.core.runs.display import display, show_count, show_model_training

if TYPE_CHECKING:
    from bitrl.plugins.backbones.training.decoder import DecoderShape
    from bitrl.plugins.backbones.training.pretraining.card import Pretrained


@click.command()
@model_out_option
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A text file to train on (plain, .gz or .dz); repeat for more.",
)
@click.option("--steps", type=click.IntRange(1), help="Training steps.  [default: 3000]")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Approximate training time, instead of --steps."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option("--width", type=click.IntRange(256), default=256, show_default=True, help="Width of the features.")
@click.option("--blocks", type=click.IntRange(1), default=4, show_default=True, help="Transformer blocks.")
@click.option(
    "--ffn", type=click.IntRange(256), default=768, show_default=True, help="Width inside a feed-forward network."
)
@click.option(
    "--vocab", type=click.IntRange(max=32768), default=7680, show_default=True, help="Largest vocabulary size."
)
@click.option(
    "--envs",
    default="CartPole-v1,Acrobot-v1,MountainCar-v0",
    show_default=True,
    help="Environments whose states the model learns to read, comma-separated; the first is sampled most.",
)
@click.option(
    "--text-envs",
    default="",
    help="Text environments to train on, comma-separated: BabyAI, SmartHome-Light, TextWorld.  [default: none]",
)
@click.option(
    "--tasks",
    default="",
    help="Teach a model to begin these tasks for language models, comma-separated (reverse-word, …), instead of states "
    "and texts.  [default: none]",
)
@click.option("--worlds", default="", hidden=True, help="The former name of --text-envs.")
@click.option(
    "--precision",
    type=click.Choice(["ternary", "fp16"]),
    default="ternary",
    show_default=True,
    help="Of the blocks' weights, in training and in the file; fp16 makes the twin of a ternary model.",
)
@click.option("--batch", type=click.IntRange(384), default=1536, show_default=True, help="Tokens per step.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to train."
)
@click.option(
    "--note", multiple=True, help="A line for the model card, such as where the text came from; repeat for more."
)
@click.option(
    "--resume", is_flag=True, help="Resume from the checkpoint of an interrupted training with the same command."
)
@json_option
def train(
    out: Path, text: tuple[Path, ...], steps: int | None, minutes: float | None, seed: int, width: int, blocks: int,
    ffn: int, vocab: int, envs: str, text_envs: str, tasks: str, worlds: str, precision: str, batch: int, device: str,
    note: tuple[str, ...], resume: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train a BitNet b1.58 language model, or its full-precision twin, to read the numbers in states.

    Writes the model file, and beside it a model card (.md) with what was measured. With --steps, the same command
    on the same machine writes the same file; a GPU sums in no fixed order, so there the results agree but the bytes
    differ.
    """
    from bitrl.core.errors import UsageError
    from bitrl.plugins.backbones.training.decoder import DecoderShape
    from bitrl.plugins.backbones.training.pretraining.command import PretrainingRequest, check_shape, train_model

    if steps is not None and minutes is not None:
        raise UsageError("--steps and --minutes: expected one of them, got both")
    if minutes is not None and resume:
        raise UsageError("--resume: give the --steps that the interrupted training was told, instead of --minutes")
    check_directory(out)
    shape = DecoderShape(
        vocab=vocab, width=width, blocks=blocks, heads=width // 64, kv_heads=width // 128, ffn=ffn,
        format="ternary-f16" if precision == "ternary" else "fp32",
    )  # fmt: skip
    if tasks:
        _train_tasks(out, tasks, shape, steps, batch, seed, note, as_json)
        return
    check_shape(shape)
    request = PretrainingRequest(
        out=out, text=text, envs=[env for env in envs.split(",") if env],
        text_envs=[env for env in (text_envs or worlds).split(",") if env], shape=shape, tokens_per_batch=batch,
        seed=seed, device=device, steps=None if minutes else steps or 3000, minutes=minutes, resume=resume, notes=note,
        command=quoted_command(leave_out=("as_json",)),
    )  # fmt: skip
    stdout = claim_stdout() if as_json else None
    with display() as shown:
        made = train_model(request, shown.say, partial(show_model_training, shown), partial(show_count, shown))
    if as_json:
        print_json(_facts(out, made), stdout)
        return
    losses = "  ".join(f"{name} {value:.3f}" for name, value in sorted(made.progress.means.items()))
    echo(f"{out}: {out.stat().st_size:,} bytes after {made.progress.tokens:,} tokens; card: {out.with_suffix('.md')}")
    echo(f"losses: {losses}")
    if made.bits_per_byte is not None:
        echo(f"held-out prose: {made.bits_per_byte:.3f} bits per byte")
    for what, judged in made.judged.items():
        echo(f"{what}: accuracy {judged.accuracy:.3f}")
    rows = [("environment", "serializer", "tokens", "states", "R²", "worst number")]
    rows += [
        (r.env, r.serializer, f"{r.tokens:.1f}", r.states, f"{r.scores[-1].mean:.4f}", r.scores[-1].worst)
        for r in made.readings
        if r.scores
    ]
    if made.readings:
        echo(table(rows))


def _train_tasks(
    out: Path, tasks: str, shape: DecoderShape, steps: int | None, batch: int, seed: int, notes: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Teach a model to begin tasks; refuse what that does not know."""
    from bitrl.core.errors import UsageError
    from bitrl.plugins.backbones.training.pretraining.task_model import TaskRequest, train_task_model

    context = click.get_current_context()
    for name in ("text", "minutes", "vocab", "envs", "text_envs", "worlds", "device", "resume"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} is of no use with --tasks: leave it out")
    if shape.width % 256 or shape.ffn % 256:
        raise UsageError(f"--width {shape.width}, --ffn {shape.ffn}: expected multiples of 256")
    request = TaskRequest(
        out=out, tasks=[task for task in tasks.split(",") if task], steps=steps or 3000, seed=seed, shape=shape,
        tokens_per_batch=batch, notes=notes, command=quoted_command(leave_out=("as_json",)),
    )  # fmt: skip
    stdout = claim_stdout() if as_json else None
    with display() as shown:
        made = train_task_model(request, shown.say, partial(show_model_training, shown))
    solved = {name: attrs.asdict(each) for name, each in made.solved.items()}
    if as_json:
        facts = {"file": str(out), "bytes": out.stat().st_size, "steps": made.progress.step, "solved": solved}
        print_json(facts, stdout)
        return
    echo(f"{out}: {out.stat().st_size:,} bytes after {made.progress.tokens:,} tokens; card: {out.with_suffix('.md')}")
    rows = [["task", "reward", "right, sampled", "right, greedy"]]
    rows += [[name, *(f"{value:.3f}" for value in each.values())] for name, each in solved.items()]
    echo(table(rows))


def _facts(out: Path, made: Pretrained) -> dict[str, Any]:
    return {
        "file": str(out),
        "bytes": out.stat().st_size,
        "steps": made.progress.step,
        "tokens": made.progress.tokens,
        "seconds": made.progress.seconds,
        "losses": dict(made.progress.means),
        "bits_per_byte": made.bits_per_byte,
        "accuracy": {what: {"accuracy": each.accuracy, "chance": each.chance} for what, each in made.judged.items()},
        "r_squared": [
            {
                "env": each.env,
                "serializer": each.serializer,
                "tokens": each.tokens,
                "states": each.states,
                "mean": each.scores[-1].mean,
                "worst": each.scores[-1].worst,
            }
            for each in made.readings
            if each.scores
        ],
    }

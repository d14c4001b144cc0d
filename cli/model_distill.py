"""`bitrl model distill`: a ternary model from the first blocks of a full-precision one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitrl.cli.output import duration, json_option, print_json, table

if TYPE_CHECKING:
    from bitrl.plugins.backbones.training.distillation.train import DistillationProgress


@click.command()
@click.option(
    "--teacher", metavar="MODEL", required=True,
    help="A Llama model of floats: a GGUF file, a directory with safetensors, or a name of `bitrl model list`.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The model file to write (GGUF)."
)
@click.option("--layers", type=click.IntRange(1), help="Keep only this many blocks, the first ones.  [default: all]")
@click.option(
    "--text", type=click.Path(path_type=Path), multiple=True,
    help="A text file to learn from (plain, .gz or .dz); repeat for more.",
)  # fmt: skip
@click.option(
    "--envs", default="CartPole-v1,Acrobot-v1,MountainCar-v0", show_default=True,
    help='Environments whose states it is to read, commas between; "" for none.',
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="How long to train.")
@click.option(
    "--pretraining-steps", type=click.IntRange(0), default=0, show_default=True,
    help="How many of the steps only ask for the next token, before distilling; with all blocks.",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(64), default=1024, show_default=True, help="Tokens of a step.")
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True), default=2e-3, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
    help="At which logits are compared; with all blocks.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything random.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of a killed training by the same command.")
@json_option
def distill(
    teacher: str, out: Path, layers: int | None, text: tuple[Path, ...], envs: str, steps: int,
    pretraining_steps: int, batch: int, learning_rate: float, temperature: float, seed: int, device: str,
    resume: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a ternary model from a full-precision one (BitDistill).

    The student starts from the teacher's weights, gets norms before its output projections, and learns with ternary
    weights to do what the teacher does: hidden states and attention relations, and logits where all blocks are kept.
    Writes the model file, and beside it a model card (.md) with what was measured. On a CPU the same command on the
    same machine writes the same file.
    """
    from bitrl.core.errors import UsageError
    from bitrl.plugins.backbones.catalogue import resolve

    path = resolve(teacher)
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.parent}: make it first")
    if out.exists() and out.samefile(path):
        raise UsageError(f"--out {out}: that is the teacher: choose another name")
    if pretraining_steps > steps:
        raise UsageError(f"--pretraining-steps {pretraining_steps}: they are part of --steps {steps}: give fewer")

    from bitrl.plugins.backbones.training.distillation.command import DistillationRequest
    from bitrl.plugins.backbones.training.distillation.command import distill as make
    from bitrl.plugins.backbones.training.distillation.train import DistillationPlan

    plan = DistillationPlan(
        steps=steps, pretraining_steps=pretraining_steps, seed=seed, learning_rate=learning_rate,
        temperature=temperature,
    )  # fmt: skip
    request = DistillationRequest(
        teacher=teacher, out=out, layers=layers, text=text, envs=[env for env in envs.split(",") if env], plan=plan,
        tokens_per_batch=batch, device=device, resume=resume, command=_command(),
    )  # fmt: skip
    with _shown() as (say, report):
        made = make(request, say, report)
    if as_json:
        print_json(
            {
                "file": str(out),
                "bytes": out.stat().st_size,
                "steps": made.progress.step,
                "tokens": made.progress.tokens,
                "seconds": made.progress.seconds,
                "losses": made.progress.means,
                "history": [{"step": step, **means} for step, means in made.progress.history],
                "r_squared": [
                    {
                        "env": k.env, "states": k.states, "block": k.block, "teacher": k.teacher,
                        "rounded": k.rounded, "student": k.student,
                    }
                    for k in made.kept
                ],
            }
        )  # fmt: skip
        return
    click.echo(
        f"{out}: {out.stat().st_size:,} bytes after {made.progress.tokens:,} tokens; card: {out.with_suffix('.md')}"
    )
    click.echo("losses: " + "  ".join(f"{name} {value:.3f}" for name, value in sorted(made.progress.means.items())))
    rows = [("environment", "states", "block", "R² teacher", "merely rounded", "student")]
    rows += [
        (k.env, k.states, str(k.block), f"{k.teacher:.4f}", f"{k.rounded:.4f}", f"{k.student:.4f}") for k in made.kept
    ]
    if made.kept:
        click.echo(table(rows))


def _command() -> str:
    """This command as it was given, but for files' folders and --resume."""
    context = click.get_current_context()
    arguments: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if not given or name in ("resume", "as_json"):
            continue
        value = context.params[name]
        for item in value if isinstance(value, tuple) else (value,):
            is_path = isinstance(item, Path) or (name == "teacher" and Path(item).exists())
            arguments += [parameter.opts[0], Path(item).name if is_path else str(item)]
    return shlex.join(["bitrl", "model", "distill", *arguments])


Shown = tuple[Callable[[str], None], Callable[["DistillationProgress", int], None]]


@contextmanager
def _shown() -> Iterator[Shown]:
    """What to call with a line to say, and with the progress: on a terminal a bar, both on stderr."""
    import os
    import sys

    def words(progress: DistillationProgress, steps: int) -> tuple[str, str]:
        left = progress.seconds / progress.step * (steps - progress.step)
        speed = progress.tokens / max(progress.seconds, 1e-9)
        losses = " ".join(f"{name} {value:.3f}" for name, value in progress.means.items())
        return f"{progress.step:,}/{steps:,}", f"{losses} · {speed:,.0f} tokens/s · {duration(left)} left"

    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        told = {"tenth": 0}

        def line(progress: DistillationProgress, steps: int) -> None:
            if (tenth := 10 * progress.step // steps) > told["tenth"]:
                told["tenth"] = tenth
                click.echo("   ".join(words(progress, steps)), err=True)

        yield lambda text: click.echo(text, err=True), line
        return

    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.fields[count]}"), BarColumn(), TextColumn("{task.fields[facts]}"))
    with Bars(*columns, console=Console(stderr=True, highlight=False)) as bars:
        tasks: list[int] = []

        def bar(progress: DistillationProgress, steps: int) -> None:
            count, facts = words(progress, steps)
            if not tasks:
                tasks.append(bars.add_task("", total=steps, count=count, facts=facts))
            bars.update(tasks[0], completed=progress.step, count=count, facts=facts)  # type: ignore[arg-type]

        yield lambda text: bars.console.print(text, markup=False), bar

"""`bitrl model distill`: a ternary model from the first blocks of a full-precision one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from bitrl.cli.model_out import check_directory, model_out_option
from bitrl.cli.output import claim_stdout, echo, json_option, print_json, table
from bitrl.cli.quoted_command import quoted_command
from bitrl.core.runs.display import display, show_count, show_model_training


@click.command()
@click.option(
    "--teacher", metavar="MODEL", required=True,
    help="A Llama model of floats: a GGUF file, a directory with safetensors, or a name of `bitrl model list`.",
)  # fmt: skip
@model_out_option
@click.option("--layers", type=click.IntRange(1), help="Keep only this many blocks, the first ones.  [default: all]")
@click.option(
    "--text", type=click.Path(path_type=Path), multiple=True,
    help="A text file to train on (plain, .gz or .dz); repeat for more.",
)  # fmt: skip
@click.option(
    "--envs", default="CartPole-v1,Acrobot-v1,MountainCar-v0", show_default=True,
    help='Environments whose states the student learns to read, comma-separated; "" for none.',
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Training steps.")
@click.option(
    "--pretraining-steps", type=click.IntRange(0), default=0, show_default=True,
    help="How many of the steps train next-token prediction alone, before distillation; with all blocks.",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(64), default=1024, show_default=True, help="Tokens per step.")
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True), default=2e-3, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
    help="Temperature at which logits are compared; with all blocks.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--resume", is_flag=True, help="Resume from the checkpoint of an interrupted training with the same command."
)
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
    check_directory(out)
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
        tokens_per_batch=batch, device=device, resume=resume, command=quoted_command(leave_out=("as_json",)),
    )  # fmt: skip
    stdout = claim_stdout() if as_json else None
    with display() as shown:
        made = make(request, shown.say, partial(show_model_training, shown), partial(show_count, shown))
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
            },
            stdout,
        )  # fmt: skip
        return
    echo(f"{out}: {out.stat().st_size:,} bytes after {made.progress.tokens:,} tokens; card: {out.with_suffix('.md')}")
    echo("losses: " + "  ".join(f"{name} {value:.3f}" for name, value in sorted(made.progress.means.items())))
    rows = [("environment", "states", "block", "R² teacher", "merely rounded", "student")]
    rows += [
        (k.env, k.states, str(k.block), f"{k.teacher:.4f}", f"{k.rounded:.4f}", f"{k.student:.4f}") for k in made.kept
    ]
    if made.kept:
        echo(table(rows))

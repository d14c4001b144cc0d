"""`bitrl eval`: play episodes with a trained agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from bitrl.cli.output import claim_stdout, json_option, print_json
from bitrl.cli.run import evaluation_words
from bitrl.core.runs.progress import progress_display

if TYPE_CHECKING:
    from bitrl.core.runs.watch import Step

MOST_SHOWN = 100
"""Steps that --show prints."""


@click.command("eval")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of episodes.",
    show_default="the run's",
)
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", help="Random seed of the episodes.", show_default="the run's"
)
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cut episodes off after N steps; they count with their return so far.",
    show_default="the run's",
)
@click.option("--show", is_flag=True, help="Print the first episode: states as the model reads them, actions, rewards.")
@click.option(
    "--video",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Record a video of the first episode to FILE.mp4 or FILE.gif (extra video).",
)
@click.option(
    "--states",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Save the numbers of all visited states, as safetensors: for -o serializer.states_file.",
)
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
def evaluate(
    directory: Path,
    episodes: int | None,
    seed: int | None,
    max_steps: int | None,
    show: bool,
    video: Path | None,
    states: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Evaluate a trained agent.

    DIR is the directory of a run; its newest checkpoint plays, with greedy actions.
    """
    from bitrl.core.runs import evaluate as evaluation

    stdout = claim_stdout() if as_json else None
    steps: list[Step] = []
    with progress_display(quiet or as_json) as listener:
        watch = steps.append if show else None
        found = evaluation.evaluate(directory, episodes, seed, (listener,), watch, video, states, max_steps=max_steps)
    if as_json:
        if show:
            found["first_episode"] = [attrs.asdict(step) for step in steps]
        if video is not None:
            found["video"] = str(video)
        if states is not None:
            found["states"] = str(states)
        print_json(found, stdout)
    else:
        for step in steps[:MOST_SHOWN]:
            click.echo(_line(step))
        if len(steps) > MOST_SHOWN:
            click.echo(f"… and {len(steps) - MOST_SHOWN} more steps (--json prints them all)")
        click.echo(f"{found['env']}: {evaluation_words(found)} (step {found['step']:,}, seed {found['seed']})")
        if video is not None:
            click.echo(f"video of the first episode: {video}")
        if states is not None:
            click.echo(f"visited states: {states}")


def _line(step: Step) -> str:
    """`{"cart_position": 0.031, …} → push right, reward 1`; what would break the line is escaped."""
    state = step.state if isinstance(step.state, str) else _numbers(step.state)
    state = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in state)
    return f"{state} → {step.action_name or _numbers(step.action)}, reward {step.reward:.4g}"


def _numbers(values: Any) -> str:
    """A number as it is, several as `[0.031, -0.52]`."""
    if isinstance(values, list):
        return f"[{', '.join(map(_numbers, values))}]"
    return f"{values:.3g}" if isinstance(values, float) else str(values)

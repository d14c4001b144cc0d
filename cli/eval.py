"""`bitrl eval`: play episodes with a trained agent."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, echo, json_option, print_json
from bitrl.cli.run import evaluation_words
from bitrl.core.runs.progress import progress_display
from bitrl.core.terminal import printable

if TYPE_CHECKING:
    from bitrl.core.runs.watch import Step
    from bitrl.core.sampled_completions import SampledCompletion

MOST_SHOWN = 100
"""Steps that --show prints."""


@click.command("eval")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path), shell_complete=completion.runs)
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
@click.option(
    "--memory-limit", metavar="SIZE", help="Resident memory that the process may take.", show_default="the run's"
)
@click.option("--best", is_flag=True, help="The best checkpoint by the evaluations while training, not the newest.")
@click.option(
    "--show",
    is_flag=True,
    help="Print the first episode: states as the model reads them, actions, rewards. Of a language model: its "
    "completions of the first prompts, and their rewards.",
)
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
    memory_limit: str | None,
    best: bool,
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
    from bitrl.core.sampled_completions import SampledCompletion

    stdout = claim_stdout() if as_json else None
    steps: list[Step | SampledCompletion] = []
    with progress_display(quiet or as_json) as listener:
        watch = steps.append if show else None
        found = evaluation.evaluate(
            directory, episodes, seed, (listener,), watch, video, states, max_steps=max_steps, best=best,
            memory_limit=memory_limit,
        )  # fmt: skip
    if as_json:
        if show:
            samples = any(isinstance(step, SampledCompletion) for step in steps)
            found["samples" if samples else "first_episode"] = [attrs.asdict(step) for step in steps]
        if video is not None:
            found["video"] = str(video)
        if states is not None:
            found["states"] = str(states)
        print_json(found, stdout)
    else:
        shown = steps[:MOST_SHOWN]
        for number, step in enumerate(shown, 1):
            width = len(str(len(shown)))
            if isinstance(step, SampledCompletion):
                echo(_sample_lines(number, width, step))
            else:
                echo(_lines(number, width, step))
        if len(steps) > MOST_SHOWN:
            echo(f"… and {len(steps) - MOST_SHOWN} more steps (--json prints them all)")
        echo(f"{found['env']}: {evaluation_words(found)} (step {found['step']:,}, seed {found['seed']})")
        if video is not None:
            echo(f"video of the first episode: {video}")
        if states is not None:
            echo(f"visited states: {states}")


def _lines(number: int, width: int, step: Step) -> str:
    """`12  {"cart_position": 0.031, …} → push right, reward 1`; what would break the line is escaped. On a terminal too
    narrow for it the state is wrapped, and what was done stands below it.
    """
    state = printable(step.state if isinstance(step.state, str) else _numbers(step.state), keep="")
    done = f"→ {printable(str(step.action_name or _numbers(step.action)), keep='')}, reward {step.reward:.4g}"
    start = f"{number:>{width}}  "
    line = f"{start}{state} {done}"
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    if len(line) <= room:
        return line
    indent = " " * len(start)
    wrapped = textwrap.wrap(state, max(room - len(start), 24), break_on_hyphens=False, break_long_words=False)
    return "\n".join([start + (wrapped or [""])[0], *(indent + part for part in wrapped[1:]), indent + done])


def _sample_lines(number: int, width: int, sample: SampledCompletion) -> str:
    """A prompt, its completion and its reward, each below the other; lines of the texts stay lines."""
    indent = " " * (width + 2)
    parts = []
    for name, text in (
        ("prompt", sample.prompt),
        ("completion", sample.completion),
        ("reward", f"{sample.reward:.4g}"),
    ):
        parts.append(f"{name:<12}" + printable(text, keep="\n").replace("\n", f"\n{indent}{' ' * 12}"))
    return f"{number:>{width}}  " + f"\n{indent}".join(parts)


def _numbers(values: Any) -> str:
    """A number as it is, several as `[0.031, -0.52]`, parts with their names."""
    if isinstance(values, dict):
        return f"{{{', '.join(f'{name}: {_numbers(part)}' for name, part in values.items())}}}"
    if isinstance(values, list):
        return f"[{', '.join(map(_numbers, values))}]"
    return f"{values:.3g}" if isinstance(values, float) else str(values)

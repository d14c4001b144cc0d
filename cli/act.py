"""`bitrl act`: run an exported agent, observations in and actions out, one a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bitrl.cli.output import claim_stdout


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--example", is_flag=True, help="Print an example of the observations that this agent takes, and exit.")
@click.option("--facts", is_flag=True, help="Print facts about the agent, and exit.")
@click.option(
    "-o",
    "--option",
    "assignments",
    multiple=True,
    metavar="backbone.OPTION=VALUE",
    help="Set an option of the backbone, as in -o backbone.threads=1, or backbone.model=FILE.",
)
def act(file: Path, example: bool, facts: bool, assignments: tuple[str, ...]) -> None:
    """Run an exported agent: observations in, actions out.

    FILE was written by `bitrl export`. Each line of the input is an observation as JSON, as the environment gives it
    (--example prints one); each line of the output is the greedy action: a number, a list of numbers, or one of the
    observation's commands. A line `null` begins a new episode, and is answered by `null`.
    """
    from bitrl.core.acting.agents import Agent, read
    from bitrl.core.config import parse_assignments
    from bitrl.core.errors import RunFailed, UsageError

    given = parse_assignments(assignments)
    if other := sorted(given.keys() - {"backbone"}):
        raise UsageError(f"-o {other[0]}.…: only options of the backbone can be set for an exported agent")
    stdout = claim_stdout()
    contents = read(file)
    if facts:
        print(json.dumps(contents.meta, indent=2), file=stdout, flush=True)
        return
    agent = Agent(contents, given.get("backbone", {}), typed=True)
    episode = agent.episode()
    if example:
        print(json.dumps(agent.example), file=stdout, flush=True)
        return
    with click.open_file("-", encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                observation = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RunFailed(f"line {number} of the input: expected JSON: {error}") from None
            if observation is None:
                episode.reset()
                answer = None
            else:
                try:
                    answer = plain_action(observation, episode.act(observation))
                except UsageError as error:
                    raise RunFailed(f"line {number} of the input: {error}") from None
            print(json.dumps(answer), file=stdout, flush=True)


def plain_action(observation: Any, action: Any) -> Any:
    """An action as plain data; the command itself where the observation has commands."""
    commands = observation.get("commands") if isinstance(observation, dict) else None
    if commands is None:
        return action if isinstance(action, int) else action.tolist()
    return (commands.split("\n") if isinstance(commands, str) else commands)[action]

"""`bitrl act`: run an exported agent, observations in and actions out, one a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from bitrl.cli.backbone_options import backbone_option, backbone_options
from bitrl.cli.output import claim_stdout, print_json
from bitrl.core.errors import BitrlError, RunFailed, UsageError

LONGEST_LINE = 2**26
"""Bytes of an observation."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--example", is_flag=True, help="Print an example of the observations that this agent takes, and exit.")
@click.option("--facts", is_flag=True, help="Print facts about the agent, and exit.")
@click.option("--strict", is_flag=True, help="Stop at the first line that is no observation, with exit code 1.")
@backbone_option
@click.pass_context
def act(ctx: click.Context, file: Path, example: bool, facts: bool, strict: bool, assignments: tuple[str, ...]) -> None:
    """Run an exported agent: observations in, actions out.

    FILE was written by `bitrl export`. Each line of the input is an observation as JSON, as the environment gives it
    (--example prints one); each line of the output is the greedy action: a number, a list of numbers, one of the
    observation's commands, or of several parts an object or a list of these. A line `null` begins a new episode, and is
    answered by `null`. A line that is no observation is answered by {"error": "…"}: it takes no part in the episode,
    and the next line is served.
    """
    from bitrl.core.acting.agents import Agent, read
    from bitrl.core.acting.json_input import parse_json
    from bitrl.core.acting.plain_observations import plain_answer

    options = backbone_options(assignments)
    stdout = claim_stdout()
    contents = read(file)
    if facts:
        print_json(contents.meta, stdout)
        return
    agent = Agent(contents, options, typed=True)
    if example:
        print_json(agent.example, stdout, indent=None)
        return
    if 0 in (ctx.obj or ()):
        raise RunFailed("standard input is closed: observations are read from it, one a line")
    episode = agent.episode()
    for number, line in enumerate(lines_of(sys.stdin.buffer), 1):
        if line is not None and not line.strip():
            continue
        try:
            if line is None:
                raise UsageError(f"expected at most {LONGEST_LINE:,} bytes")
            observation = parse_json(line)
            if observation is None:
                episode.reset()
                answer = None
            else:
                answer = plain_answer(observation, episode.act(observation), agent.commanded)
        except BitrlError as error:
            if strict:
                raise RunFailed(f"line {number} of the input: {error}") from None
            answer = {"error": f"line {number}: {error}"}
        print_json(answer, stdout, indent=None)


def lines_of(stream: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of `stream` as they come; None for one longer than LONGEST_LINE, never held whole."""
    while line := stream.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LONGEST_LINE)
        yield None

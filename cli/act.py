"""`bitrl act`: run an exported agent, observations in and actions out, one a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from bitrl.cli.output import claim_stdout, print_json
from bitrl.core.errors import BitrlError, RunFailed, UsageError

LONGEST_LINE = 2**26
"""Bytes of an observation."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--example", is_flag=True, help="Print an example of the observations that this agent takes, and exit.")
@click.option("--facts", is_flag=True, help="Print facts about the agent, and exit.")
@click.option("--strict", is_flag=True, help="Stop at the first line that is no observation, with exit code 1.")
@click.option(
    "-o",
    "--option",
    "assignments",
    multiple=True,
    metavar="backbone.OPTION=VALUE",
    help="Set an option of the backbone, as in -o backbone.threads=1, or backbone.model=FILE.",
)
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
    from bitrl.core.config import parse_assignments

    given = parse_assignments(assignments)
    if other := sorted(given.keys() - {"backbone"}):
        raise UsageError(f"-o {other[0]}.…: only options of the backbone can be set for an exported agent")
    stdout = claim_stdout()
    contents = read(file)
    if facts:
        print_json(contents.meta, stdout)
        return
    agent = Agent(contents, given.get("backbone", {}), typed=True)
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
            observation = parse(line)
            if observation is None:
                episode.reset()
                answer = None
            else:
                answer = answer_of(observation, episode.act(observation))
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


def parse(line: bytes | None) -> Any:
    """The observation that a line of the input holds.

    Raises:
        UsageError: it is too long, not UTF-8, not JSON, or JSON with a key that is there twice, NaN or Infinity.
    """
    if line is None:
        raise UsageError(f"expected at most {LONGEST_LINE:,} bytes")
    try:
        return json.loads(line.decode("utf-8-sig"), parse_constant=_refuse, object_pairs_hook=_each_once)
    except UnicodeDecodeError as error:
        raise UsageError(f"expected UTF-8: byte {error.start + 1} is not") from None
    except RecursionError:
        raise UsageError("expected JSON: nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"expected JSON: {error}") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r:.80} is there twice")
        found[name] = value
    return found


def answer_of(observation: Any, action: Any) -> Any:
    """An action as plain data; the command itself where the observation has commands."""
    from bitrl.core.acting.plain_observations import plain_action

    commands = observation.get("commands") if isinstance(observation, dict) else None
    if commands is None:
        return plain_action(action)
    return (commands.split("\n") if isinstance(commands, str) else commands)[action]

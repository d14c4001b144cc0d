"""`bitrl run`: train an agent, or resume training, and report the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from bitrl.cli import completion
from bitrl.cli.output import claim_stdout, echo, json_option, print_json
from bitrl.core.config import Config, RunOptions, overlay, parse_assignments, read_toml, resolve
from bitrl.core.errors import UsageError
from bitrl.core.options import describe, parse
from bitrl.core.provided import check_file
from bitrl.core.runs.display import duration, score
from bitrl.core.runs.progress import progress_display
from bitrl.core.terminal import shell_word
from bitrl.core.wording import program

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _flag(name: str, metavar: str) -> Callable[[Decorated], Decorated]:
    row = next(row for row in describe(RunOptions) if row.name == name)
    default = "" if row.default == "none" else f"  [default: {row.default.strip(chr(34))}]"
    help = row.help[0].upper() + row.help[1:]
    # Left a string: `resolve` reads it, and words the error, as it does for -o.
    complete = {"env": "environment", "algo": "algorithm", "critic_backbone": "backbone"}.get(name, name)
    return click.option(
        f"--{name.replace('_', '-')}",
        metavar=metavar,
        help=help + default,
        shell_complete=completion.components(complete) if metavar in ("ID", "NAME") else None,
    )


@click.command(context_settings={"max_content_width": 100})
@_flag("env", "ID")
@_flag("backbone", "NAME")
@_flag("critic_backbone", "NAME")
@_flag("serializer", "NAME")
@_flag("algo", "NAME")
@_flag("steps", "N")
@_flag("seed", "N")
@_flag("memory_limit", "SIZE")
@click.option(
    "--logger",
    "loggers",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.components("logger"),
    help="Tell the metrics to this logger, too, as csv or tensorboard (`bitrl list loggers`). May be repeated.",
)
@click.option(
    "-o",
    "--option",
    "assignments",
    multiple=True,
    metavar="PART.OPTION=VALUE",
    shell_complete=completion.assignments,
    help="Set any option, as in -o algo.clip_coef=0.2 (`bitrl show`). May be repeated; the last one counts.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Start from this TOML file; flags and -o take precedence.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run's directory.  [default: a fresh one under runs/]",
)
@click.option("--force", is_flag=True, help="Replace the run that is already in --out.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    shell_complete=completion.runs,
    help="Resume the run in DIR with its own configuration; it ends bit-identically to one never stopped. "
    "With --steps N it trains on to N steps, a finished run too; --memory-limit may be another. Or learn on from the "
    "exported agent in FILE, in a new run, which may have another --env and --seed.",
)
@click.option("--with-optimizer", is_flag=True, help="With --resume FILE: refuse an agent without its optimizer.")
@json_option
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    loggers: tuple[str, ...],
    assignments: tuple[str, ...],
    config: Path | None,
    out: Path | None,
    force: bool,
    resume: Path | None,
    with_optimizer: bool,
    as_json: bool,
    quiet: bool,
    **flags: str | None,
) -> None:
    """Train an agent, then evaluate it.

    Precedence of settings: flags and -o > --config > the environment's defaults (`bitrl show env ID`) > defaults.
    Ctrl-C, SIGTERM and SIGHUP (a closed terminal) save a checkpoint and stop; a second one stops at once. The exit code
    is then 128 + the signal: 130, 143 or 129.

    torch is needed by -o backbone.lora_rank, -o algo.rollout and the algorithms that teach a language model (grpo,
    ppo-lm), and by nothing else here.
    """
    from bitrl.core.runs import train

    stdout = claim_stdout() if as_json else None
    agent = resume if resume is not None and resume.is_file() else None
    if resume is not None and not resume.exists():
        raise UsageError(f"--resume {resume}: no such file or directory: give a run's directory, or an exported agent")
    if with_optimizer and agent is None:
        raise UsageError("--with-optimizer is about an agent's file: give one with --resume FILE")
    if agent is not None:
        if config is not None:
            raise UsageError("--resume FILE goes on with the agent's own configuration: leave out --config")
        given, text = _typed(assignments, flags | {"loggers": ",".join(loggers) or None})
    elif resume is not None:
        _refuse_beside_resume(ctx)
        steps = _steps(flags["steps"])
    else:
        resolved = configure(config, assignments, flags | {"loggers": ",".join(loggers) or None})
    with progress_display(quiet or as_json) as listener:
        if agent is not None:
            from bitrl.core.runs.learn_on import go_on_from

            summary = go_on_from(agent, given, text, out, force, with_optimizer, (listener,))
        elif resume is not None:
            summary = train.go_on(resume, (listener,), steps, flags["memory_limit"])
        else:
            summary = train.start(resolved, out, force, (listener,))
    if as_json:
        print_json(summary, stdout)
    else:
        echo(report(summary, advice=not quiet))


def configure(file: Path | None, assignments: tuple[str, ...], flags: dict[str, str | None]) -> Config:
    """The configuration that a command line asks for. Reports which options of the file were ignored, if any.

    Raises:
        UsageError: the file, an assignment or a flag is wrong.
    """
    typed, text = _typed(assignments, flags)
    values, left_out = overlay(read_toml(file) if file is not None else {}, typed)
    if file is not None:
        check_file(file, values, typed["run"])
    if left_out:
        echo(f"{file}: ignored {', '.join(left_out)} (options of components that were replaced)", err=True)
    return resolve(values, text)


def _typed(
    assignments: tuple[str, ...], flags: dict[str, str | None]
) -> tuple[dict[str, dict[str, str]], dict[str, frozenset[str]]]:
    """What was typed, by part and option, and the options of each part that it names."""
    typed: dict[str, dict[str, str]] = parse_assignments(assignments)
    typed.setdefault("run", {}).update({name: value for name, value in flags.items() if value is not None})
    return typed, {part: frozenset(section) for part, section in typed.items()}


def report(summary: dict[str, Any], advice: bool = True) -> str:
    """The report of a finished run: its evaluation, its cost, and what to do next."""
    directory = shell_word(summary["run"])
    cost = f"{duration(summary['train_seconds'])} ({summary['steps_per_second']:,.0f} steps/s)"
    lines = [
        f"{summary['env']}: {evaluation_words(summary['eval'])}",
        f"trained {summary['steps']:,} steps in {cost}, peak memory {summary['peak_rss_mb']:,.0f} MB",
    ]
    if (best := summary.get("best_while_training")) is not None:
        lines.append(
            f"best mean return while training {score(best['mean_return'])} (greedy actions), at step {best['step']:,}"
        )
    if (sampled := _last_sampled_return(Path(summary["run"]))) is not None:
        lines.append(f"mean return while training {score(sampled)} (sampled actions, the last episodes)")
    cache = summary.get("cache", {})
    if cache.get("hits"):
        hits, texts = cache["hits"], cache["hits"] + cache["misses"]
        lines.append(f"feature-cache hit rate {hits / texts:.0%} of {texts:,} texts")
    if advice:
        again = f"{program()} run --config {directory}/config.toml"
        # Only among the built-in ones that write such states.
        other = {"json": "compact", "natural": "compact", "compact": "natural"}.get(summary["serializer"])
        steps = [
            ("evaluate it on other episodes", f"{program()} eval {directory} --seed {summary['seed'] + 1}"),
            *([("evaluate the best checkpoint", f"{program()} eval {directory} --best")] if best is not None else []),
            ("train another with a new seed", f"{again} --seed {summary['seed'] + 1}"),
            *([("try another serializer", f"{again} --serializer {other}")] if other else []),
        ]
        # Each on a line of its own, never wrapped: a command is there to be pasted.
        lines += ["", "next", *(f"  {what}:\n    {command}" for what, command in steps)]
        lines.append(f"  how it learned is in {directory}/metrics.jsonl")
    return "\n".join(lines)


def _last_sampled_return(directory: Path) -> float | None:
    """The mean return of training's last episodes, as the progress showed it; None where none has ended."""
    try:
        rows = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = [row["episode_return"] for row in map(json.loads, rows) if "episode_return" in row]
    except (OSError, ValueError):
        return None
    return float(found[-1]) if found and isinstance(found[-1], (int, float)) else None


def evaluation_words(statistics: dict[str, Any]) -> str:
    """`mean return 487.1 ± 22.4 (standard deviation, greedy actions) over 100 episodes`."""
    if not statistics["episodes"]:
        return "not evaluated (run.eval_episodes is 0)"
    mean, std, episodes = statistics["mean_return"], statistics["std_return"], statistics["episodes"]
    plural = "s" if episodes != 1 else ""
    success = f"{statistics['success_rate']:.1%} successful, " if "success_rate" in statistics else ""
    spread = f"± {score(std, beside=mean)} (standard deviation, greedy actions)"
    own = "".join(f", {name} {value:.4g}" for name, value in statistics.get("metrics", {}).items())
    cut = f", {statistics['cut_episodes']} cut off at the limit of steps" if "cut_episodes" in statistics else ""
    return f"{success}mean return {score(mean)} {spread}{own} over {episodes} episode{plural}{cut}"


def _steps(typed: str | None) -> int | None:
    """What --steps says beside --resume."""
    if typed is None:
        return None
    options: Any = parse(RunOptions, {"steps": typed}, "run", frozenset({"steps"}))
    steps: int = options.steps
    return steps


def _refuse_beside_resume(ctx: click.Context) -> None:
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name not in ("resume", "steps", "memory_limit", "as_json", "quiet")
        and ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        directory = shell_word(ctx.params["resume"])
        raise UsageError(
            f"--resume keeps the run's configuration: leave out {', '.join(given)}, "
            f"or start a new run with --config {directory}/config.toml"
        )

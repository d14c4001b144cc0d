"""The command line: which commands there are, and how a failure is reported. Each command is one file.

Nothing heavy is imported here, and a command only when it is called, so that `bitrl --help` is instant.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import click

from bitrl.core import address_space
from bitrl.core.cpus import limit_spinning
from bitrl.core.errors import BitrlError, RunFailed, UsageError, cause, out_of_memory
from bitrl.core.lingering_threads import end
from bitrl.core.terminal import LONGEST_MESSAGE, as_line, keep_streams, mend_streams, tell
from bitrl.core.wording import command_line, program

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("bitrl.cli.run:run", "Train an agent, then evaluate it."),
    "eval": ("bitrl.cli.eval:evaluate", "Evaluate a trained agent."),
    "export": ("bitrl.cli.export:export", "Export a trained agent or language model to a file."),
    "act": ("bitrl.cli.act:act", "Run an exported agent: observations in, actions out."),
    "profile": ("bitrl.cli.profile:profile", "Measure what an agent takes while it acts, on this machine."),
    "serve": ("bitrl.cli.serve:serve", "Serve an exported agent over HTTP."),
    "study": ("bitrl.cli.study:study", "Train every cell of a study, and compare its arms."),
    "compare": ("bitrl.cli.compare:compare", "Compare trained runs: what differs, and whether it matters."),
    "report": ("bitrl.cli.report:report", "Report on trained runs: one page, or tables for a paper."),
    "analyze": ("bitrl.cli.analyze:analyze", "Measure what quantised weights do to a trained agent."),
    "plot": ("bitrl.cli.plot:plot", "Draw learning curves."),
    "watch": ("bitrl.cli.watch:watch", "Watch training runs, side by side."),
    "list": ("bitrl.cli.list:list_components", "List the installed components, or runs."),
    "show": ("bitrl.cli.show:show", "Show a component and its options."),
    "bench": ("bitrl.cli.bench:bench", "Measure the engine against the limits of this machine."),
    "doctor": ("bitrl.cli.doctor:doctor", "Check this installation, and suggest fixes."),
    "model": ("bitrl.cli.model:model", "Train, distil, convert, inspect, probe and try language models."),
    "plugin": ("bitrl.cli.plugin:plugin", "Write and check plugins."),
}
"""Command → (where it is, its one-line help): enough for `bitrl --help` without importing any of them."""


ALIASES = {"ablate": "study"}
"""Other names of commands."""


class LazyGroup(click.Group):
    """A group whose commands are those of `COMMANDS` and of plugins, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        # Once `bitrl list` is imported, `list` is that module here.
        return [*COMMANDS, *(name for name, _ in plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called `cmd_name`.

        Raises:
            UsageError: there is none, or a plugin's cannot be imported or is no command.
        """
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            own: click.Command = getattr(importlib.import_module(module), attribute)
            return own
        from bitrl.core.registry import registry

        command: object = registry().find("command", cmd_name).load()
        if not isinstance(command, click.Command):
            raise UsageError(f'command "{cmd_name}" is no click command: tell the authors of its plugin')
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` begin with, or say which was meant."""
        if ctx.resilient_parsing:  # while a shell completes the command, which says no errors
            try:
                return super().resolve_command(ctx, args)
            except UsageError:
                return None, None, args
        if args[0].startswith("-"):
            ctx.fail(f"No such option: {args[0]}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a plugin's raises unexpectedly is said to be the plugin's.

        Raises:
            RunFailed: a plugin's command failed.
        """
        try:
            return super().invoke(ctx)
        except (
            BitrlError,
            click.ClickException,
            click.exceptions.Exit,
            click.Abort,
            OSError,
            ImportError,
            UnicodeError,
        ):
            raise  # explained, or as good as
        except Exception as error:
            name = ctx.invoked_subcommand
            if name is None or name in COMMANDS or name in ALIASES or out_of_memory(error):
                raise
            from bitrl.core.registry import registry

            package = registry().package(registry().find("command", name))
            raise RunFailed(
                f'command "{name}" of package {package} failed: {cause(error)}: tell its authors (BITRL_DEBUG=1 shows '
                "the traceback)"
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands from the table and the records of plugins, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        if found := plugin_commands():
            with formatter.section("Commands of plugins"):
                formatter.write_dl(found)


def plugin_commands() -> list[tuple[str, str]]:
    """Name and summary of the commands that plugins bring; a name that is taken stands behind its package's, as
    `package:name`.
    """
    if not _plugins_installed():
        return []
    from bitrl.core.registry import registry

    entries = registry().entries["command"]
    names = [entry.record.name for entry in entries]
    return [
        (name if names.count(name) == 1 else f"{entry.package}:{name}", entry.record.summary)
        for name, entry in zip(names, entries, strict=True)
        if entry.package != "bitrl"
    ]


def _plugins_installed() -> bool:
    """Whether another distribution than bitrl declares entry points for it.

    Reads the files by itself: importing importlib.metadata would take as long as all the rest of `bitrl --help`.
    """
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:  # a zip file, or nothing
            continue
        for name in names:
            distribution, _, kind = name.rpartition(".")
            if kind in ("dist-info", "egg-info") and distribution.partition("-")[0] != "bitrl":
                try:
                    with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                        if b"[bitrl]" in file.read():
                            return True
                except OSError:
                    continue
    return False


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from bitrl import __version__

        click.echo(f"bitrl {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `bitrl run`. Every command that prints facts takes --json. "
    "Exit codes: 0 success, 1 the run failed, 2 wrong usage.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train reinforcement-learning agents that perceive through a frozen 1-bit language model."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> None:
    """The `bitrl` program: run one command and exit with its code; a failure is one line on stderr.

    With BITRL_DEBUG=1 in the environment a failure shows its traceback too.
    """
    before = threading.enumerate()
    lacking = _open_standard_streams()
    keep_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without "…" is no reason to fail
    code: Any = 0
    try:
        with command_line():
            _check_surroundings(lacking)
            address_space.watch()
            limit_spinning()
            code = cli.main(args=args, prog_name="bitrl", standalone_mode=False, obj=lacking)
            mend_streams()
            _flush_stdout()
    except BrokenPipeError:
        code = 1  # the reader of our output went away, which is its right
    except SystemExit:  # a plugin's command may end the program as it likes
        raise
    except BaseException as error:  # a panic in an extension module is no Exception
        with command_line():
            code = _explain(error)
    mend_streams()
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # Without this, Python would complain at exit about what it could not write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code if isinstance(code, int) and code else 1
    end(code if isinstance(code, int) else 0, before)


def _open_standard_streams() -> list[int]:
    """Open those of fds 0, 1 and 2 that are closed (`>&-`) on /dev/null: the next file to be opened would get their
    number, and be written into by whoever prints. Returns them.
    """
    lacking = []
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            lacking.append(fd)
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    return lacking


def _check_surroundings(lacking: Sequence[int]) -> None:
    """Refuse to start where any command would fail sooner or later.

    Raises:
        RunFailed: stdout is closed, or the working directory is gone.
    """
    if 1 in lacking:
        raise RunFailed("standard output is closed: send it to a file, or to /dev/null (> /dev/null)")
    try:
        os.getcwd()
    except OSError as error:
        raise RunFailed(f"the working directory cannot be used ({error.strerror}): cd to another") from None


def _flush_stdout() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunFailed(f"standard output cannot be written: {error.strerror}: send it elsewhere (> FILE)") from None


def _explain(error: BaseException) -> int:
    """Print what went wrong; return the exit code."""
    if os.environ.get("BITRL_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    if type(error).__name__ == "NoArgsIsHelpError":  # click ≥ 8.2: a bare `bitrl model`; the message is its help
        tell(str(error))
        return 2
    code = 1
    if isinstance(error, click.Abort):
        message = "interrupted"  # click has made this of a KeyboardInterrupt
        code = 128 + getattr(error.__cause__, "signum", 2)  # 2: Ctrl-C
    elif isinstance(error, BitrlError):
        message, code = str(error), error.exit_code
    elif isinstance(error, click.ClickException):
        message, code = error.format_message(), error.exit_code
        if isinstance(error, click.NoSuchOption):
            from bitrl.cli.unknown_option import where

            place = where(error)
            message = message if place is None else f"No such option '{error.option_name}': set it by {place}"
        ctx = getattr(error, "ctx", None)
        if ctx is not None:
            command = program() + ctx.command_path.removeprefix("bitrl")
            message = f"{message.rstrip('.')} (see {command} --help)"
    else:
        message = _cause(error)
    tell(as_line(f"Error: {message}", LONGEST_MESSAGE))
    return code


def _cause(error: BaseException) -> str:
    """What caused an error that no part of bitrl has explained, where the user or the machine may have."""
    if out_of_memory(error):
        return (
            "out of memory: make room (other programs, a container's limit, ulimit -v), or ask for less: a smaller "
            "model or batch"
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        from bitrl.core.installing import to_install

        return f"{error.name} is not installed, which this command needs: {to_install(error.name)}"
    if isinstance(error, OSError) and error.strerror:
        return _system_error(error)
    if isinstance(error, UnicodeEncodeError) and any("\udc80" <= sign <= "\udcff" for sign in error.object):
        return f"{error.object}: a name that is not UTF-8: rename it, or name another"
    return (
        f"{cause(error)} (unexpected error, please report it at the project's issue tracker with the command and "
        "BITRL_DEBUG=1 output)"
    )


REMEDIES = {
    "ENOSPC": "free some space",
    "EDQUOT": "free some space",
    "EACCES": "choose a place that you may use, or change its permissions",
    "EPERM": "choose a place that you may use, or change its permissions",
    "EROFS": "choose a place that can be written",
    "EMFILE": "raise the limit of open files (ulimit -n), or ask for fewer environments",
    "ENFILE": "close other programs: the system has no more open files",
    "EAGAIN": "raise the limit of processes (ulimit -u), or close other programs",
    "ENAMETOOLONG": "choose a shorter name",
    "ENOENT": "check the name",
    "ELOOP": "remove the symbolic links that point at each other",
}
"""System error → what to do about it."""


def _system_error(error: OSError) -> str:
    """`FILE: No space left on device: free some space`."""
    import errno

    where = f"{error.filename}: " if error.filename is not None else ""
    remedy = REMEDIES.get(errno.errorcode.get(error.errno or 0, ""))
    return f"{where}{error.strerror}" + (f": {remedy}" if remedy else " (an error of the system)")

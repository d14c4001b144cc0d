"""The program itself: its help, what it imports, and how it tells a failure."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys

import click
import pytest

from bitrl.cli import COMMANDS, cli
from bitrl.core.errors import RunFailed
from bitrl.core.runs.interrupts import StoppedAtOnce

PROGRAM = "from bitrl.cli import main; main()"
HEAVY = {"torch", "numpy", "gymnasium", "tokenizers", "safetensors", "gguf", "rich", "bitrl._engine"}


def imported_by(*args: str) -> set[str]:
    """The names of all modules that a command imports."""
    command = [sys.executable, "-X", "importtime", "-c", PROGRAM, *args]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("args", [("--help",), ("list",), ("show", "backbone", "bitnet"), ("run", "--help")])
def test_light_commands_import_nothing_heavy(args: tuple[str, ...]) -> None:
    imported = imported_by(*args)
    assert "click" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_of_torch_sleep_soon(given: dict[str, str], count: str) -> None:
    surroundings = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; from bitrl.cli import main\ntry: main(['--version'])\n"
            "finally: print(os.environ.get('GOMP_SPINCOUNT'))",
        ],
        env=surroundings | given,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.splitlines()[-1] == count


def test_help_imports_no_command_and_no_plugin() -> None:
    imported = imported_by("--help")
    assert not {name for name in imported if name.startswith(("bitrl.cli.", "bitrl.plugins", "pluggy"))}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says_with_that_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name][1]


def test_help_lists_every_command(bitrl) -> None:
    done = bitrl("--help")
    assert done.code == 0
    for name, (_, text) in COMMANDS.items():
        assert f"{name:<7}  {text}" in done.out


def test_bare_program_shows_its_help(bitrl) -> None:
    assert bitrl() == bitrl("--help") == bitrl("-h")


def leaves(group: click.Group, words: tuple[str, ...] = ()):
    """Every command that is no group, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield (*words, name), command
            yield from leaves(command, (*words, name))
        else:
            yield (*words, name), command


def test_every_command_that_prints_facts_takes_json() -> None:
    found = {" ".join(words): [opt for each in command.params for opt in each.opts] for words, command in leaves(cli)}
    assert {"run", "bench", "bench env", "model train", "model convert", "plugin new", "doctor"} <= set(found)
    # What `act` prints is JSON, a line for each line it reads.
    assert [words for words, flags in found.items() if "--json" not in flags] == ["act"]


@pytest.mark.parametrize("group", ["model", "plugin", "bench"])
def test_a_group_lists_its_commands_with_their_help_unabridged(bitrl, group: str) -> None:
    text = " ".join(bitrl(group, "--help").out.split())
    context = click.Context(cli)
    command = cli.get_command(context, group)
    assert isinstance(command, click.Group)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert f"{name} {inner.get_short_help_str(limit=1000)}" in text
    assert "..." not in text.partition("Commands:")[2]


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell line in which `$BITRL` is the program."""
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)}"
    line = line.replace("$BITRL", program)
    return subprocess.run(["bash", "-c", line], capture_output=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("$BITRL list algos >&-", 1, b"Error: standard output is closed: send it to a file, or to /dev/null"),
        ("$BITRL list algos >/dev/full", 1, b"Error: standard output cannot be written: No space left on device"),
        ("$BITRL list algos --json >/dev/full", 1, b"Error: standard output cannot be written: No space left"),
        ("$BITRL list algos <&-", 0, b""),
        ("$BITRL list algos 2>&-", 0, b""),
        ("$BITRL nonsense 2>&-", 2, b""),
        ("$BITRL nonsense 2>/dev/full", 2, b""),
        ("$BITRL list --json | true; exit ${PIPESTATUS[0]}", None, b""),
        ("cd $(mktemp -d) && rmdir $PWD && $BITRL list", 1, b"Error: the working directory cannot be used"),
        ("$BITRL show env $'x\\xff\\x1b[2Jy'", 2, b'Error: unknown environment "x\\xff\\x1b[2Jy"'),
        ("$BITRL eval $'x\\xff'", 2, b"Error: x\\xff: not a run"),
    ],
)
def test_what_a_shell_can_do_to_a_program_is_one_line_at_most(line: str, code: int | None, error: bytes) -> None:
    done = shell(line)
    assert done.returncode == code or code is None
    assert done.stderr.startswith(error)
    assert done.stderr.count(b"\n") == (1 if error else 0)
    assert len(done.stderr) <= 501


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "No space left on device: free some space"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied: choose a place that you may use"),
        (OSError(24, "Too many open files"), "Too many open files: raise the limit of open files (ulimit -n)"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
        (RuntimeError("can't start new thread"), "out of memory"),
        (ModuleNotFoundError("No module named 'av.x'", name="av.x"), "pip install 'bitrl[video]'"),
    ],
)
def test_what_a_machine_does_is_no_unexpected_error(bitrl, monkeypatch, tmp_path, error: Exception, line: str) -> None:
    monkeypatch.setattr("bitrl.core.runs.evaluate.evaluate", raising(error))
    done = bitrl("eval", tmp_path)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert line in done.err
    assert "unexpected" not in done.err


def test_version(bitrl) -> None:
    from bitrl import __version__

    assert bitrl("--version").out == f"bitrl {__version__}\n"


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("lst",), 'unknown command "lst": did you mean "list"?'),
        (("list", "algoz"), 'unknown kind "algoz": did you mean "algo" or "algos"?'),
        (("run", "--stepz", "3"), "(see bitrl run --help)"),
        (("eval",), "(see bitrl eval --help)"),
        (("--nonsense",), "(see bitrl --help)"),
    ],
)
def test_wrong_command_is_one_line_and_exit_code_2(bitrl, args: tuple[str, ...], error: str) -> None:
    done = bitrl(*args)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert error in done.err


def raising(error: BaseException):
    def command(*args: object, **options: object) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RunFailed("the disk is on fire"), "Error: the disk is on fire\n"),
        (MemoryError(), "Error: out of memory: make room"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "Error: out of memory: make room"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "Error: out of memory: make room"),
        (
            ZeroDivisionError("one\nand two"),
            "Error: ZeroDivisionError: one and two (unexpected error, please report it "
            "at the project's issue tracker with the command and BITRL_DEBUG=1 output)\n",
        ),
    ],
)
def test_failure_is_one_line_and_exit_code_1(bitrl, monkeypatch, tmp_path, error: BaseException, line: str) -> None:
    monkeypatch.setattr("bitrl.core.runs.evaluate.evaluate", raising(error))
    done = bitrl("eval", tmp_path, "--json")
    assert done.code == 1
    assert done.out == ""
    assert done.err.lstrip("\n").startswith(line)  # click ends the terminal's "^C" line first
    assert done.err.strip().count("\n") == 0


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (StoppedAtOnce(signal.SIGTERM), 143)])
def test_what_a_signal_stops_at_once_exits_with_128_and_its_number(bitrl, monkeypatch, tmp_path, error, code) -> None:
    monkeypatch.setattr("bitrl.core.runs.evaluate.evaluate", raising(error))
    done = bitrl("eval", tmp_path, "--json")
    assert (done.code, done.out, done.err.strip()) == (code, "", "Error: interrupted")


class Panic(BaseException):
    """As pyo3 raises where Rust code panics: no Exception."""


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [Panic("index out of bounds"), Unprintable()])
def test_what_is_no_exception_or_cannot_be_printed_is_one_line(bitrl, monkeypatch, tmp_path, error) -> None:
    monkeypatch.setattr("bitrl.core.runs.evaluate.evaluate", raising(error))
    done = bitrl("eval", tmp_path, "--json")
    assert done.code == 1
    assert done.err.startswith(f"Error: {type(error).__name__}")
    assert done.err.count("\n") == 1


def test_json_has_null_for_what_is_not_finite(bitrl, monkeypatch, tmp_path) -> None:
    found = {"mean_return": math.inf, "returns": [1.0, math.nan], "metrics": {"a": -math.inf, "b": 2}}
    monkeypatch.setattr("bitrl.core.runs.evaluate.evaluate", lambda *args, **options: found)
    done = bitrl("eval", tmp_path, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out, parse_constant=pytest.fail) == {
        "mean_return": None,
        "returns": [1.0, None],
        "metrics": {"a": None, "b": 2},
    }


def test_debug_shows_the_traceback(bitrl, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("bitrl.core.runs.evaluate.evaluate", raising(ZeroDivisionError("gone wrong")))
    assert "Traceback" not in bitrl("eval", tmp_path).err
    monkeypatch.setenv("BITRL_DEBUG", "1")
    done = bitrl("eval", tmp_path)
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("Error: ZeroDivisionError: gone wrong")


def test_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-c", PROGRAM, "show", "run"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    assert program.stderr.read() == ""
    program.wait()
    program.stderr.close()


def test_output_that_cannot_be_encoded_is_replaced(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = subprocess.run([sys.executable, "-c", PROGRAM, "list"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "json" in done.stdout

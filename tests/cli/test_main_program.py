"""The program itself: its help, what it imports, and how it tells a failure."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from bitrl.cli import COMMANDS, cli
from bitrl.core.errors import RunFailed

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
        (KeyboardInterrupt(), "Error: interrupted\n"),
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

"""Commands and doctor checks of plugins, seen from the command line; and `python -m bitrl`."""

from __future__ import annotations

import json
import subprocess
import sys

from bitrl.cli import builtin, doctor

COMMANDS = """
import bitrl
import click

@click.command()
@click.argument("name")
def hello(name):
    click.echo(f"hello {name}")

@bitrl.hookimpl
def bitrl_commands():
    yield bitrl.CommandRecord(name="hello", summary="Say hello.", target=f"{__name__}:hello")
    yield bitrl.CommandRecord(name="list", summary="Another list.", target=f"{__name__}:hello")
    yield bitrl.CommandRecord(name="lost", summary="Is not there.", target="nowhere_at_all:lost")
    yield bitrl.CommandRecord(name="odd", summary="Is none.", target="json:loads")
"""
TWIN = """
import bitrl

@bitrl.hookimpl
def bitrl_commands():
    yield bitrl.CommandRecord(name="hello", summary="Say hello too.", target="commands:hello")
"""
CHECKS = """
import bitrl

def good():
    yield bitrl.Finding("camera", True, "is plugged in")
    raise RuntimeError("the lens\\nfell off")

def odd():
    yield "fine"

@bitrl.hookimpl
def bitrl_doctor_checks():
    yield bitrl.DoctorCheckRecord(name="camera", summary="is it there", target=f"{__name__}:good")
    yield bitrl.DoctorCheckRecord(name="odd", summary="is odd", target=f"{__name__}:odd")
"""
WRONG = """
import bitrl

@bitrl.hookimpl
def bitrl_loggers():
    yield "csv"
"""


def test_a_plugins_command_is_in_the_help_and_runs(installed) -> None:
    call = installed(commands=COMMANDS)
    section = call("--help").out.partition("Commands of plugins:")[2]
    assert "hello          Say hello." in section
    assert "commands:list  Another list." in section
    assert call("hello", "you").out == "hello you\n"


def test_a_plugins_command_never_shadows_a_built_in_one(installed) -> None:
    call = installed(commands=COMMANDS)
    listed = json.loads(call("list", "commands", "--json").out)
    assert {"package": "commands", "message": 'command "list" is also provided by bitrl'} in listed["problems"]
    assert call("commands:list", "you").out == "hello you\n"


def test_commands_that_cannot_be_run_are_one_line(installed) -> None:
    call = installed(commands=COMMANDS, twin=TWIN)
    for name, words in [
        ("lost", '"lost" could not be loaded from nowhere_at_all:lost: ModuleNotFoundError'),
        ("odd", 'command "odd" is no click command'),
        ("hello", 'command "hello" is provided by commands and twin: choose "commands:hello" or "twin:hello"'),
        ("helo", 'unknown command "helo": did you mean "hello"?'),
    ]:
        done = call(name)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert words in done.err
    assert call("twin:hello", "you").out == "hello you\n"


def test_a_check_that_raises_or_yields_something_else_is_a_finding_of_its_package(installed) -> None:
    done = installed(checks=CHECKS)("doctor", "--json")
    found = [(row["check"], row["ok"], row["detail"]) for row in json.loads(done.out)["findings"]]
    assert ("camera", True, "is plugged in") in found
    assert ("plugin checks", False, 'doctor-check "camera" failed: RuntimeError: the lens fell off') in found
    assert (
        "plugin checks",
        False,
        "doctor-check \"odd\" failed: TypeError: expected bitrl.Finding objects, got 'fine'",
    ) in found
    assert done.code == 1


def test_a_hook_that_yields_the_wrong_type_is_reported(installed) -> None:
    call = installed(wrong=WRONG)
    assert "bitrl_loggers failed: TypeError: expected LoggerRecord records, got 'csv'" in call("list").out
    assert call("show", "logger", "csv").code == 0


def test_the_doctors_own_checks_are_those_that_are_listed() -> None:
    assert [f"_{name}" for name in builtin.CHECKS] == [check.__name__ for check in doctor.CHECKS]


def test_python_m_bitrl_is_the_program(bitrl) -> None:
    for args in (["--version"], ["lst"]):
        done = subprocess.run([sys.executable, "-m", "bitrl", *args], capture_output=True, text=True)
        program = bitrl(*args)
        assert (done.returncode, done.stdout, done.stderr) == (program.code, program.out, program.err)

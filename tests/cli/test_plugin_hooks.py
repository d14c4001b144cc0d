"""Commands and doctor checks of plugins, seen from the command line; and `python -m bitrl`."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

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


HEAVY = """
import numpy
print("loading the library …")
import bitrl

def see():
    yield bitrl.Finding("camera", True, "is plugged in")

@bitrl.hookimpl
def bitrl_doctor_checks():
    yield bitrl.DoctorCheckRecord(name="camera", summary="is it there", target=f"{__name__}:see")
"""


def test_a_plugin_that_imports_heavy_modules_or_prints_when_listed_is_named_with_its_cost(installed) -> None:
    call = installed(heavy=HEAVY)
    words = re.compile(
        r"imports numpy and prints 'loading the library …' whenever it is listed \(\d+\.\d s\): leave only options"
    )
    listed = call("list", "--json")
    [problem] = json.loads(listed.out)["problems"]
    assert problem["package"] == "heavy"
    assert words.match(problem["message"])
    assert "loading the library …" in listed.err
    assert words.search(call("list").out)
    done = call("doctor", "--json")
    [finding] = [each for each in json.loads(done.out)["findings"] if words.match(each["detail"])]
    assert (finding["check"], finding["ok"], done.code) == ("plugin heavy", False, 1)


@pytest.mark.parametrize("args", [["show", "algo", "ppo"], ["list", "loggers"], ["plugin", "check", "heavy"]])
def test_what_a_plugin_prints_never_reaches_a_programs_json(installed, args: list[str]) -> None:
    json.loads(installed(heavy=HEAVY)(*args, "--json").out)


def test_a_plugins_conflict_with_a_built_in_component_fails_no_other_plugins_check(installed) -> None:
    thief = """
import bitrl

@bitrl.hookimpl
def bitrl_backbones():
    yield bitrl.BackboneRecord(name="mlp", summary="Not ours.", target="nowhere:Nothing")

@bitrl.hookimpl
def bitrl_serializers():
    yield bitrl.SerializerRecord(name="vector", summary="Not ours.", target="nowhere:Nothing")
"""
    honest = """
import bitrl
import bitrl.core.interfaces

def words(options, observation):
    return Words()

class Words:
    def __call__(self, observation):
        return str(observation)

    def batch(self, observations):
        return [self(each) for each in observations]

@bitrl.hookimpl
def bitrl_serializers():
    yield bitrl.SerializerRecord(name="words", summary="Words.", target=f"{__name__}:words")
"""
    call = installed(thief=thief, honest=honest)
    assert call("plugin", "check", "honest").code == 0
    failed = call("plugin", "check", "thief")
    assert failed.code == 1
    assert 'backbone "mlp" is also provided by bitrl' in failed.out


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


FAILING = """
import bitrl
import click

@click.command()
def fail():
    raise ValueError("two\\nlines")

@bitrl.hookimpl
def bitrl_commands():
    yield bitrl.CommandRecord(name="fail", summary="Fail.", target=f"{__name__}:fail")
"""


def test_a_command_that_raises_is_said_to_be_its_plugins(installed) -> None:
    done = installed(failing=FAILING)("fail")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(
        'Error: command "fail" of package failing failed: ValueError: two lines: tell its authors'
    )
    assert done.err.count("\n") == 1


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

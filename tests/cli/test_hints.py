"""The first ten minutes on a terminal of 80 columns, with nothing on PATH: every command shown can be pasted."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with a program .venv/bin/bitrl, as `make run` leaves it."""
    folder = tmp_path_factory.mktemp("clone")
    program = folder / ".venv" / "bin" / "bitrl"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nfrom bitrl.cli import main\nmain()\n")
    program.chmod(0o755)
    return folder


def on_terminal(folder, line: str, columns: int = 80) -> tuple[int, str]:
    """Exit code and output of a shell line, run on a terminal where neither bitrl nor pip is on PATH."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        ["/bin/sh", "-c", line], cwd=folder, env=environment, stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    written = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the last writer is gone
            break
        if not piece:
            break
        written += piece
    os.close(parent)
    return process.wait(), written.decode(errors="replace").replace("\r\n", "\n")


@pytest.fixture(scope="module")
def shown(clone):
    """What a first run shows, in a folder whose name needs quotes."""
    options = ["run.eval_episodes=2", "run.num_envs=2", "algo.rollout_steps=64"]
    given = " ".join(f"-o {option}" for option in options)
    line = f".venv/bin/bitrl run --backbone mlp --serializer vector --steps 128 {given} --out 'my-runs and more/a-run'"
    code, text = on_terminal(clone, line)
    assert code == 0, text
    return text


def commands_in(text: str) -> list[str]:
    """The lines, or parts of one behind a colon, that call the program."""
    return re.findall(r"(?:^ *|: )(\S*bitrl (?!model retains).*?)$", text, re.MULTILINE)


def test_every_command_after_a_first_run_can_be_pasted(clone, shown) -> None:
    commands = commands_in(shown.rpartition("next\n")[2])
    assert len(commands) == 2
    assert all(command.startswith(".venv/bin/bitrl ") for command in commands)
    assert any(len(command) > 60 for command in commands)
    for command in commands:
        assert subprocess.run(["/bin/sh", "-n", "-c", command]).returncode == 0
        code, text = on_terminal(clone, f"{command} --help")  # parses everything before it answers
        assert code == 0, text
    code, text = on_terminal(clone, f"{commands[0]} --episodes 1")
    assert code == 0
    assert "mean return" in text


def test_the_two_returns_of_a_run_are_told_apart(shown) -> None:
    assert re.search(r"mean return .*greedy actions", shown)
    assert re.search(r"mean return while training .*sampled actions", shown)
    assert "sampled return" in shown  # while it goes on


def test_an_evaluation_is_readable_at_80_columns_with_numbered_steps(clone, shown) -> None:
    _, text = on_terminal(clone, ".venv/bin/bitrl eval 'my-runs and more/a-run' --episodes 1 --show --quiet")
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    assert re.match(r" *1  \[", lines[0])


def test_hints_of_other_commands_name_the_program_too(clone) -> None:
    for line in (".venv/bin/bitrl export nowhere --out x", ".venv/bin/bitrl run --x", ".venv/bin/bitrl list algos"):
        _, text = on_terminal(clone, line)
        assert ".venv/bin/bitrl" in text, text
        assert not re.search(r"(?<![/\w])bitrl (run|show|list|eval)", text), text


def test_an_interrupted_run_says_how_to_go_on(clone, shown) -> None:
    """`resuming` quotes the directory and names the program."""
    code, text = on_terminal(clone, ".venv/bin/bitrl run --backbone mlp --steps 128 --out 'my-runs and more/a-run'")
    assert code == 2
    assert ".venv/bin/bitrl run --resume 'my-runs and more/a-run'" in text

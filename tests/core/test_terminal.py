"""What reaches a terminal: no control characters, one line of at most 500 characters, words that a shell reads back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.runs.display import on_terminal
from bitrl.core.terminal import as_line, printable, shell_word, tell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ± → 日本語 é\n\tindented", "plain ± → 日本語 é\n\tindented"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("bell \x07 delete \x7f csi \x9b31m", "bell \\x07 delete \\x7f csi \\x9b31m"),
        ("\u202eevil\u2028", "\\u202eevil\\u2028"),
        ("a\udcffb", "a\\xffb"),
        ("\r", "\\r"),
    ],
)
def test_control_characters_are_escaped_and_letters_are_not(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown  # what was escaped once stays as it is


@given(st.text())
def test_nothing_but_line_breaks_and_tabs_can_move_a_cursor(text: str) -> None:
    assert all(sign >= " " and not "\x7f" <= sign <= "\x9f" for sign in printable(text, keep=""))
    assert len(as_line(text)) <= 500


def test_a_long_message_keeps_its_beginning_and_its_remedy() -> None:
    line = as_line("file.gguf: broken: " + "x" * 5000 + ": download it again")
    assert len(line) == 500
    assert line.startswith("file.gguf: broken: ")
    assert line.endswith(": download it again")


@pytest.mark.parametrize("kind", [UsageError, RunFailed])
def test_errors_are_one_printable_line_wherever_their_words_come_from(kind: type[Exception]) -> None:
    assert str(kind("two\nlines\x1b[2J")) == "two lines\\x1b[2J"
    assert len(str(kind("y" * 10_000))) == 500


def read_by_a_shell(word: str) -> str:
    """What /bin/sh, which need not know bash's `$'…'`, makes of a word in an error message, pasted from it."""
    pasted = str(UsageError(f"continue with: printf %s {word}")).removeprefix("continue with: ")
    return os.fsdecode(subprocess.run(["/bin/sh", "-c", pasted], capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "a b",
        "it's",
        "r\udcff",
        "tab\tnew\nx",
        "back\\slash\x1b",
        "日本 'x'\udcfe",
        "100%\udcff",
        '!"$(ls)`ls`\x01',
        "a  b",
        " a ",
        "a\u3000b",
        "a\\\\b",
        "\\n%s",
    ],
)
def test_a_shell_reads_a_quoted_word_back(name: str) -> None:
    word = shell_word(name)
    assert printable(word, keep="") == word
    assert read_by_a_shell(word) == name


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_a_shell_finds_the_directory_of_any_name(name: str) -> None:
    same = name if not name.endswith("\n") else name + "/"  # the shell would drop the newline
    assert read_by_a_shell(shell_word(name)) == (same if not name.startswith("-") else f"./{same}")


def test_a_line_that_nobody_can_read_is_no_error(monkeypatch, capsys) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        tell("hello")
        full.close = lambda: None  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", None)
    tell("hello")
    assert not on_terminal()
    assert capsys.readouterr().out == ""  # where None would send what is printed

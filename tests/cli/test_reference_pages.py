"""The generated pages of the documentation are what the commands and options say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from bitrl.cli import cli
from bitrl.cli.kinds import WITHOUT_OPTIONS
from bitrl.cli.reference import PAGES
from bitrl.core.registry import registry

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    if name == "environments.md":
        pytest.importorskip("textworld")  # which has no wheels for some platforms
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


def test_every_command_and_flag_is_on_the_page() -> None:
    page = PAGES["cli.md"]()

    def check(command: click.Command, path: str) -> None:
        assert f"# {path}\n" in page
        for parameter in command.params:
            shown = isinstance(parameter, click.Option) and not parameter.hidden
            for flag in parameter.opts if shown else ():
                assert flag in page
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                inner = command.get_command(click.Context(command), name)
                assert inner is not None
                check(inner, f"{path} {name}")

    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        check(command, f"bitrl {name}")


def test_writing_the_pages_leaves_the_program_as_it_is() -> None:
    code = "from bitrl.cli.reference import cli_page, cli; cli_page(); cli.main(['-h'], 'bitrl')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: bitrl")


def test_every_built_in_component_is_on_the_page() -> None:
    page = PAGES["options.md"]()
    for kind, entries in registry().entries.items():
        for entry in entries if kind not in WITHOUT_OPTIONS else ():
            assert (f"\n### {entry.record.name}\n" in page) is (entry.package == "bitrl")

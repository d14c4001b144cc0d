"""`bitrl plugin new` and `bitrl plugin check`: starting a plugin, and holding one to its contracts.

A new plugin is the example distribution (examples/bitrl-example, which ships inside bitrl as `bitrl.example`) with its
names changed and the components that were not asked for left out.
"""

from __future__ import annotations

import keyword
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import click

from bitrl.cli.output import Group, claim_stdout, echo, json_option, print_json
from bitrl.core.errors import RunFailed, UsageError
from bitrl.core.terminal import shell_word
from bitrl.core.wording import pip, program

COMPONENTS = {
    "serializer": "bins",
    "backbone": "hashing",
    "algorithm": "reinforce",
    "environment": "corridor",
    "logger": "plaintext",
    "command": "leaderboard",
    "doctor-check": "thermal",
    "energy-meter": "battery",
}
"""Kind → the component of the example that stands for it."""

HOOKS = "src/bitrl_example/__init__.py"


@click.group(cls=Group)
def plugin() -> None:
    """Write and check plugins."""


@plugin.command
@click.argument("name")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([*COMPONENTS, "all"]),
    help="A kind of component to start with; may be repeated.  [default: all]",
)
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default="the current one",
    help="Directory to make NAME in.",
)
@json_option
def new(name: str, kinds: tuple[str, ...], parent: Path, as_json: bool) -> None:
    """Write a new plugin package called NAME: components that work, their tests, and a README.

    Its components are called after it: `bitrl plugin new bitrl-grid` makes the serializer grid-bins, and so on.
    """
    module = module_name(name)
    chosen = list(COMPONENTS) if not kinds or "all" in kinds else [kind for kind in COMPONENTS if kind in kinds]
    directory = parent / name
    if not parent.is_dir():
        raise UsageError(f"{parent}: no such directory: make it first, or choose another with --dir")
    if os.path.lexists(directory):
        raise UsageError(f"{directory}: exists already: choose another name, or another place with --dir")
    write_package(directory, name, module, chosen)
    if as_json:  # nothing of others is imported that could print
        print_json({"directory": str(directory), "package": name, "module": module, "kinds": chosen})
        return
    install = pip("install -e " + shell_word(f"{directory}[test]"))
    echo(
        f"{directory}: a plugin with {', '.join(chosen)}\n"
        f"next:  {install}\n"
        f"       {program()} plugin check {name}\n"
        f"       {pip(shell_word(directory), tool='pytest')}"
    )


@plugin.command
@click.argument("package")
@json_option
def check(package: str, as_json: bool) -> None:
    """Check every component of PACKAGE against the contract of its kind.

    PACKAGE is an installed package with an entry point in the group bitrl, or module:object. Exits with 1
    if a check fails.
    """
    real = claim_stdout() if as_json else sys.stdout  # environments under test may print
    from bitrl.testing import plugin_outcomes

    outcomes = []
    for outcome in plugin_outcomes(package):
        outcomes.append(outcome)
        if not as_json:
            words = "note" if outcome.note else "ok  " if outcome.passed else "FAIL"
            said = outcome.failure or outcome.note
            echo(f"{words}  {outcome.component}: {outcome.check}" + (f": {said}" if said else ""))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if as_json:
        rows = [
            {"component": o.component, "check": o.check, "passed": o.passed, "failure": o.failure, "note": o.note}
            for o in outcomes
        ]
        print_json({"package": package, "passed": not failed, "checks": rows}, real)
    else:
        echo(f"\n{len(outcomes)} checks, {len(failed)} failed")
    if failed:
        sys.exit(1)


def module_name(name: str) -> str:
    """The import name of a distribution called `name`.

    Raises:
        UsageError: `name` cannot be a distribution's name, or its import name would not do.
    """
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise UsageError(
            f'"{name}" cannot be a package\'s name: letters, digits and . _ - between them, for example bitrl-grid'
        )
    module = re.sub(r"[-_.]+", "_", name).lower()
    if not module.isidentifier() or keyword.iskeyword(module):
        raise UsageError(
            f'"{name}" would be imported as {module}, which is no Python name: begin it with a letter, as bitrl-{name}'
        )
    if module == "bitrl" or module in sys.stdlib_module_names:
        raise UsageError(f'"{name}" would be imported as {module}, which is taken: call it bitrl-grid, for example')
    return module


def prefix(name: str) -> str:
    """What the names of a package's components begin with: bitrl-grid → grid."""
    return re.sub(r"[-_.]+", "-", name).lower().removeprefix("bitrl-")


def write_package(directory: Path, name: str, module: str, kinds: list[str]) -> None:
    """Write the package into a temporary directory beside `directory` and rename that: it is there whole or not at all.

    Raises:
        RunFailed: it cannot be written; nothing is left behind.
    """
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        for path, text in package_files(name, module, kinds):
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(text, encoding="utf-8")
        temporary.rename(directory)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunFailed(f"{directory}: cannot be written: {error.strerror}: choose another place with --dir") from None


def package_files(name: str, module: str, kinds: list[str]) -> Iterator[tuple[str, str]]:
    """Path and text of each file of a new package."""
    left_out = [component for kind, component in COMPONENTS.items() if kind not in kinds]
    names = {"bitrl_example": module, "bitrl-example": name, "example-": f"{prefix(name)}-"}

    def renamed(text: str) -> str:
        return re.sub("|".join(names), lambda match: names[match[0]], text)

    paths = ["pyproject.toml", "README.md", HOOKS, "tests/test_contract.py"]
    for kind in kinds:
        paths += [f"src/bitrl_example/{COMPONENTS[kind]}.py", f"tests/test_{COMPONENTS[kind]}.py"]
    for path in paths:
        text = files("bitrl.example").joinpath(path).read_text(encoding="utf-8")
        if path == HOOKS:
            text = _without(text, left_out, "\n\n\n")  # a class or function to a block
        elif path == "README.md":
            text = _without(text, left_out, "\n")
        yield renamed(path), renamed(text)


def _without(text: str, components: list[str], separator: str) -> str:
    """`text` without the blocks that speak of one of `components`."""
    blocks = text.rstrip("\n").split(separator)
    kept = [block for block in blocks if not any(component in block.lower() for component in components)]
    return separator.join(kept) + "\n"

"""docs/plugins.md cannot drift: its signatures are those of the hooks, and its code runs."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import attrs
import pytest

import bitrl
import bitrl.learning
from bitrl.core import events, hookspecs
from bitrl.core.records import AlgorithmRecord
from bitrl.core.registry import HOOKS, Registry
from bitrl.testing import check_algorithm

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOK_NAMES = sorted(name for name in dir(hookspecs) if name.startswith("bitrl_"))

# An optional line with a file's name, the language, and the code.
BLOCKS = re.findall(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {path: code for path, _, code in BLOCKS if path}
SCRIPTS = [code for path, language, code in BLOCKS if language == "python" and not path]
COMMANDS = [line for _, language, code in BLOCKS if language == "sh" for line in code.splitlines() if line]


def signature(hook: str) -> str:
    return hook + str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_every_hook_is_documented_with_its_signature(hook: str):
    assert f"\n### `{signature(hook)}`\n" in PAGE


def test_no_other_hook_is_documented():
    assert sorted(re.findall(r"^### `(bitrl_\w+)", PAGE, re.MULTILINE)) == HOOK_NAMES


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_the_example_in_a_hooks_docstring_is_a_plugin_that_works(hook: str):
    _, _, example = inspect.cleandoc(getattr(hookspecs, hook).__doc__).partition("Example:\n")
    module = types.ModuleType("my_plugin")
    exec(compile(textwrap.dedent(example), f"<docstring of {hook}>", "exec"), module.__dict__)
    registry = Registry()
    registry.add(module, "my-plugin")
    assert registry.problems == []
    kinds = {name: kind for kind, (name, _) in HOOKS.items()}
    if hook in kinds:
        (entry,) = registry.entries[kinds[hook]]
        assert type(entry.record) is HOOKS[kinds[hook]][1]
        assert entry.record.summary
    else:
        assert len(getattr(registry.manager.hook, hook).get_hookimpls()) == 1


def test_every_event_is_documented_with_its_fields():
    known = [each for each in vars(events).values() if isinstance(each, type) and issubclass(each, events.Event)]
    rows = {
        f"| `{each.__name__}` | {', '.join(f'`{field.name}`' for field in attrs.fields(each))} | "
        f"{' '.join(inspect.cleandoc(each.__doc__ or '').split())} |"
        for each in known
        if each is not events.Event
    }
    section = PAGE.partition("### `bitrl_event(")[2].partition("\n## ")[0]
    assert {line for line in section.splitlines() if line.startswith("| `")} == rows


def test_everything_in_bitrl_learning_is_documented():
    section = PAGE.partition("public as `bitrl.learning`")[2].partition("\n```python")[0]
    assert set(re.findall(r"`(\w+)(?=[`(])", section)) >= {*bitrl.learning.__all__}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a process with the plugin of the page installed."""
    package = tmp_path_factory.mktemp("bitrl-hex")
    for path, code in FILES.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(code)
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", site, package], check=True)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PACKAGE": str(package)}


def test_the_page_has_the_files_of_a_whole_plugin():
    assert list(FILES) == [
        "pyproject.toml",
        "src/bitrl_hex/__init__.py",
        "src/bitrl_hex/hex.py",
        "tests/test_contract.py",
    ]
    assert len(SCRIPTS) >= 7


def test_the_tests_of_the_plugin_on_the_page_pass(environment: dict[str, str]):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    alone = {**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins of pytest that it does not use
    done = subprocess.run(command, cwd=environment["PACKAGE"], env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_code_on_the_page_runs(environment: dict[str, str], tmp_path: Path):
    (tmp_path / "page.py").write_text("\n".join(SCRIPTS))
    done = subprocess.run(
        [sys.executable, "-c", "import page"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_algorithm_that_learns_by_heads_and_networks_keeps_the_contract(tmp_path: Path):
    [code] = [code for code in SCRIPTS if "class Likelier" in code]
    page: dict[str, object] = {"bitrl": bitrl}
    exec(compile(code, "docs/plugins.md", "exec"), page)
    module = types.ModuleType("likelier_of_the_page")
    module.__dict__.update(page)
    sys.modules[module.__name__] = module
    try:
        target = f"{module.__name__}:Likelier"
        check_algorithm(AlgorithmRecord(name="likelier", summary="of the page", target=target, bootstraps=False))
    finally:
        del sys.modules[module.__name__]


BITRL_COMMANDS = [line for line in COMMANDS if line.startswith("bitrl ")]


@pytest.mark.parametrize("line", BITRL_COMMANDS)
def test_the_commands_on_the_page_work(line: str, environment: dict[str, str], tmp_path: Path):
    words = shlex.split(line)[1:]
    if words[0] == "run":  # as it stands on the page, but over in a moment
        quick = ["run.num_envs=2", "run.eval_episodes=1", "algo.rollout_steps=32"]
        words += ["--steps", "32", *(word for option in quick for word in ("-o", option))]
    code = "from bitrl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_other_commands_on_the_page_are_known_ones():
    assert [line for line in COMMANDS if line not in BITRL_COMMANDS] == ["pip install -e ."]
    assert len(BITRL_COMMANDS) == 5


def test_every_function_of_the_kit_is_documented():
    import bitrl.testing

    functions = {name for name in bitrl.testing.__all__ if name.startswith(("check_", "make_"))}
    assert set(re.findall(r"^\| `(\w+)\(", PAGE.partition("## Testing a component")[2], re.MULTILINE)) == functions
    for name in functions:
        documented = re.search(rf"`{name}\(([^)]*)\)`", PAGE.partition("## Testing a component")[2])
        assert documented is not None
        names = [parameter.partition("=")[0].strip("* ") for parameter in documented[1].split(",")]
        assert set(names) <= set(inspect.signature(getattr(bitrl.testing, name)).parameters)

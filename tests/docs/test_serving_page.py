"""docs/serving.md: its commands are what a server answers, and its table of errors is the server's."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from served import Served, serving

from bitrl.cli.serve import serve
from bitrl.core.serving.connections import PIPELINED
from bitrl.core.serving.openapi import ERRORS
from bitrl.core.serving.service_limits import ServiceLimits

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CURL = shutil.which("curl")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bitrl.core.runs.export import export
    from bitrl.core.runs.train import run

    folder = tmp_path_factory.mktemp("page")
    options = {"run.eval_episodes": 0, "run.num_envs": 2, "algo.rollout_steps": 16, "backbone.layers": 1}
    run("CartPole-v1", steps=32, out=folder / "run", options=options)
    export(folder / "run", folder / "agent.safetensors")
    return folder / "agent.safetensors"


@pytest.fixture(scope="module")
def served(agent: Path) -> Iterator[Served]:
    with serving(agent, log=agent.with_name("log")) as server:
        yield server


def keys(value: Any) -> Any:
    """The keys of an answer, and of what is in it."""
    return {name: keys(each) for name, each in value.items()} if isinstance(value, dict) else None


@pytest.mark.skipif(CURL is None, reason="needs curl")
def test_the_commands_are_answered_as_the_page_says(served: Served) -> None:
    answers, episode, asked = [], "ID", 0
    for (language, code), (following, shown) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        lines = [line for line in code.splitlines() if language == "sh" and line.startswith("curl ")]
        if "Authorization" in code:
            continue
        answers = []
        for line in lines:
            command = shlex.split(line.replace(":8000", f":{served.port}").replace("ID", episode))
            done = subprocess.run([*command, "--silent", "--fail-with-body"], capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stdout)
            answers += [json.loads(done.stdout)] if done.stdout.startswith("{") else []
            episode = answers[-1].get("episode", episode) if answers else episode
            asked += 1
        if answers and following == "json":
            expected = [json.loads(line) for line in shown.splitlines()]
            assert [keys(each) for each in answers] == [keys(each) for each in expected]
        if "/metrics" in code and lines:
            names = {re.match(r"[a-z_]+(\{[a-z]+)?", line)[0] for line in shown.splitlines()}
            assert all(f"\n{name}" in done.stdout for name in names)
    assert asked == 7


def test_the_python_runs(served: Served) -> None:
    [code] = [code for language, code in BLOCKS if language == "python"]
    names: dict[str, Any] = {}
    exec(code.replace("8000", str(served.port)), names)
    assert names["action"] in (0, 1)


def test_the_table_of_errors_is_that_of_the_document() -> None:
    _, _, rest = PAGE.partition("## Limits and errors")
    rows = re.findall(r"^\| ([\d, ]+) \|", rest, re.MULTILINE)
    listed = {int(status) for row in rows for status in row.split(", ")}
    assert listed == ERRORS.keys() - {500}


def test_the_numbers_are_the_defaults() -> None:
    defaults = {param.name: param.default for param in serve.params}
    flags = dict(re.findall(r"`--([a-z-]+)`(?: seconds)? \(([\d,]+)(?:MB| seconds)?\)", PAGE))
    assert flags == {"max-body": "1", "rate": "10,000", "queue": "4,096", "timeout": "30", "episodes": "10,000"} | {
        "episode-idle": "600"
    }
    for flag, number in flags.items():
        given = defaults[flag.replace("-", "_")]
        assert f"{number}MB" == given if flag == "max-body" else float(number.replace(",", "")) == given
    limits = ServiceLimits()
    for name in ("rate", "queue", "timeout", "episodes", "episode_idle"):
        assert defaults[name] == getattr(limits, name)
    assert limits.body == 2**20
    assert f"within {limits.receiving:g} seconds" in PAGE
    assert f"connections ({limits.connections})" in PAGE
    assert f"more than {PIPELINED} pipelined requests" in PAGE
    assert attrs.fields_dict(ServiceLimits)["idle"].default == 60

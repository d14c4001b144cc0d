"""Agents that are trained for a moment, and servers of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, serving

from bitrl.core.runs.export import export
from bitrl.core.runs.train import run


def trained(folder: Path, **settings: object) -> Path:
    """The file of an agent of CartPole-v1."""
    options = {"run.eval_episodes": 0, "run.num_envs": 4, "algo.rollout_steps": 32}
    options |= {name.replace("__", "."): value for name, value in settings.items()}
    run("CartPole-v1", backbone="mlp", serializer="vector", steps=128, out=folder / "run", options=options)
    export(folder / "run", folder / "agent.safetensors")
    return folder / "agent.safetensors"


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent's file."""
    return trained(tmp_path_factory.mktemp("agent"))


@pytest.fixture(scope="session")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an agent that reads the last three states."""
    return trained(tmp_path_factory.mktemp("remembering"), run__history=3)


@pytest.fixture(scope="session")
def opposite(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an agent that does the opposite of `agent`: the signs of its outputs are turned around."""
    from bitrl.core.acting import checkpoints
    from bitrl.core.files import write_atomically

    found = checkpoints.read(agent)
    last = max(name for name in found.arrays if name.startswith("policy.network.") and name.endswith(".weight"))
    turned = {name: -found.arrays[name] for name in (last, last.replace("weight", "bias"))}
    file = tmp_path_factory.mktemp("opposite") / "agent.safetensors"
    write_atomically(file, checkpoints.as_bytes(checkpoints.Checkpoint({**found.arrays, **turned}, found.meta)))
    return file


@pytest.fixture(scope="module")
def served(agent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of `agent`, read from a copy of its file."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(agent, folder / "agent.safetensors")
    with serving(folder / "agent.safetensors", log=folder / "log") as server:
        yield server

"""Runs that bitrl made while PPO learned in torch (learned_in_torch/) are evaluated, exported, analysed and resumed."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from learning_backbones import Normed, adapting, ppo
from torch import nn

import bitrl
from bitrl.core.acting import checkpoints
from bitrl.core.acting.checkpoints import Checkpoint
from bitrl.core.runs.trained import trained
from bitrl.plugins.algos.engine_learner import EngineLearner, EngineNetwork
from bitrl.plugins.algos.parameter_groups import ParameterGroups
from bitrl.testing import make_task
from bitrl.testing.small_environments import CommandsEnvironment

RUNS = Path(__file__).parent / "learned_in_torch"
RETURNS = {"cartpole": 95.5, "pendulum": -116.04042529348243}
"""What the evaluation of each run found at the time."""

NOTICE = "this run learned in torch so far: its exploration noise goes on from a new generator"


@pytest.fixture(params=RETURNS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(RUNS / request.param, tmp_path / request.param))


def test_it_acts_as_it_did(run: Path) -> None:
    assert bitrl.evaluate(run)["mean_return"] == pytest.approx(RETURNS[run.name], rel=1e-6)


def test_its_agent_acts_as_the_same_byte_for_byte(run: Path, tmp_path: Path) -> None:
    """What to learn on from is new in it."""
    bitrl.export(run, tmp_path / "agent")
    found = checkpoints.read(tmp_path / "agent")
    arrays = {name: array for name, array in found.arrays.items() if not name.startswith("learner.")}
    acting = Checkpoint(arrays, {name: value for name, value in found.meta.items() if name != "learner"})
    assert checkpoints.as_bytes(acting) == (run / "agent.safetensors").read_bytes()


def test_what_is_analysed_are_the_networks_that_torch_had(run: Path) -> None:
    [path] = checkpoints.paths(run / "checkpoints")
    arrays = checkpoints.read(path).arrays
    algorithm: Any = trained(run, lambda event: None)[2]
    heads, k = algorithm.actor_critic(), algorithm.task.collector.states.vectors.shape[1]
    features = np.random.default_rng(0).normal(size=(7, k)).astype(np.float32)
    for name, found in (("policy", heads.policy.network), ("value", heads.value)):
        flat, at = torch.from_numpy(arrays[f"algorithm.{name}"]), 0
        network = nn.Sequential(nn.Linear(k, 4), nn.Tanh(), nn.Linear(4, len(found.layers[-1][1])))
        for each in network.parameters():
            each.data, at = flat[at : at + each.numel()].view_as(each), at + each.numel()
        wanted = network(torch.from_numpy(features)).detach()
        np.testing.assert_allclose(found(features), wanted, rtol=1e-5, atol=1e-6)
        if run.name == "pendulum" and name == "policy":
            np.testing.assert_array_equal(heads.log_std, flat[at:])


def test_it_learns_on_from_the_same_weights_and_says_that_noise_is_new(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = checkpoints.paths(run / "checkpoints")
    step = checkpoints.read(path).meta["step"]
    again = Path(shutil.copytree(run, tmp_path / "again"))
    bitrl.resume(run, steps=step + 128)
    assert capsys.readouterr().err.count(NOTICE) == 1
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(64, step + 129, 64)]
    # It is as sure of its actions as it was, and its critic as good: neither began anew.
    assert rows[-2]["entropy"] == pytest.approx(rows[-3]["entropy"], abs=0.05)

    bitrl.resume(again, steps=step + 64)  # exactly resumable from here on, and told once
    bitrl.resume(again, steps=step + 128)
    assert capsys.readouterr().err.count(NOTICE) == 1
    assert (again / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def torch_layout(network: EngineNetwork, flat: np.ndarray) -> list[np.ndarray]:
    """A network's numbers, or moments, as torch had them: each layer's weights [outputs, inputs], its biases."""
    pieces, at = [], 0
    for inputs, outputs in pairwise(network.widths):
        weights = torch.from_numpy(flat[at : at + inputs * outputs]).view(inputs, outputs)
        pieces += [weights.t().reshape(-1).numpy(), flat[at + inputs * outputs :][:outputs]]
        at += (inputs + 1) * outputs
    return pieces


def commands() -> Any:
    from bitrl.core.options import parse
    from bitrl.plugins.algos import PPOOptions
    from bitrl.plugins.algos.ppo import PPO

    return PPO(parse(PPOOptions, {"rollout_steps": 64}, "algo"), make_task(CommandsEnvironment()))


BOX = gymnasium.spaces.Box(-1, 1, (2,))
KINDS = {
    "commands": commands,
    "a module beneath": lambda: ppo(BOX, Normed(), trainable=True),
    "adapters": lambda: adapting(BOX),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_a_group_is_converted(kind: str) -> None:
    """Networks and the keys' network are transposed; log standard deviations, modules and adapters are as they were."""
    algorithm, other = KINDS[kind](), KINDS[kind]()
    algorithm.update()
    state = algorithm.state()
    old = {"generator": np.zeros(5056, np.uint8)} | {key: state[key] for key in state if key != "generator"}
    for suffix in ("", ".exp_avg", ".exp_avg_sq"):
        beneath = 0 if algorithm.policy.beneath is None else algorithm.policy.beneath.size
        flat, size = state[f"policy{suffix}"], algorithm.policy.size
        own, rest = flat[beneath:][:size], flat[beneath + size :]
        keys = [rest] if kind != "commands" else torch_layout(algorithm.head.keys, rest)
        old[f"policy{suffix}"] = np.concatenate([flat[:beneath], *torch_layout(algorithm.policy, own), *keys])
        beneath = 0 if algorithm.value.beneath is None else algorithm.value.beneath.size
        flat = state[f"value{suffix}"]
        old[f"value{suffix}"] = np.concatenate([flat[:beneath], *torch_layout(algorithm.value, flat[beneath:])])
    for group in algorithm.groups.parameters:
        old[f"{group}.step"] = old[f"{group}.step"].astype(np.float32)
    other.load_state(old)
    for name, array in other.state().items():
        if name != "generator":
            np.testing.assert_array_equal(array, state[name], err_msg=name)


def groups() -> ParameterGroups:
    return ParameterGroups(EngineLearner(), {"policy": [EngineNetwork(EngineLearner(), (3, 2), 1)]})


def test_a_layers_weights_are_those_of_nn_linear() -> None:
    linear, learned = nn.Linear(3, 2), groups()
    flat = torch.cat([linear.weight.detach().ravel(), linear.bias.detach()]).numpy()
    learned.load_state({"policy": flat}, torch_layout=True)
    weights, biases = learned.parameters["policy"][:6].reshape(3, 2), learned.parameters["policy"][6:]
    np.testing.assert_array_equal(weights, linear.weight.detach().numpy().T)
    np.testing.assert_array_equal(biases, linear.bias.detach().numpy())
    assert learned.adam.steps == [0], "before torch's first step its moments were not saved"


FLOATS = np.zeros(8, np.float32)
WHOLE = {"policy": FLOATS, "policy.step": np.array(2), "policy.exp_avg": FLOATS, "policy.exp_avg_sq": FLOATS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": FLOATS[:7]}, r"policy: expected float32 \[8\], got float32 \[7\]"),
        ({"policy": FLOATS.astype(np.float64)}, r"policy: expected float32 \[8\], got float64 \[8\]"),
        ({"policy": FLOATS * np.float32(np.nan)}, "policy: holds numbers that are NaN or infinite"),
        ({"policy.exp_avg": FLOATS[:2]}, r"policy.exp_avg: expected float32 \[8\], got float32 \[2\]"),
        (
            {"policy.exp_avg": None},
            "policy: expected its step, exp_avg, exp_avg_sq, got step, exp_avg_sq",
        ),
        ({"policy.step": np.array(-1)}, "policy.step: expected a number of steps"),
        ({"policy.step": np.array(1.5)}, "policy.step: expected a number of steps"),
        ({"policy.step": np.array(np.nan)}, "policy.step: expected a number of steps"),
        ({"policy.step": np.array("x")}, "policy.step: expected a number of steps"),
        ({"policy.step": np.zeros(2, int)}, "policy.step: expected a number of steps"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: dict[str, np.ndarray | None], message: str) -> None:
    state = {name: array for name, array in {**WHOLE, **change}.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        groups().load_state(state)
    groups().load_state(WHOLE)

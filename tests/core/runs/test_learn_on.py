"""Learning on from an exported agent: it begins with what its run had, in environments of the new run."""

import gc
import json
import os
import tomllib
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

import bitrl
from bitrl.core.acting import checkpoints
from bitrl.core.acting.checkpoints import Checkpoint, with_prefix
from bitrl.core.events import Updated
from bitrl.core.runs.learn_on import go_on_from
from bitrl.core.runs.train import resume

NORMALISED = "algo.normalise_rewards"
QUICK = {"algo.rollout_steps": 64, "run.num_envs": 4, "run.eval_episodes": 1, "algo.anneal": False}


class HeavyCartPole(CartPoleEnv):
    """Another environment, whose observations are those of CartPole."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gravity = 15.0


gymnasium.register("SimulatedCartPole-v0", CartPoleEnv, max_episode_steps=200)
gymnasium.register("HeavyCartPole-v0", HeavyCartPole, max_episode_steps=200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of 128 steps, and its agent with the optimizer and without."""
    folder = tmp_path_factory.mktemp("trained")
    bitrl.run("SimulatedCartPole-v0", backbone="mlp", steps=128, out=folder / "run", options=QUICK)
    bitrl.export(folder / "run", folder / "whole.safetensors", with_optimizer=True)
    bitrl.export(folder / "run", folder / "agent.safetensors")
    return folder


def learner_at(run: Path, step: int) -> dict[str, np.ndarray]:
    """What a run's checkpoint at a step has of its algorithm."""
    return with_prefix(checkpoints.read(run / "checkpoints" / f"{step:012d}.safetensors").arrays, "algorithm.")


@pytest.mark.parametrize(("file", "moments"), [("whole", True), ("agent", False)])
def test_it_begins_with_what_the_run_ended_with(trained, tmp_path, file, moments):
    bitrl.learn_on(trained / f"{file}.safetensors", steps=192, seed=7, out=tmp_path / "on")
    before, begun = learner_at(trained / "run", 128), learner_at(tmp_path / "on", 128)
    kept = [name for name in before if moments or not name.endswith((".step", ".exp_avg", ".exp_avg_sq"))]
    assert {"policy", "value"} < set(kept)
    for name in kept:
        np.testing.assert_array_equal(begun[name], before[name], err_msg=name)
    if not moments:
        assert len(kept) < len(before)
        assert all(not begun[name].any() for name in set(before) & set(begun) - set(kept))
    assert not np.array_equal(learner_at(tmp_path / "on", 192)["policy"], before["policy"])


def test_the_new_run_is_one_of_its_own_that_says_where_it_came_from(trained, tmp_path):
    summary = bitrl.learn_on(trained / "agent.safetensors", steps=192, seed=7, out=tmp_path / "on")
    assert (summary["steps"], summary["seed"], summary["env"]) == (192, 7, "SimulatedCartPole-v0")
    rows = [json.loads(row) for row in (tmp_path / "on" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [192]
    # Both are rounded: the seconds to thousandths, of which there may be few.
    assert 64 / summary["steps_per_second"] == pytest.approx(summary["train_seconds"], abs=6e-4)
    assert 'file = "agent.safetensors"' in (tmp_path / "on" / "config.toml").read_text()


def test_an_agent_whose_name_is_not_utf_8(trained, tmp_path):
    file = tmp_path / os.fsdecode(b"agent\xff.safetensors")
    file.write_bytes((trained / "agent.safetensors").read_bytes())
    bitrl.learn_on(file, steps=192, out=tmp_path / "on")
    assert tomllib.loads((tmp_path / "on/config.toml").read_text())["provenance"]["agent"]["file"].startswith(
        "agent\\xff"
    )


def test_it_can_be_stopped_and_resumed_and_exported_again(trained, tmp_path):
    at_once, in_two = tmp_path / "at-once", tmp_path / "in-two"
    bitrl.learn_on(trained / "whole.safetensors", steps=320, seed=7, out=at_once)
    bitrl.learn_on(trained / "whole.safetensors", steps=192, seed=7, out=in_two)
    resume(in_two, steps=320)
    assert (in_two / "metrics.jsonl").read_bytes() == (at_once / "metrics.jsonl").read_bytes()
    bitrl.export(in_two, tmp_path / "again.safetensors")
    assert bitrl.load_agent(tmp_path / "again.safetensors").facts["step"] == 320


def test_no_copy_of_what_was_learned_is_held_while_it_learns_on(trained, tmp_path):
    """A model of the 2B shape has heads of 16 MB: a limit of 620 MB was exceeded by those of the last checkpoint."""
    held = []

    def count(event):
        if isinstance(event, Updated):
            gc.collect()
            held.append(sum(isinstance(each, Checkpoint) for each in gc.get_objects()))

    started = tmp_path / "started"
    options = {**QUICK, "run.checkpoint_every": 1}
    bitrl.run("SimulatedCartPole-v0", backbone="mlp", steps=192, out=started, options=options, listeners=(count,))
    resume(started, (count,), steps=320)
    bitrl.learn_on(trained / "whole.safetensors", steps=256, out=tmp_path / "on", listeners=(count,))
    assert held == [0] * 7


def test_stopped_before_its_first_update_it_begins_with_the_agent(trained, tmp_path):
    run = tmp_path / "on"
    bitrl.learn_on(trained / "whole.safetensors", steps=192, seed=7, out=run)
    expected = (run / "metrics.jsonl").read_bytes()
    for name in ("summary.json", "metrics.jsonl", "timings.jsonl", f"checkpoints/{192:012d}.safetensors"):
        (run / name).unlink()
    resume(run)
    assert (run / "metrics.jsonl").read_bytes() == expected


def test_another_environment_with_the_same_observations(trained, tmp_path):
    options = {"algo.learning_rate": 1e-4}
    file = trained / "agent.safetensors"
    summary = bitrl.learn_on(file, env="HeavyCartPole-v0", steps=192, out=tmp_path / "on", options=options)
    assert (summary["env"], summary["steps"]) == ("HeavyCartPole-v0", 192)


def test_rewards_keep_their_scale_in_another_number_of_environments(tmp_path):
    """The running episodes that its discounted sums are of stay behind."""
    bitrl.run("CartPole-v1", backbone="mlp", steps=128, out=tmp_path / "run", options=QUICK | {NORMALISED: True})
    bitrl.export(tmp_path / "run", tmp_path / "agent")
    bitrl.learn_on(tmp_path / "agent", steps=192, out=tmp_path / "on", options={"run.num_envs": 1})
    before, begun = learner_at(tmp_path / "run", 128), learner_at(tmp_path / "on", 128)
    assert before["rewards.returns"].any()
    np.testing.assert_array_equal(begun["rewards.moments"], before["rewards.moments"])
    np.testing.assert_array_equal(begun["rewards.returns"], [0.0])


def test_without_a_checkpoint_of_the_agent_it_does_not_begin_without_it(trained, tmp_path):
    run = tmp_path / "on"
    bitrl.learn_on(trained / "whole.safetensors", steps=192, out=run)
    for path in (run / "summary.json", *(run / "checkpoints").iterdir()):
        path.unlink()
    with pytest.raises(bitrl.UsageError, match="has no checkpoint of the agent that it learns on from"):
        resume(run)
    bitrl.learn_on(trained / "whole.safetensors", steps=192, out=run, force=True)


def test_the_same_value_as_it_is_typed_is_no_change(trained, tmp_path):
    typed = {"run": {"history": "1", "algo": "ppo", "steps": "192"}, "backbone": {"hidden": "64,64"}}
    text = {part: frozenset(section) for part, section in typed.items()}
    summary = go_on_from(trained / "agent.safetensors", typed, text, tmp_path / "on", False, False)
    assert summary["steps"] == 192


def test_a_codebook_comes_with_the_agent(tmp_path):
    options = QUICK | {"backbone.layers": 1, "serializer.states": 200}
    bitrl.run("CartPole-v1", serializer="codes", steps=64, out=tmp_path / "run", options=options)
    bitrl.export(tmp_path / "run", tmp_path / "agent.safetensors")
    bitrl.learn_on(tmp_path / "agent.safetensors", steps=128, seed=3, out=tmp_path / "on")
    found = [
        with_prefix(checkpoints.read(folder / "checkpoints" / f"{64:012d}.safetensors").arrays, "serializer.")
        for folder in (tmp_path / "run", tmp_path / "on")
    ]
    assert found[0]
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "has already learned for 128 steps: ask for more with "),
        ({"steps": 192, "with_optimizer": True}, "was exported without its optimizer: export its run again with"),
        ({"steps": 192, "env": "Acrobot-v1"}, "and those of Acrobot-v1 differ in fields"),
        (
            {"steps": 192, "options": {"run.backbone": "bitnet"}},
            'learned with run.backbone "mlp", and cannot go on with',
        ),
        ({"steps": 192, "options": {"run.history": 3}}, "learned with run.history 1, and cannot go on with 3"),
        ({"steps": 192, "options": {"backbone.hidden": [8]}}, "learned with backbone.hidden"),
        ({"steps": 192, "options": {"algo.hidden": [8]}}, "its weights do not fit this configuration"),
    ],
)
def test_what_cannot_go_on_is_refused_in_a_line(trained, tmp_path, arguments, message):
    with pytest.raises(bitrl.UsageError) as refused:
        bitrl.learn_on(trained / "agent.safetensors", out=tmp_path / "on", **arguments)
    assert message in str(refused.value)
    assert len(str(refused.value)) <= 500
    assert not (tmp_path / "on").exists()


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (None, "holds nothing to learn on from"),
        ("all of it", "is damaged"),
        ({"config": {"run": 1}, "features": {}, "optimizer": False}, "is damaged"),
        ({"config": {"run": {}}, "features": {}}, "is damaged"),
        ({"config": {}, "features": {}, "optimizer": False}, "is damaged"),
        ({"config": {"run": {}}, "features": {"features": [1]}, "optimizer": False}, "is damaged"),
    ],
)
def test_agents_of_elsewhere(trained, tmp_path, learner, message):
    file = checkpoints.read(trained / "agent.safetensors")
    meta = {name: value for name, value in file.meta.items() if name != "learner"}
    changed = Checkpoint(file.arrays, meta if learner is None else meta | {"learner": learner})
    (tmp_path / "other.safetensors").write_bytes(checkpoints.as_bytes(changed))
    with pytest.raises(bitrl.UsageError, match=message):
        bitrl.learn_on(tmp_path / "other.safetensors", steps=192, out=tmp_path / "on")
    assert not (tmp_path / "on").exists()

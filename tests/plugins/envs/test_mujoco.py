"""MuJoCo's tasks: their records, what a run keeps of them, and that they say nothing that helps nobody."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest

import bitrl
from bitrl.core.config import find_environment, resolve
from bitrl.core.events import CheckpointSaved
from bitrl.plugins.envs.gymnasium import GymnasiumEnvironment
from bitrl.plugins.envs.mujoco import is_mujoco
from bitrl.testing import check_environment

pytest.importorskip("mujoco", reason="needs the extra bitrl[mujoco]")

TASKS = [f"{task}-{version}" for task in ("HalfCheetah", "Hopper", "Walker2d") for version in ("v4", "v5")]
SMALL = {"algo.rollout_steps": 256, "run.num_envs": 4, "run.eval_episodes": 2, "run.checkpoint_every": 1}
NO_EVALUATION = {**SMALL, "run.eval_episodes": 0}


@pytest.mark.parametrize("backbone", ["bitnet", "mlp"])
@pytest.mark.parametrize("env", TASKS)
def test_each_has_settings_of_its_own_that_the_user_wins_over(env, backbone):
    config = resolve({"run": {"env": env, "backbone": backbone}})
    assert find_environment(env).name == env
    assert config.run.steps == 1_000_000
    assert config.algo_options.normalise_rewards
    assert config.algo_options.running_standardisation
    assert config.algo_options.ent_coef == 0
    own = resolve({"run": {"env": env, "steps": 5}, "algo": {"normalise_rewards": False}})
    assert (own.run.steps, own.algo_options.normalise_rewards, own.algo_options.epochs) == (5, False, 10)


@pytest.mark.parametrize("env", TASKS)
def test_they_conform(env):
    check_environment(env)


@pytest.mark.parametrize("env", TASKS)
def test_they_are_made_and_stepped_in_silence(env, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    made = GymnasiumEnvironment(None, env).make()
    made.reset(seed=0)
    made.step(made.action_space.sample())
    made.close()
    assert tuple(capfd.readouterr()) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_id_and_mujocos_version_are_kept_with_the_result(tmp_path):
    summary = bitrl.run("HalfCheetah-v4", backbone="mlp", steps=256, out=tmp_path / "run", options=NO_EVALUATION)
    kept = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert summary["env"] == kept["run"]["env"] == "HalfCheetah-v4"
    assert kept["provenance"]["versions"]["mujoco"] == version("mujoco")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("show", "env", "Hopper-v5"), "(MUJOCO_GL is paper: is the library that it names installed?)"),
        (("eval", "run", "--video", "a.gif"), "(MUJOCO_GL is paper: is the library that it names installed?)"),
    ],
)
def test_graphics_that_are_not_there_are_named(tmp_path, args, error):
    bitrl.run("Hopper-v5", backbone="mlp", steps=256, out=tmp_path / "run", options=NO_EVALUATION)
    command = [sys.executable, "-c", "from bitrl.cli import main; main()", *args]
    environment = {**os.environ, "MUJOCO_GL": "paper"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert error in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_task_that_cannot_be_drawn_says_how_it_could(tmp_path, monkeypatch):
    bitrl.run("Hopper-v5", backbone="mlp", steps=256, out=tmp_path / "run", options=NO_EVALUATION)

    def render(self):
        raise RuntimeError("no EGL here")

    monkeypatch.setattr("gymnasium.envs.mujoco.mujoco_env.MujocoEnv.render", render)
    with pytest.raises(bitrl.RunFailed, match=r"no EGL here \(without a display MuJoCo renders with EGL or OSMesa"):
        bitrl.evaluate(tmp_path / "run", episodes=1, video=tmp_path / "a.gif")


class Killed(Exception):
    """In place of a signal."""


def test_a_stopped_run_ends_with_the_numbers_of_one_that_was_not(tmp_path):
    """Rewards and features are scaled by what was met so far; Hopper's episodes end in the middle of it."""
    arguments = {"env": "Hopper-v5", "backbone": "mlp", "steps": 1024, "options": SMALL}
    straight = bitrl.run(**arguments, out=tmp_path / "straight")

    def kill(event):
        if isinstance(event, CheckpointSaved) and event.step == 512:
            raise Killed

    with pytest.raises(Killed):
        bitrl.run(**arguments, out=tmp_path / "stopped", listeners=(kill,))
    again = bitrl.resume(tmp_path / "stopped")
    assert again["eval"] == straight["eval"]
    for name in ("metrics.jsonl", "checkpoints/000000001024.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_returns_stay_in_the_environments_own_rewards(tmp_path):
    """The first rollout is by the same policy whether its rewards are scaled or not."""
    returns, losses = [], []
    for scaled in (False, True):
        out = tmp_path / str(scaled)
        options = {**NO_EVALUATION, "algo.normalise_rewards": scaled}
        seen = []
        bitrl.run("Hopper-v5", backbone="mlp", steps=256, out=out, options=options, listeners=(seen.append,))
        [metrics] = [event.metrics for event in seen if type(event).__name__ == "Updated"]
        returns.append(metrics["episode_return"])
        losses.append(metrics["value_loss"])
    assert returns[0] == returns[1]
    assert losses[1] < losses[0] / 10  # a value's error is of the size of what it predicts


def test_a_missing_mujoco_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(bitrl.UsageError, match=r"Hopper-v5 cannot be made: .* \(pip install 'bitrl\[mujoco\]'\)$"):
        GymnasiumEnvironment(None, "Hopper-v5").make()


def test_ids_of_another_package_are_not_said_to_lack_mujoco():
    """Gymnasium answers for v2 and v3 by saying where they went."""
    assert not is_mujoco("Hopper-v3")
    assert not is_mujoco("CartPole-v1")
    with pytest.raises(bitrl.UsageError, match=r"Hopper-v3 cannot be made: (?!.*bitrl\[mujoco\])"):
        GymnasiumEnvironment(None, "Hopper-v3").make()


def test_a_cheetah_is_cut_off_and_a_hopper_falls():
    ends = {}
    for env in ("HalfCheetah-v5", "Hopper-v5"):
        made = GymnasiumEnvironment(None, env).make()
        made.reset(seed=0)
        made.action_space.seed(0)
        steps, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            _, _, terminated, truncated, _ = made.step(made.action_space.sample())
            steps += 1
        ends[env] = (steps, terminated, truncated)
    assert ends["HalfCheetah-v5"] == (1000, False, True)
    assert ends["Hopper-v5"][1:] == (True, False)


def test_a_hopper_learns_with_its_own_settings(tmp_path):
    summary = bitrl.run(
        "Hopper-v5", backbone="mlp", steps=12_288, out=tmp_path / "run", options={"run.eval_episodes": 10}
    )
    # A random policy's return is about 20.
    assert summary["eval"]["mean_return"] > 100
